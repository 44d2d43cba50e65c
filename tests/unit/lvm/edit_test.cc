// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/edit.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>

#include "golden.h"
#include "lvm/disk_format.h"
#include "support/crash_device.h"
#include "support/memory_device.h"
#include "volfs/lvm/plan.h"

using namespace volfs;
using namespace volfs::lvm;
using volfs::test::CrashDevice;
using volfs::test::CrashKeep;
using volfs::test::CrashLog;
using volfs::test::MemoryDevice;

namespace {

constexpr uint64_t disk_size = 64 * MiB;
const Provenance when{1795670542, "host", "a test"};

template <class T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().text());
  return std::move(*result);
}
void must(Status status) {
  if (!status) FAIL(status.error().text());
}

SizeRequest extents(uint32_t count) {
  return {SizeRequest::Of::extents, count};
}

// A group on disks in memory.
struct Lab {
  explicit Lab(unsigned disks, uint64_t metadata_size = 1020 * KiB, unsigned copies = 1,
               uint64_t alignment = MiB) {
    std::vector<PvInfo> pvs;
    for (unsigned i = 0; i < disks; i++) {
      devices.push_back(std::make_unique<MemoryDevice>(fmt::format("disk{}", i), disk_size));
      PvParameters parameters;
      parameters.device = devices.back()->name();
      parameters.device_size = disk_size;
      parameters.id = ids();
      parameters.metadata_size = metadata_size;
      parameters.metadata_copies = copies;
      parameters.data_alignment = alignment;
      pvs.push_back(must(make_pv(parameters)));
    }
    GroupParameters parameters;
    parameters.name = "vg";
    parameters.id = ids();
    parameters.extent_size = MiB;
    group = must(make_group(parameters, pvs));
    for (size_t i = 0; i < pvs.size(); i++) must(carry_out(must(plan_pv(pvs[i], i)), device_of()));
    commit();
  }

  DeviceOf device_of() {
    return [this](size_t i) -> BlockDevice& { return *devices[i]; };
  }
  std::vector<PvInfo> scanned() {
    std::vector<PvInfo> out;
    for (auto& device : devices) out.push_back(must(scan(*device)).value());
    return out;
  }
  WritePlan planned(VolumeGroup& of) {
    const std::vector<PvInfo> pvs = scanned();
    std::vector<const PvInfo*> pointers;
    for (const PvInfo& pv : pvs) pointers.push_back(&pv);
    return must(plan_commit(of, pointers, when));
  }
  void commit() { must(carry_out(planned(group), device_of())); }
  FoundGroup assembled() {
    Assembly assembly = assemble(scanned());
    REQUIRE(assembly.groups.size() == 1);
    return std::move(assembly.groups[0]);
  }
  uint32_t create(VolumeParameters parameters) {
    return must(create_volume(group, parameters, ids, when));
  }
  uint32_t linear(const std::string& name, uint32_t count) {
    VolumeParameters parameters;
    parameters.name = name;
    parameters.size = extents(count);
    return create(parameters);
  }
  ActivationPlan activation() {
    std::vector<std::string> names;
    for (auto& device : devices) names.push_back(device->name());
    return activation_plan(group, names);
  }

  IdSource ids = seeded_ids("lab");
  std::vector<std::unique_ptr<MemoryDevice>> devices;
  VolumeGroup group;
};

std::string table_of(const ActivationPlan& plan, std::string_view device) {
  auto found = std::ranges::find(plan.devices, device, &PlannedDevice::name);
  REQUIRE_MESSAGE(found != plan.devices.end(), device);
  std::string out;
  for (const TableRow& row : found->table) out += (out.empty() ? "" : "; ") + to_string(row);
  return out;
}

// The PVs each image of a raid is on.
std::vector<std::set<uint32_t>> legs_of(const VolumeGroup& group, uint32_t lv) {
  std::vector<std::set<uint32_t>> out;
  const Segment& raid = group.lvs[lv].segments[0];
  for (size_t i = 0; i < raid.areas.size(); i++) {
    auto& pvs = out.emplace_back();
    std::vector<uint32_t> parts = {raid.areas[i].index};
    if (i < raid.metadata_areas.size()) parts.push_back(raid.metadata_areas[i].index);
    for (uint32_t part : parts)
      for (const Segment& segment : group.lvs[part].segments) pvs.insert(segment.areas[0].index);
  }
  return out;
}

}  // namespace

