// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/model.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "golden.h"
#include "volfs/lvm/plan.h"
#include "volfs/sync.h"

using namespace volfs;
using namespace volfs::lvm;

namespace {

const char* const cases[] = {"linear",  "raid", "mirror", "snapshot", "merging", "pvmove",
                             "missing", "ring", "odd",    "exported", "foreign", "unsupported"};

VolumeGroup read(std::string_view text) {
  auto group = read_group(text);
  if (!group) FAIL(group.error().text());
  return std::move(*group);
}

VolumeGroup read_golden(const std::string& name) {
  return read(golden(name));
}

std::string replaced(std::string text, std::string_view what, std::string_view with) {
  const size_t at = text.find(what);
  REQUIRE_MESSAGE(at != text.npos, what);
  return text.replace(at, what.size(), with);
}

const LogicalVolume& lv_of(const VolumeGroup& group, std::string_view name) {
  const auto found = group.find_lv(name);
  REQUIRE(found.has_value());
  return group.lvs[*found];
}

}  // namespace

TEST_CASE("metadata of lvm2 is written again as it was, byte by byte") {
  for (const std::string name : cases) {
    const std::string text = golden(name + ".text");
    CHECK_MESSAGE(write_group(read(text)) == text, name);
  }
}

TEST_CASE("the form of vgcfgbackup is made of the on-disk form") {
  for (const std::string name : cases) {
    if (name == "missing") continue;  // there lvm2 wrote what it knew of the missing PV
    VolumeGroup group = read_golden(name + ".text");
    const VolumeGroup backup = read_golden(name + ".backup");
    group.header = backup.header;
    CHECK_MESSAGE(backup_text(group) == golden(name + ".backup"), name);
  }
}

TEST_CASE("all LVs of lvm2's metadata are sound") {
  for (const std::string name : cases) {
    const VolumeGroup group = read_golden(name + ".text");
    CHECK(group.problems.empty());
    for (const LogicalVolume& lv : group.lvs) CHECK_MESSAGE(lv.problem.empty(), lv.problem);
  }
}

TEST_CASE("the links of all snapshots are those of each volume") {
  size_t links = 0;
  for (const std::string name : cases) {
    const VolumeGroup group = read_golden(name + ".text");
    const SnapshotLinks all(group);
    for (uint32_t lv = 0; lv < group.lvs.size(); lv++) {
      CHECK(all.of_origin[lv] == group.snapshots_of(lv));
      CHECK(all.of_cow[lv] == group.link_of_cow(lv));
      CHECK(group.visible(lv, all) == group.visible(lv));
      CHECK(shape_of(group, lv, all).origin == shape_of(group, lv).origin);
      links += all.of_origin[lv].size();
    }
  }
  CHECK(links > 0);
}

TEST_CASE("what a group says is read") {
  const VolumeGroup group = read_golden("odd.text");
  CHECK(group.name == "odd_vg");
  CHECK(group.extent_size == 1048576);
  CHECK(group.max_lv == 60);
  CHECK(group.max_pv == 8);
  CHECK(group.allocation_policy == "cling");
  CHECK(group.metadata_copies == 2);
  CHECK(group.tags == Words{"site=here"});
  REQUIRE(group.pvs.size() == 3);
  CHECK(group.pvs[1].tags == Words{"slow"});
  CHECK_FALSE(group.pvs[2].allocatable());
  CHECK(group.pvs[0].device_size == 268435456);
  CHECK(group.pvs[0].data_start == 1048576);
  CHECK(group.pvs[0].extent_count == 255);
  CHECK(read_golden("exported.text").exported());
  CHECK(read_golden("foreign.text").system_id == "there.example");
}

TEST_CASE("what is not known survives rewriting") {
  std::string text = golden("linear.text");
  text =
      replaced(text, "max_lv = 0", "max_lv = 0\nnew_value = [1, \"two\"]\nnew_section {\na = 1\n}");
  text = replaced(text, "pe_count = 255\n}", "pe_count = 255\nnew_pv_value = 1.5\n}");
  text = replaced(text, "stripe_count = 1\n\nstripes = [\n\"pv0\", 0\n]",
                  "stripe_count = 1\n\nstripes = [\n\"pv0\", 0\n]\nnew_segment_value = \"x\"");
  text = replaced(text, "segment_count = 2", "segment_count = 2\nnew_lv_value = 3");
  const VolumeGroup group = read(text);
  for (const LogicalVolume& lv : group.lvs) CHECK(lv.problem.empty());
  const std::string written = write_group(group);
  for (std::string_view kept :
       {"new_value = [1, \"two\"]\n", "new_section {\na = 1\n}\n", "new_pv_value = 1.5\n",
        "new_segment_value = \"x\"\n", "new_lv_value = 3\n"})
    CHECK_MESSAGE(written.find(kept) != written.npos, kept);
  CHECK(write_group(read(written)) == written);
}

