// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/scan.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "support/random.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/engine/engine.h"
#include "volfs/md/array.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::engine;

namespace {

template <class T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().text());
  return std::move(*result);
}
void must(const Status& status) {
  if (!status) FAIL(status.error().text());
}

constexpr uint64_t disk_size = 4 * MiB;

struct New {
  int32_t level = 1;
  std::string name = "0", host = "nas";
  md::SuperblockVersion version = md::SuperblockVersion::v1_2;
  uint32_t minor = 0;
  uint64_t chunk = 64 * KiB;
  bool clean = true;
};

// Disks as files, and arrays made on them or on parts of them.
class Shelf {
 public:
  std::string disk(const std::string& name, uint64_t size = disk_size) {
    const std::string path = folder_.file(name, size);
    fill(path);
    return path;
  }
  std::string path(const std::string& name) const { return folder_.path(name); }

  using Open = std::vector<std::unique_ptr<FileImage>>;
  Open open(const std::vector<std::string>& paths, bool read_only = false, unsigned partition = 0) {
    Open images;
    for (const std::string& path : paths) {
      ImageOptions options;
      options.read_only = read_only;
      options.partition = partition;
      images.push_back(must(FileImage::open(path, path, options)));
    }
    return images;
  }
  static std::vector<BlockDevice*> devices(const Open& images) {
    std::vector<BlockDevice*> list;
    for (const auto& image : images) list.push_back(image.get());
    return list;
  }

  void create_on(const std::vector<BlockDevice*>& members, const New& what) {
    md::CreateOptions o;
    o.level = what.level;
    o.version = what.version;
    o.chunk = what.level == 1 ? 0 : what.chunk;
    o.raid_disks = static_cast<uint32_t>(members.size());
    o.name = what.name;
    o.homehost = what.host;
    o.assume_clean = what.clean;
    o.force = true;
    o.preferred_minor = what.minor;
    o.now = 1'700'000'000 + ++made_;
    o.uuid.bytes.fill(static_cast<uint8_t>(made_));
    for (BlockDevice* member : members) {
      o.devices.push_back({.size = member->size()});
      o.device_uuids.emplace_back().bytes.fill(static_cast<uint8_t>(0x80 + made_));
      o.device_uuids.back().bytes[0] = static_cast<uint8_t>(o.devices.size());
    }
    must(md::write_new_members(must(md::plan_create(o)), members));
  }
  std::vector<std::string> create(const New& what, const std::vector<std::string>& names,
                                  uint64_t size = disk_size) {
    std::vector<std::string> paths;
    for (const std::string& name : names) paths.push_back(disk(name, size));
    create_on(devices(open(paths)), what);
    return paths;
  }

  // Rewrites the superblock of a member.
  template <class Change>
  void change(const std::string& path, Change change) {
    const auto images = open({path});
    auto sb = must(md::scan(*images[0]));
    REQUIRE(sb);
    change(*sb);
    const auto bytes = must(md::encode_superblock(*sb));
    must(images[0]->write(sb->super_offset, bytes));
  }

 private:
  void fill(const std::string& path) {
    std::ofstream out(path, std::ios::binary | std::ios::in);
    std::vector<char> bytes(std::filesystem::file_size(path));
    uint32_t x = static_cast<uint32_t>(std::hash<std::string>()(path)) | 1;
    for (char& c : bytes) c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  test::TempDir folder_;
  unsigned made_ = 0;
};

Scan scan(const std::vector<std::string>& paths, bool force = false) {
  return must(scan_images(paths, {.force = force}));
}

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

const FoundArray& only(const Scan& scan) {
  REQUIRE(scan.arrays.size() == 1);
  return scan.arrays[0];
}

bool has_note(const FoundArray& array, const std::string& note) {
  return std::ranges::find(array.notes, note) != array.notes.end();
}

std::unique_ptr<Engine> assemble(const Scan& scan) {
  AssembleOptions options;
  options.read_only = true;
  auto engine = Engine::assemble(scan.definition, options);
  if (!engine) FAIL(engine.error().to_string());
  return std::move(*engine);
}

// An MBR with one partition.
void put_mbr(const std::string& path, uint32_t first_sector, uint32_t sectors) {
  std::array<unsigned char, 512> mbr{};
  unsigned char* entry = mbr.data() + 446;
  entry[4] = 0xfd;
  for (int i = 0; i < 4; ++i) {
    entry[8 + i] = static_cast<unsigned char>(first_sector >> 8 * i);
    entry[12 + i] = static_cast<unsigned char>(sectors >> 8 * i);
  }
  mbr[510] = 0x55;
  mbr[511] = 0xaa;
  std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
  out.write(reinterpret_cast<char*>(mbr.data()), mbr.size());
}

}  // namespace