TEST_CASE("a new PV is laid out as lvm2 lays it out") {
  const auto group = must(read_group(golden("odd.text")));
  PvParameters parameters;
  parameters.device = "/dev/ubda";
  parameters.device_size = 256 * MiB;
  parameters.id = group.pvs[0].id;
  std::vector<PvInfo> pvs = {must(make_pv(parameters))};
  CHECK(pvs[0].areas[0].where == DiskArea{4 * KiB, 1020 * KiB});
  GroupParameters wanted;
  wanted.name = "x";
  wanted.extent_size = MiB;
  const VolumeGroup made = must(make_group(wanted, pvs));
  CHECK(made.pvs[0].data_start == group.pvs[0].data_start);
  CHECK(made.pvs[0].extent_count == group.pvs[0].extent_count);
  CHECK(made.pvs[0].device_size == group.pvs[0].device_size);
  CHECK(pvs[0].label.in_use());
  // The recorded label begins at byte 512.
  const Sector label = must(encode_label(pvs[0].label));
  std::string hex;
  for (size_t i = 0; i < 64; i++) hex += fmt::format("{:02x}", static_cast<unsigned>(label[i]));
  CHECK(golden("odd.0.bytes").starts_with("512 " + hex + "\n"));
}

TEST_CASE("a PV that does not fit or an odd wish is refused") {
  PvParameters parameters;
  parameters.device = "disk";
  parameters.device_size = MiB;
  CHECK(make_pv(parameters).error().code() == ENOSPC);
  parameters.device_size = 64 * MiB;
  parameters.metadata_copies = 3;
  CHECK_FALSE(make_pv(parameters).has_value());
  parameters.metadata_copies = 2;
  const PvInfo two = must(make_pv(parameters));
  REQUIRE(two.areas.size() == 2);
  CHECK(two.areas[1].where == DiskArea{63 * MiB, MiB});
  parameters.metadata_size = 4096;
  CHECK_FALSE(make_pv(parameters).has_value());
}

TEST_CASE("what was committed is found again, whatever the ring does") {
  // Small areas, so that the ring wraps again and again.
  Lab lab(3, 32 * KiB, 2, 4 * KiB);
  for (unsigned i = 0; i < 60; i++) {
    if (i % 5 == 4)
      must(remove_volume(lab.group, *lab.group.find_lv(fmt::format("lv{}", i - 1))));
    else
      lab.linear(fmt::format("lv{}", i), 1);
    lab.commit();
    const FoundGroup found = lab.assembled();
    REQUIRE(found.warnings.empty());
    REQUIRE(found.group.seqno == i + 2);
    REQUIRE(write_group(found.group) == write_group(lab.group));
    if (i >= 40) must(remove_volume(lab.group, 0));
  }
  for (const PvInfo& pv : lab.scanned())
    for (size_t i = 0; i < pv.areas.size(); i++) {
      const auto copies = must(list_copies(*lab.devices[0], lab.scanned()[0].areas[i]));
      CHECK(copies.size() > 1);
      CHECK(copies.back().committed);
    }
}

TEST_CASE("after a power cut between any two writes the old or the new group is found") {
  Lab lab(2, 32 * KiB, 2, 4 * KiB);
  for (unsigned i = 0; i < 12; i++) {
    lab.linear(fmt::format("lv{}", i), 1);
    const std::string before = write_group(lab.assembled().group);
    CrashLog log;
    std::vector<std::unique_ptr<CrashDevice>> disks;
    for (auto& device : lab.devices)
      disks.push_back(std::make_unique<CrashDevice>(log, device->name(), *device));
    const WritePlan plan = lab.planned(lab.group);
    must(carry_out(plan, [&](size_t pv) -> BlockDevice& { return *disks[pv]; }));
    const std::string after = write_group(lab.group);
    for (size_t point = 0; point <= log.size(); point++)
      for (uint64_t seed = 0; seed < 4; seed++) {
        const CrashKeep keep = seed == 0   ? CrashKeep::all()
                               : seed == 1 ? CrashKeep::none()
                                           : CrashKeep::some(seed * 1000 + point);
        std::vector<PvInfo> pvs;
        for (auto& disk : disks) {
          MemoryDevice left(disk->name(), disk_size);
          log.materialise(*disk, point, keep, left);
          pvs.push_back(must(scan(left)).value());
        }
        const Assembly assembly = assemble(pvs);
        REQUIRE(assembly.groups.size() == 1);
        const std::string found = write_group(assembly.groups[0].group);
        REQUIRE((found == before || found == after));
        if (point == log.size()) REQUIRE(found == after);
      }
    must(carry_out(plan, lab.device_of()));
  }
}