TEST_CASE("an LV of an unknown segment type or flag is kept and the others work") {
  const std::string text =
      replaced(replaced(golden("linear.text"), "type = \"striped\"", "type = \"quantum\""),
               "type = \"striped\"\nstripe_count = 1\n\nstripes = [\n\"pv1\", 0",
               "type = \"striped+MARVEL\"\nstripe_count = 1\n\nstripes = [\n\"pv1\", 0");
  const VolumeGroup group = read(text);
  CHECK(lv_of(group, "one").segments[0].unsupported == "segment type quantum is not known");
  CHECK(lv_of(group, "two").segments[0].unsupported ==
        "the flag MARVEL of its segment type is not known");
  CHECK(write_group(group) == text);
  std::vector<std::string> devices(group.pvs.size(), "disk");
  const ActivationPlan plan = activation_plan(group, devices);
  for (const PlannedVolume& volume : plan.volumes) {
    const bool affected = volume.name == "one" || volume.name == "two";
    CHECK((volume.state == VolumeState::unavailable) == affected);
  }
}

TEST_CASE("what is wrong with one LV is told and leaves the others alone") {
  struct {
    const char *what, *with, *problem;
  } const damages[] = {
      {"\"pv0\", 0\n", "\"pv0\", 250\n",
       "segment 1: extents 250+15 of pv0 do not exist: it has 255"},
      {"\"pv0\", 0\n", "\"pv9\", 0\n", "there is no PV and no LV 'pv9'"},
      {"\"pv0\", 0\n", "\"one\", 0\n", "it is made of itself"},
      {"extent_count = 15", "extent_count = 0", "segment 1: has no extents"},
      {"start_extent = 0\nextent_count = 15", "start_extent = 1\nextent_count = 15",
       "segment 1: begins at extent 1, where 0 was expected"},
      {"segment_count = 1", "segment_count = 3", "has 1 segments, and segment_count says 3"},
      {"\"pv0\", 0\n", "\"pv0\", 20\n", "both use extent"},
      {"stripe_count = 1", "stripe_count = 0", "'stripe_size' is missing"},
      {"status = [\"READ\", \"WRITE\", \"VISIBLE\"]", "status = [\"READ\", \"NEWFLAG\"]",
       "its status flag NEWFLAG is not known"},
  };
  for (const auto& damage : damages) {
    const VolumeGroup group = read(replaced(golden("linear.text"), damage.what, damage.with));
    const std::string& problem = lv_of(group, "one").problem;
    CHECK_MESSAGE(problem.find(damage.problem) != problem.npos, problem);
    CHECK(lv_of(group, "two").problem.empty());
  }
}

TEST_CASE("a text that describes no group is an error") {
  CHECK(read_group("").error().text() ==
        "not a volume group's text: contents is not "
        "\"Text Format Volume Group\"");
  const std::string text = golden("linear.text");
  CHECK_FALSE(read_group(replaced(text, "version = 1", "version = 2")).has_value());
  CHECK(read_group(replaced(text, "extent_size = 2048", "extent_size = 0")).error().text() ==
        "line 7: extent_size: must not be 0");
  CHECK(read_group(replaced(text, "seqno = 14", "seqno = -1")).error().text() ==
        "line 3: seqno: -1 is not in 0..4294967295");
  CHECK_FALSE(read_group(replaced(text, "physical_volumes", "physical_volume")).has_value());
  CHECK_FALSE(read_group(replaced(text, "vg0 {", "../vg0 {")).has_value());
}

TEST_CASE("LVs that stand on each other in a circle or too deep are refused") {
  std::string lvs;
  constexpr int count = 3000;
  for (int i = 0; i < count; i++)
    lvs += fmt::format(
        "l{} {{ id = \"{:06}-0000-0000-0000-0000-0000-000000\" status = [\"READ\", \"VISIBLE\"]\n"
        "segment_count = 1\nsegment1 {{ start_extent = 0 extent_count = 1 type = \"striped\"\n"
        "stripe_count = 1 stripes = [\"{}\", 0] }} }}\n",
        i, i, i + 1 < count ? fmt::format("l{}", i + 1) : "pv0");
  const std::string head =
      "vg { id = \"aaaaaa-0000-0000-0000-0000-0000-000000\" seqno = 1 status = [\"READ\"]\n"
      "extent_size = 8\nphysical_volumes { pv0 {\n"
      "id = \"bbbbbb-0000-0000-0000-0000-0000-000000\" pe_start = 8 pe_count = 5 } }\n";
  const std::string tail = "}\ncontents = \"Text Format Volume Group\" version = 1\n";
  const VolumeGroup deep = read(head + "logical_volumes {" + lvs + "}" + tail);
  CHECK_FALSE(deep.lvs[0].problem.empty());
  CHECK(deep.lvs[count - 1].problem.empty());
  const VolumeGroup circle =
      read(head + "logical_volumes {" + replaced(lvs, "stripes = [\"pv0\"", "stripes = [\"l0\"") +
           "}" + tail);
  const std::vector<std::string> devices = {"disk"};
  for (const auto* group : {&deep, &circle}) {
    const ActivationPlan plan = activation_plan(*group, devices);
    CHECK(plan.volumes.size() == count);
    CHECK(plan.volumes[0].state == VolumeState::unavailable);
  }
}