TEST_CASE("arrays beside one another are found, in any order, and named as mdadm names them") {
  Shelf shelf;
  const auto a = shelf.create({.level = 5, .name = "0"}, {"a0", "a1", "a2"});
  const auto b = shelf.create({.name = "0", .host = "other"}, {"b0", "b1"});
  const auto c = shelf.create({.level = 0, .name = "media files", .host = ""}, {"c0", "c1"});
  const auto d =
      shelf.create({.version = md::SuperblockVersion::v0_90, .minor = 127}, {"d0", "d1"});
  const Scan found = scan({a[2], b[1], d[0], c[1], a[0], c[0], d[1], b[0], a[1]});
  REQUIRE(found.arrays.size() == 4);
  CHECK(found.remarks.empty());
  std::vector<std::string> names;
  for (const FoundArray& array : found.arrays) {
    CHECK(array.problem.empty());
    names.push_back(array.name);
  }
  CHECK(names == std::vector<std::string>{"md0", "md0-02020202", "md127", "media_files"});
  CHECK(found.arrays[0].md_name == "nas:0");
  CHECK(found.arrays[0].definition.devices[0].device.value == "a0");
  CHECK(found.arrays[0].definition.devices[2].device.value == "a2");
  CHECK(has_note(found.arrays[1], "it is shown as 'md0-02020202', because there is another 'md0'"));
  const auto engine = assemble(found);
  for (const std::string& name : names) CHECK(engine->catalog().find(name));
}

TEST_CASE("members of every superblock version are found, whole and on partitions") {
  using enum md::SuperblockVersion;
  for (const auto version : {v0_90, v1_0, v1_1, v1_2}) {
    CAPTURE(md::version_name(version));
    Shelf shelf;
    shelf.create({.version = version}, {"whole0", "whole1"});
    std::vector<std::string> paths{shelf.path("whole0"), shelf.path("whole1")};
    Shelf::Open parts;
    for (const char* name : {"part0", "part1"}) {
      paths.push_back(shelf.disk(name));
      // Up to the very end, so that a 0.90 superblock is where the whole disk's would be.
      put_mbr(paths.back(), 2048, disk_size / 512 - 2048);
      parts.push_back(std::move(shelf.open({paths.back()}, false, 1)[0]));
    }
    shelf.create_on(Shelf::devices(parts), {.name = "1", .version = version, .minor = 1});
    parts.clear();
    const Scan found = scan(paths);
    REQUIRE(found.arrays.size() == 2);
    CHECK(found.arrays[0].name == "md0");
    CHECK(found.arrays[0].problem == "");
    CHECK(found.arrays[0].members[1].device == "whole1");
    CHECK(found.arrays[1].name == "md1");
    CHECK(found.arrays[1].problem == "");
    CHECK(found.arrays[1].members[0].device == "part0p1");
    CHECK(found.arrays[1].members[1].device == "part1p1");
  }
}

TEST_CASE("a whole disk is a member although a partition table was left on it") {
  Shelf shelf;
  const auto paths = shelf.create({}, {"a", "b"});
  for (const std::string& path : paths) put_mbr(path, 2048, 2048);
  const Scan found = scan(paths);
  CHECK(only(found).problem == "");
  CHECK(only(found).members[0].device == "a");
  REQUIRE(found.remarks.size() == 2);
  CHECK(found.remarks[0] ==
        "a: its partition table is left alone: the whole of it is a member of an array");
}