TEST_CASE("a change by another is seen and nothing is written over it") {
  Lab lab(2);
  VolumeGroup mine = lab.group;
  lab.linear("theirs", 1);
  lab.commit();
  VolumeParameters parameters;
  parameters.name = "mine";
  parameters.size = extents(1);
  must(create_volume(mine, parameters, lab.ids, when));
  const std::vector<PvInfo> pvs = lab.scanned();
  const std::vector<const PvInfo*> pointers = {&pvs[0], &pvs[1]};
  CHECK(plan_commit(mine, pointers, when).error().code() == ESTALE);
  mine.seqno = 9;  // what nobody wrote
  CHECK(plan_commit(mine, pointers, when).error().code() == ESTALE);
  CHECK(mine.seqno == 9);
}

TEST_CASE("a group with something missing, unknown or too long is not written") {
  Lab lab(2);
  const std::vector<PvInfo> pvs = lab.scanned();
  const std::vector<const PvInfo*> missing = {&pvs[0], nullptr};
  CHECK(plan_commit(lab.group, missing, when).error().text().find("is missing") !=
        std::string::npos);
  const std::vector<const PvInfo*> all = {&pvs[0], &pvs[1]};
  VolumeGroup other = lab.group;
  other.id = lab.ids();
  CHECK(plan_commit(other, all, when).error().text().find("holds another volume group") !=
        std::string::npos);
  Lab small(1, 32 * KiB, 1, 4 * KiB);
  Status status;
  for (unsigned i = 0; status && i < 60; i++) {
    small.linear(fmt::format("lv{}", i), 1);
    const std::vector<PvInfo> fresh = small.scanned();
    const std::vector<const PvInfo*> one = {&fresh[0]};
    auto plan = plan_commit(small.group, one, when);
    status = plan ? carry_out(*plan, small.device_of()) : fail(std::move(plan.error()));
  }
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().code() == ENOSPC);
}

TEST_CASE("the same ids, time and wishes give the same bytes") {
  Lab one(3), other(3);
  for (Lab* lab : {&one, &other}) {
    lab->linear("a", 5);
    VolumeParameters raid;
    raid.name = "r";
    raid.type = "raid5";
    raid.size = extents(4);
    lab->create(raid);
    lab->commit();
  }
  for (size_t i = 0; i < 3; i++) CHECK(one.devices[i]->same_contents(*other.devices[i]));
}

TEST_CASE("linear volumes take extents in order and grow in place") {
  Lab lab(2);
  const uint32_t a = lab.linear("a", 10);
  lab.linear("b", 5);
  must(extend_volume(lab.group, *lab.group.find_lv("b"), 8));
  must(extend_volume(lab.group, a, 12));
  const ActivationPlan plan = lab.activation();
  CHECK(table_of(plan, "vg-a") == "0 20480 linear disk0 2048; 20480 4096 linear disk0 38912");
  CHECK(table_of(plan, "vg-b") == "0 16384 linear disk0 22528");
  // More than one PV has.
  lab.linear("c", 80);
  CHECK(lab.group.lvs[*lab.group.find_lv("c")].segments.size() == 2);
  VolumeParameters parameters;
  parameters.name = "d";
  parameters.size = extents(1000);
  const auto refused = create_volume(lab.group, parameters, lab.ids, when);
  CHECK(refused.error().code() == ENOSPC);
  CHECK(refused.error().text().starts_with("vg/d: not enough free extents"));
  CHECK_FALSE(lab.group.find_lv("d").has_value());
}