TEST_CASE("any byte of a text may be anything: an error or a group, never a crash") {
  const std::string good = golden("pvmove.text");
  std::vector<std::string> devices(3, "disk");
  size_t readable = 0, refused = 0;
  for (size_t i = 0; i < good.size(); i++)
    for (const char replacement : {'\0', '{', '}', '"', '[', ']', '9', '-', '\xff', '#'}) {
      std::string text = good;
      text[i] = replacement;
      if (auto group = read_group(text)) {
        readable++;
        activation_plan(*group, devices);
        write_group(*group);
      } else {
        refused++;
        CHECK_FALSE(group.error().text().empty());
      }
    }
  CHECK(readable > 1000);
  CHECK(refused > 1000);
}

TEST_CASE("names follow lvm2's rules") {
  CHECK(check_group_name("vg-0.a_b+c").has_value());
  for (const char* name : {"", "-a", ".", "..", "a b", "a/b", "\xc3\xa4"})
    CHECK_FALSE(check_group_name(name).has_value());
  CHECK_FALSE(check_group_name(std::string(128, 'a')).has_value());
  CHECK(check_volume_name("root").has_value());
  for (const char* name : {"snapshot1", "pvmove0", "a_mlog", "a_rimage_0", "x_tdata"})
    CHECK_FALSE(check_volume_name(name).has_value());
  CHECK(dm_name("vg-0", "my-lv") == "vg--0-my--lv");
  CHECK(dm_name("vg", "lv", "real") == "vg-lv-real");
  CHECK(dm_name("vg", "lv", "_mlog") == "vg-lv_mlog");
}

TEST_CASE("ids have 32 characters and their dashes") {
  const auto id = Id::parse("n24XRv-vOAE-iWuU-c8Gv-kzbW-JTDb-dR92jm");
  REQUIRE(id.has_value());
  CHECK(id->plain() == "n24XRvvOAEiWuUc8GvkzbWJTDbdR92jm");
  CHECK(id->dashed() == "n24XRv-vOAE-iWuU-c8Gv-kzbW-JTDb-dR92jm");
  CHECK_FALSE(Id::parse("n24XRv-vOAE").has_value());
  CHECK_FALSE(Id::parse(std::string(1000, 'a')).has_value());
  CHECK_FALSE(Id::parse("n24XRv-vOAE-iWuU-c8Gv-kzbW-JTDb-dR92j*").has_value());
  IdSource first = seeded_ids("x"), again = seeded_ids("x");
  const Id one = first();
  CHECK(one == again());
  CHECK(one != first());
  CHECK(Id::from_disk(one.plain()).value() == one);
}

TEST_CASE("a group of very many LVs and segments is read and planned") {
  // 10,000 LVs of 5 segments with VOLFS_ITERATIONS=10000; how long it took is printed, not judged.
  const char* wanted = std::getenv("VOLFS_ITERATIONS");
  const uint32_t count = wanted != nullptr ? static_cast<uint32_t>(std::atoi(wanted)) : 2000;
  VolumeGroup group = read_golden("linear.text");
  const LogicalVolume pattern = lv_of(group, "one");
  group.lvs.clear();
  for (PhysicalVolume& pv : group.pvs) pv.extent_count = count * 5;
  IdSource ids = seeded_ids("many");
  for (uint32_t i = 0; i < count; i++) {
    LogicalVolume lv = pattern;
    lv.name = fmt::format("lv{}", i);
    lv.id = ids();
    lv.segments.assign(5, pattern.segments[0]);
    for (uint32_t s = 0; s < 5; s++) {
      lv.segments[s].start = s;
      lv.segments[s].count = 1;
      lv.segments[s].areas = {{Area::Kind::pv, s, (i * 7919 + s) % (count * 5)}};
    }
    group.lvs.push_back(std::move(lv));
  }
  const std::string text = write_group(group);
  const TimePoint start = now();
  const VolumeGroup again = read(text);
  std::vector<std::string> devices(again.pvs.size(), "disk");
  const ActivationPlan plan = activation_plan(again, devices);
  MESSAGE(count << " LVs, " << text.size() << " bytes: "
                << std::chrono::duration_cast<std::chrono::milliseconds>(now() - start).count()
                << " ms");
  CHECK(plan.devices.size() == count);
  CHECK(write_group(again) == text);
}