TEST_CASE("arrays on arrays are found") {
  Shelf shelf;
  const auto paths = shelf.create({.name = "low0"}, {"a", "b"});
  const auto more = shelf.create({.name = "low1"}, {"c", "d"});
  {
    const auto images = shelf.open({paths[0], paths[1], more[0], more[1]});
    const auto devices = Shelf::devices(images);
    auto low0 =
        must(md::Array::assemble(std::span(devices).first(2), {.name = "low0", .read_only = true}));
    auto low1 =
        must(md::Array::assemble(std::span(devices).last(2), {.name = "low1", .read_only = true}));
    // The mirrors cannot be written through here, so each half is.
    md::CreateOptions o;
    o.level = 0;
    o.raid_disks = 2;
    o.devices = {{.size = low0->size()}, {.size = low1->size()}};
    o.name = "top";
    o.uuid.bytes.fill(9);
    o.device_uuids.resize(2);
    o.device_uuids[1].bytes.fill(1);
    o.now = 1;
    const auto plan = must(md::plan_create(o));
    for (const md::CreatedMember& m : plan.members)
      for (size_t half = 0; half < 2; ++half) {
        BlockDevice& disk = *devices[2 * m.device + half];
        const auto below = must(md::scan(disk));
        const auto bytes = must(md::encode_superblock(m.member));
        must(disk.write(below->data_offset + m.member.super_offset, bytes));
      }
  }
  const Scan found = scan({more[1], paths[0], more[0], paths[1]});
  REQUIRE(found.arrays.size() == 3);
  CHECK(found.arrays[2].name == "top");
  CHECK(found.arrays[2].problem == "");
  CHECK(found.arrays[2].members[0].device == "low0");
  CHECK(found.arrays[2].members[1].device == "low1");
  const auto engine = assemble(found);
  CHECK(engine->graph().find("top"));
  // Half of the mirrors is enough for the whole of it.
  const Scan half = scan({more[1], paths[0]});
  REQUIRE(half.arrays.size() == 3);
  CHECK(half.arrays[2].problem == "");
}

TEST_CASE("missing and stale members are told and left out; reading changes no byte") {
  Shelf shelf;
  const auto paths = shelf.create({.level = 5, .clean = false}, {"a", "b", "c"});
  for (size_t i = 0; i < 2; ++i)
    shelf.change(paths[i], [](md::MemberMetadata& sb) {
      sb.array.events += 3;
      sb.array.roles[2] = md::role_faulty;
    });
  std::vector<std::string> before;
  for (const std::string& path : paths) before.push_back(content(path));
  const Scan found = scan(paths);
  const FoundArray& array = only(found);
  CHECK(array.problem == "");
  REQUIRE(array.members.size() == 3);
  CHECK(array.members[0].state == FoundMember::State::in_sync);
  CHECK(array.members[2].state == FoundMember::State::stale);
  CHECK(array.definition.devices[2].missing);
  CHECK(has_note(array, "slot 2 is missing"));
  CHECK(has_note(array, "c, once slot 2, is out of date: it has 0 events, the others have 3"));
  CHECK(has_note(array, "it was not stopped cleanly, or never synced to the end"));
  {
    const auto engine = assemble(found);
    std::vector<std::byte> bytes(64 * KiB);
    Node* node = engine->graph().find("md0");
    REQUIRE(node);
    for (uint64_t at = 0; at < node->device->size(); at += bytes.size())
      must(node->device->read(at, bytes));
    must(engine->close());
  }
  for (size_t i = 0; i < paths.size(); ++i) CHECK(content(paths[i]) == before[i]);
}

TEST_CASE("halves that were written apart are told as that, whatever the order, with force too") {
  for (const uint64_t ahead : {0, 1, 30}) {
    INFO("events ahead ", ahead);
    Shelf shelf;
    const auto paths = shelf.create({}, {"a", "b"});
    for (const size_t i : {0, 1})
      shelf.change(paths[i], [&](md::MemberMetadata& sb) {
        sb.array.events = 20 + (i == 1 ? ahead : 0);
        sb.array.utime.seconds = 1700000000 + (i == 1 ? 12 : 0);
        sb.array.roles[1 - i] = md::role_faulty;
      });
    for (const bool force : {false, true})
      for (const bool backwards : {false, true}) {
        auto given = paths;
        if (backwards) std::ranges::reverse(given);
        const Scan found = scan(given, force);
        const FoundArray& array = only(found);
        CHECK(array.problem == "");
        REQUIRE(array.members.size() == 2);
        CHECK(array.members[0].device == "b");
        CHECK(array.members[0].state == FoundMember::State::in_sync);
        CHECK(array.members[1].state == FoundMember::State::apart);
        CHECK(to_string(array.members[1].state) == "written apart");
        CHECK(array.definition.devices[0].missing);
        CHECK(array.definition.spares.empty());
        CHECK(has_note(
            array,
            "a was written apart from b: each was started without the other, and does not have "
            "what was written to the other since then"));
        CHECK(has_note(
            array,
            fmt::format(
                "the half of b is taken: {}; a is left out and not changed",
                ahead == 0 ? "its event count is the same, 20, and it was updated 12 s later"
                           : fmt::format("its event count is higher, {} and not 20", 20 + ahead))));
        CHECK(has_note(
            array, "to see the other half name only a to volfs mount, which is read-only then"));
        const auto engine = assemble(found);
        CHECK(engine->graph().find("md0"));
      }
    CHECK(only(scan({paths[0]})).problem == "");
  }
}