TEST_CASE("contiguous volumes are in one piece and on the PVs asked for") {
  Lab lab(2);
  VolumeParameters parameters;
  parameters.name = "a";
  parameters.size = extents(60);
  parameters.allocation = AllocationPolicy::contiguous;
  parameters.pvs = {1};
  const uint32_t a = lab.create(parameters);
  CHECK(lab.group.lvs[a].segments.size() == 1);
  CHECK(lab.group.lvs[a].segments[0].areas[0].index == 1);
  CHECK(extend_volume(lab.group, a, 64, AllocationPolicy::contiguous).error().code() == ENOSPC);
  must(extend_volume(lab.group, a, 63, AllocationPolicy::contiguous));
  parameters.name = "b";
  parameters.pvs = {};
  parameters.size = extents(64);
  CHECK_FALSE(create_volume(lab.group, parameters, lab.ids, when).has_value());
}

TEST_CASE("stripes are on distinct PVs, and sizes are whole stripes") {
  Lab lab(3);
  VolumeParameters parameters;
  parameters.name = "s";
  parameters.type = "striped";
  parameters.stripes = 3;
  parameters.size = extents(10);
  const uint32_t s = lab.create(parameters);
  CHECK(lab.group.lvs[s].extents() == 12);
  CHECK(table_of(lab.activation(), "vg-s") ==
        "0 24576 striped 3 128 disk0 2048 disk1 2048 disk2 2048");
  must(extend_volume(lab.group, s, 18));
  CHECK(lab.group.lvs[s].segments.size() == 1);
  CHECK_FALSE(reduce_volume(lab.group, s, 10).has_value());
  must(reduce_volume(lab.group, s, 9));
  CHECK(lab.group.lvs[s].extents() == 9);
  parameters.name = "t";
  parameters.stripes = 4;
  CHECK(create_volume(lab.group, parameters, lab.ids, when).error().code() == ENOSPC);
}

TEST_CASE("every raid type has its images on distinct PVs, with their metadata") {
  Lab lab(6);
  const struct {
    const char* type;
    unsigned stripes, images;
  } kinds[] = {{"raid0", 3, 3},    {"raid0_meta", 2, 2}, {"raid1", 0, 2},    {"raid4", 2, 3},
               {"raid5", 3, 4},    {"raid5_n", 2, 3},    {"raid5_ra", 2, 3}, {"raid6", 3, 5},
               {"raid6_nc", 3, 5}, {"raid10", 2, 4}};
  for (const auto& kind : kinds) {
    CAPTURE(kind.type);
    VolumeParameters parameters;
    parameters.name = kind.type;
    parameters.name += ".x";
    parameters.type = kind.type;
    parameters.stripes = kind.stripes;
    parameters.size = extents(3);
    const uint32_t lv = lab.create(parameters);
    const auto legs = legs_of(lab.group, lv);
    CHECK(legs.size() == kind.images);
    std::set<uint32_t> all;
    size_t sum = 0;
    for (const auto& leg : legs) {
      all.insert(leg.begin(), leg.end());
      sum += leg.size();
    }
    CHECK(all.size() == sum);
    const uint32_t before = lab.group.lvs[lv].extents();
    must(extend_volume(lab.group, lv, before * 2));
    for (const auto& leg : legs_of(lab.group, lv)) CHECK(leg.size() == 1);
    must(reduce_volume(lab.group, lv, before));
    lab.commit();
    CHECK(write_group(lab.assembled().group) == write_group(lab.group));
    must(remove_volume(lab.group, lv));
    CHECK(lab.group.lvs.empty());
    CHECK(free_extents(lab.group) == 6 * 63);
  }
  CHECK(table_of(
            [&] {
              VolumeParameters raid;
              raid.name = "r";
              raid.type = "raid1";
              raid.mirrors = 2;
              raid.size = extents(4);
              lab.create(raid);
              return lab.activation();
            }(),
            "vg-r") ==
        "0 8192 raid raid1 3 0 region_size 4096 3 vg-r_rmeta_0 vg-r_rimage_0 vg-r_rmeta_1 "
        "vg-r_rimage_1 vg-r_rmeta_2 vg-r_rimage_2");
}