TEST_CASE("too few members are refused, and what would force them is said") {
  Shelf shelf;
  const auto paths = shelf.create({.level = 5}, {"a", "b", "c"});
  shelf.change(paths[0], [](md::MemberMetadata& sb) { sb.array.events += 9; });
  const Scan found = scan({paths[0], paths[1]});
  const FoundArray& array = only(found);
  CHECK(array.name == "md0");
  CHECK(array.problem.find("force") != std::string::npos);
  CHECK(found.definition.arrays.empty());
  const Scan forced = scan({paths[0], paths[1]}, true);
  CHECK(only(forced).problem == "");
  CHECK(forced.definition.arrays.size() == 1);
  CHECK(
      has_note(only(forced),
               "b, slot 1, is out of date, but is taken and will be changed, for there are too few "
               "others: what is read may be mixed of old and new"));
  CHECK(has_note(only(forced), "slot 2 is missing"));
  CHECK(only(scan({paths[2]})).problem.find("force") == std::string::npos);
}

// Of the last failure Linux tells the others with one event.
TEST_CASE("with force who failed last is taken, not who failed long ago, and both are told") {
  for (const auto version : {md::SuperblockVersion::v1_2, md::SuperblockVersion::v0_90}) {
    Shelf shelf;
    const auto paths = shelf.create({.level = 5, .version = version}, {"a", "b", "c", "d"});
    const auto set = [&](size_t disk, uint64_t events, std::initializer_list<size_t> faulty) {
      shelf.change(paths[disk], [&](md::MemberMetadata& sb) {
        sb.array.events = events;
        for (const size_t each : faulty) sb.array.roles[each] = md::role_faulty;
      });
    };
    set(0, 8, {1, 2});
    set(1, 2, {});
    set(2, 7, {1});
    set(3, 8, {1, 2});
    const Scan found = scan(paths);
    CHECK(
        only(found).problem.ends_with("; force would use c, which failed by the others' "
                                      "superblocks"));
    const Scan forced = scan(paths, true);
    const FoundArray& array = only(forced);
    CHECK(array.problem == "");
    for (const FoundMember& member : array.members) CHECK(member.taken == (member.device == "c"));
    CHECK(has_note(array,
                   "c, slot 2, is faulty, but is taken and will be changed, for there are too few "
                   "others: what is read may be mixed of old and new"));
    CHECK(has_note(array, "b, once slot 1, is out of date: it has 2 events, the others have 8"));
    CHECK(has_note(array, "slot 1 is missing"));
    CHECK(only(scan({paths[0], paths[2], paths[3]}, true)).problem == "");
  }
}

TEST_CASE("an array with a journal is read-only, and its neighbour is written all the same") {
  Shelf shelf;
  auto paths = shelf.create({.level = 5, .name = "0"}, {"a", "b", "c"});
  for (const std::string& path : paths)
    shelf.change(path, [](md::MemberMetadata& sb) { sb.array.has_journal = true; });
  const auto other = shelf.create({.name = "1"}, {"d", "e"});
  paths.insert(paths.end(), other.begin(), other.end());
  const Scan found = scan(paths);
  REQUIRE(found.arrays.size() == 2);
  CHECK(has_note(found.arrays[0],
                 "it has a journal device: what only the journal holds is not shown, and it is "
                 "read-only"));
  AssembleOptions options;
  options.read_only = false;
  auto engine = Engine::assemble(found.definition, options);
  if (!engine) FAIL(engine.error().to_string());
  CHECK((*engine)->graph().find("md0")->device->read_only());
  CHECK(!(*engine)->graph().find("md1")->device->read_only());
}