TEST_CASE("sizes and stripes that no group can give are refused") {
  Lab lab(5);
  for (const char* type : {"linear", "striped", "raid1", "raid5", "raid6", "raid10"})
    for (const uint32_t count : {100000u, UINT32_MAX - 1, UINT32_MAX}) {
      INFO(type, " ", count);
      VolumeParameters wanted;
      wanted.name = "big";
      wanted.type = type;
      wanted.size = extents(count);
      const auto made = create_volume(lab.group, wanted, lab.ids, when);
      REQUIRE(!made);
      CHECK(made.error().code() == ENOSPC);
    }
  VolumeParameters wanted;
  wanted.name = "narrow";
  wanted.type = "raid10";
  wanted.stripes = 1;
  wanted.size = extents(1);
  const auto made = create_volume(lab.group, wanted, lab.ids, when);
  REQUIRE(!made);
  CHECK(made.error().text().find("needs 2 stripes") != std::string::npos);
}

TEST_CASE("shares of the free space and of the group fit") {
  for (const char* type : {"linear", "striped", "raid1", "raid5", "raid6", "raid10"}) {
    CAPTURE(type);
    Lab lab(6);
    VolumeParameters parameters;
    parameters.name = "all";
    parameters.type = type;
    parameters.size = must(parse_size_request("100%FREE"));
    const uint32_t lv = lab.create(parameters);
    CHECK(lab.group.lvs[lv].extents() > 60);
    const bool simple = std::string_view(type) == "linear" || std::string_view(type) == "striped";
    if (simple) CHECK(free_extents(lab.group) == 0);
  }
  Lab lab(2);
  CHECK(must(extents_of(lab.group, must(parse_size_request("50%VG")))) == 63);
  CHECK(must(extents_of(lab.group, must(parse_size_request("1")))) == 1);
  CHECK(must(extents_of(lab.group, must(parse_size_request("5MiB")))) == 5);
  for (const char* bad : {"100%", "x%FREE", "5%PV", "-1", "", "99999999%FREE"})
    CHECK_FALSE(parse_size_request(bad).has_value());
  CHECK_FALSE(parse_size_request("101%FREE").has_value());
  CHECK_FALSE(extents_of(lab.group, must(parse_size_request("0%FREE"))).has_value());
}

TEST_CASE("snapshots are made, merged, renamed and removed with their links") {
  Lab lab(2);
  lab.linear("root", 10);
  SnapshotParameters parameters;
  parameters.name = "snap";
  parameters.origin = "root";
  parameters.size = must(parse_size_request("50%ORIGIN"));
  uint32_t snap = must(create_snapshot(lab.group, parameters, lab.ids, when));
  CHECK(lab.group.visible(snap));
  CHECK(lab.group.lvs[snap].extents() == 5);
  CHECK(table_of(lab.activation(), "vg-snap") == "0 20480 snapshot vg-root-real vg-snap-cow P 8");
  CHECK(table_of(lab.activation(), "vg-root") == "0 20480 snapshot-origin vg-root-real");
  parameters.name = "snap2";
  must(create_snapshot(lab.group, parameters, lab.ids, when));
  parameters.origin = "snap";
  parameters.name = "snapsnap";
  CHECK_FALSE(create_snapshot(lab.group, parameters, lab.ids, when).has_value());
  const uint32_t root = *lab.group.find_lv("root");
  CHECK(remove_volume(lab.group, root).error().code() == EBUSY);
  CHECK(reduce_volume(lab.group, root, 5).error().code() == EBUSY);
  must(rename_volume(lab.group, snap, "before"));
  must(rename_volume(lab.group, root, "sys"));
  must(start_merge(lab.group, snap));
  CHECK(table_of(lab.activation(), "vg-sys") ==
        "0 20480 snapshot-merge vg-sys-real vg-before-cow P 8");
  CHECK(start_merge(lab.group, *lab.group.find_lv("snap2")).error().code() == EBUSY);
  lab.commit();
  CHECK(write_group(lab.assembled().group) == write_group(lab.group));
  must(finish_merge(lab.group, snap));
  CHECK_FALSE(lab.group.find_lv("before").has_value());
  CHECK(lab.group.find_lv("snap2").has_value());
  must(remove_volume(lab.group, *lab.group.find_lv("sys"), true));
  CHECK(lab.group.lvs.empty());
}

TEST_CASE("a snapshot is merged into an origin that has grown, over all of it") {
  Lab lab(2);
  const uint32_t root = lab.linear("root", 5);
  SnapshotParameters parameters;
  parameters.name = "snap";
  parameters.origin = "root";
  parameters.size = must(parse_size_request("3"));
  const uint32_t snap = must(create_snapshot(lab.group, parameters, lab.ids, when));
  must(extend_volume(lab.group, root, 7));
  CHECK(table_of(lab.activation(), "vg-snap") == "0 10240 snapshot vg-root-real vg-snap-cow P 8");
  must(start_merge(lab.group, snap));
  CHECK(table_of(lab.activation(), "vg-root") ==
        "0 14336 snapshot-merge vg-root-real vg-snap-cow P 8");
}

TEST_CASE("renaming takes the inner LVs along") {
  Lab lab(3);
  VolumeParameters parameters;
  parameters.name = "old";
  parameters.type = "raid1";
  parameters.size = extents(2);
  const uint32_t lv = lab.create(parameters);
  must(rename_volume(lab.group, lv, "new"));
  CHECK(lab.group.find_lv("new_rimage_1").has_value());
  CHECK(lab.group.find_lv("new_rmeta_0").has_value());
  lab.linear("other", 1);
  CHECK(rename_volume(lab.group, lv, "other").error().code() == EEXIST);
  CHECK_FALSE(rename_volume(lab.group, lv, "x_rimage_0").has_value());
  CHECK_FALSE(remove_volume(lab.group, *lab.group.find_lv("new_rmeta_0")).has_value());
}

TEST_CASE("permissions and tags follow lvm2") {
  Lab lab(1);
  const uint32_t lv = lab.linear("a", 1);
  must(set_writable(lab.group, lv, false));
  CHECK(lab.group.lvs[lv].status == Words{"READ", "VISIBLE"});
  must(set_writable(lab.group, lv, true));
  CHECK(lab.group.lvs[lv].status == Words{"READ", "WRITE", "VISIBLE"});
  Words tags;
  must(add_tag(tags, "a=b/c"));
  must(add_tag(tags, "a=b/c"));
  CHECK(tags.size() == 1);
  for (const char* bad : {"", "-x", "a b", "@"}) CHECK_FALSE(add_tag(tags, bad).has_value());
}

TEST_CASE("what a new volume needs zeroed is told") {
  Lab lab(3);
  VolumeParameters parameters;
  parameters.name = "r";
  parameters.type = "raid1";
  parameters.size = extents(2);
  const auto raid = ranges_to_zero(lab.group, lab.create(parameters));
  REQUIRE(raid.size() == 4);
  CHECK(raid[0].offset == MiB);
  CHECK(raid[0].length == MiB);
  CHECK(raid[2].offset == 2 * MiB);
  CHECK(raid[2].length == 4 * KiB);
  const auto plain = ranges_to_zero(lab.group, lab.linear("l", 3));
  REQUIRE(plain.size() == 1);
  CHECK(plain[0].length == 4 * KiB);
}

TEST_CASE("groups of lvm2 with kinds that are not worked with can be changed beside them") {
  auto group = must(read_group(golden("unsupported.text")));
  const std::string before = write_group(group);
  CHECK_FALSE(remove_volume(group, *group.find_lv("thin")).has_value());
  CHECK_FALSE(rename_volume(group, *group.find_lv("pool"), "x").has_value());
  CHECK_FALSE(extend_volume(group, *group.find_lv("slow"), 1000).has_value());
  CHECK(write_group(group) == before);
  must(remove_volume(group, *group.find_lv("plain")));
  const auto again = must(read_group(write_group(group)));
  CHECK(again.find_lv("thin").has_value());
  for (const LogicalVolume& lv : again.lvs) CHECK(lv.problem.empty());
}

TEST_CASE("a group being moved is left alone") {
  auto group = must(read_group(golden("pvmove.text")));
  CHECK(remove_volume(group, *group.find_lv("big")).error().code() == EBUSY);
  must(remove_volume(group, *group.find_lv("str")));
}