TEST_CASE("a copy of a member is refused with its reason, other arrays are not") {
  Shelf shelf;
  const auto paths = shelf.create({.level = 5}, {"a", "b", "c"});
  const auto other = shelf.create({.name = "1"}, {"d", "e"});
  const std::string copy = shelf.path("copy");
  std::filesystem::copy_file(paths[1], copy);
  const Scan found = scan({paths[0], paths[1], paths[2], copy, other[0], other[1]});
  REQUIRE(found.arrays.size() == 2);
  CHECK(found.arrays[0].problem.find("b and copy are the same member") != std::string::npos);
  // With force one of them is taken: the fresher one, if they differ.
  const Scan forced = scan({paths[0], paths[1], paths[2], copy}, true);
  CHECK(forced.arrays[0].problem == "");
  CHECK(std::ranges::count(forced.arrays[0].notes,
                           "copy is left out: it is a copy of b, which is taken; which of them was "
                           "written later their superblocks do not tell") == 1);
  CHECK(found.arrays[1].problem == "");
  CHECK(assemble(found)->graph().find("md1"));
}

TEST_CASE("a raid0 of unequal members that records no layout says what to choose") {
  Shelf shelf;
  std::vector<std::string> paths{shelf.disk("a"), shelf.disk("b", 2 * disk_size)};
  shelf.create_on(Shelf::devices(shelf.open(paths)), {.level = 0});
  CHECK(only(scan(paths)).problem == "");
  for (const std::string& path : paths)
    shelf.change(
        path, [](md::MemberMetadata& sb) { sb.array.geometry.layout = md::raid0_layout::unknown; });
  Scan found = scan(paths);
  const std::string problem = only(found).problem;
  CHECK(problem.find("layout") != std::string::npos);
  CHECK(problem.find("original") != std::string::npos);
  CHECK(problem.find("alternate") != std::string::npos);
  for (const uint32_t layout : {md::raid0_layout::original, md::raid0_layout::alternate}) {
    config::Definition definition = found.definition;
    definition.arrays.push_back(only(found).definition);
    definition.arrays[0].layout = {layout, {}};
    definition.build_order.push_back({config::DeviceKind::array, 0});
    AssembleOptions options;
    options.read_only = true;
    auto engine = Engine::assemble(definition, options);
    if (!engine) FAIL(engine.error().to_string());
    CHECK((*engine)->graph().find("md0")->device->size() > 2 * disk_size);
  }
}

TEST_CASE("a definition with the uuid of another array is refused") {
  Shelf shelf;
  Scan found = scan(shelf.create({}, {"a", "b"}));
  found.definition.arrays[0].uuid->value[0] ^= 1;
  AssembleOptions options;
  options.read_only = true;
  const auto engine = Engine::assemble(found.definition, options);
  REQUIRE(!engine);
  CHECK(engine.error().to_string().find("the members of md0 have the uuid 01010101:01010101") !=
        std::string::npos);
}

TEST_CASE("a member that is cut off is left out as by mount, and told with what is missing of it") {
  Shelf shelf;
  const auto paths = shelf.create({.level = 5}, {"a", "b", "c"});
  std::filesystem::resize_file(paths[1], disk_size - 70000);
  const Scan found = scan(paths);
  const FoundArray& array = only(found);
  CHECK(array.problem == "");
  CHECK(array.members.size() == 2);
  CHECK(has_note(array, "slot 1 is missing"));
  CHECK(array.definition.devices[1].missing);
  REQUIRE(found.cut_off.size() == 1);
  const uint64_t wanted = found.cut_off[0].wanted;
  CHECK(wanted == disk_size);
  CHECK(
      std::ranges::count(
          found.remarks,
          fmt::format("b: cut off: its file ends at byte {}, and what is on it was {} bytes large: "
                      "70000 bytes are missing: it is left out of its array; what is left of it is "
                      "used by volfs mount --rescue, or by a definition with `pad: {}` as volfs "
                      "scan --yaml writes it",
                      wanted - 70000, wanted, wanted)) == 1);
  CHECK(found.remarks.size() == 1);
  CHECK(assemble(found)->graph().find("md0"));
  const Scan padded = must(scan_images(paths, {.pad = true}));
  CHECK(only(padded).members.size() == 3);
  CHECK(only(padded).members[1].state == FoundMember::State::in_sync);
  CHECK(padded.remarks.size() == 1);
}

TEST_CASE("a damaged superblock is told with its place, and nothing else is looked for there") {
  Shelf shelf;
  const auto paths = shelf.create({}, {"a", "b"});
  {
    std::fstream file(paths[0], std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(4096 + 72);
    file.put('\x7f');
  }
  const Scan found = scan(paths);
  REQUIRE(found.remarks.size() == 1);
  CHECK(found.remarks[0].starts_with("a: superblock 1.2 at 4096: md superblock: checksum is "));
  CHECK(only(found).problem == "");
  CHECK(has_note(only(found), "slot 0 is missing"));
}
