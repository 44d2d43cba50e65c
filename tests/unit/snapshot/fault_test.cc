// SPDX-License-Identifier: GPL-2.0-or-later
// Snapshots that fill up, disks that fail, and what tables and status say.
#include "support/fault_device.h"

#include <memory>
#include <string>
#include <vector>

#include "support/random.h"
#include "world.h"

using namespace volfs;
using namespace volfs::test;

namespace {

constexpr uint64_t size = 256 * KiB;
constexpr uint64_t chunk = 4 * KiB;

std::vector<std::byte> pattern(uint64_t length, int value) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

// An origin full of ones with a device of faults over it, and a copy-on-write device likewise.
struct Scene {
  explicit Scene(uint64_t cow_size = 1 * MiB) : cow_disk("cow", cow_size) {
    base_disk.poke(0, pattern(size, 1));
    world.add(cow);
  }
  void take(std::string_view kind = "P") {
    REQUIRE(world.set_origin(origin) == "");
    REQUIRE(world.take(origin, snap, "cow", kind, chunk) == "");
  }
  Status write(BlockDevice& device, uint64_t offset, uint64_t length, int value) {
    return device.write(offset, pattern(length, value));
  }
  // The value that all bytes of the range have, or -1.
  int value(BlockDevice& device, uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length);
    REQUIRE(device.read(offset, bytes).has_value());
    for (const std::byte byte : bytes)
      if (byte != bytes[0]) return -1;
    return std::to_integer<int>(bytes[0]);
  }
  int read_error(BlockDevice& device, uint64_t offset) {
    std::vector<std::byte> bytes(512);
    const Status status = device.read(offset, bytes);
    return status ? 0 : status.error().code();
  }

  MemoryDevice base_disk{"base", size};
  MemoryDevice cow_disk;
  FaultDevice base{base_disk}, cow{cow_disk};
  World world{base};
  dm::MappedDevice origin{"origin"}, snap{"snap"};
};

}  // namespace

TEST_CASE("table and status are those of dmsetup") {
  Scene scene;
  scene.take();
  CHECK(scene.origin.table() == "0 512 snapshot-origin base\n");
  CHECK(scene.origin.status() == "0 512 snapshot-origin \n");
  CHECK(scene.snap.table() == "0 512 snapshot base cow P 8\n");
  CHECK(scene.snap.status() == "0 512 snapshot 16/2048 16\n");
  REQUIRE(scene.write(scene.origin, 0, 3 * chunk, 2).has_value());
  CHECK(scene.snap.status() == "0 512 snapshot 40/2048 16\n");
  MemoryDevice other("other", 64 * KiB);
  scene.world.add(other);
  dm::MappedDevice second("second");
  REQUIRE(scene.world.set(second, "snapshot",
                          "base other n 16 2 DISCARD_ZEROES_COW discard_passdown_origin") == "");
  CHECK(second.table() ==
        "0 512 snapshot base other N 16 2 discard_zeroes_cow discard_passdown_origin\n");
  CHECK(second.status() == "0 512 snapshot 0/128 0\n");
}

TEST_CASE("arguments of snapshots are refused with what was expected") {
  Scene scene;
  dm::MappedDevice map("map");
  const auto error = [&](std::string_view type, std::string_view args) {
    return scene.world.set(map, type, args);
  };
  CHECK(error("snapshot", "base cow P").find("3 arguments") != std::string::npos);
  CHECK(error("snapshot", "base cow X 8").find("store \"X\": expected P, PO or N") !=
        std::string::npos);
  CHECK(error("snapshot", "base cow P 9").find("a power of two") != std::string::npos);
  CHECK(error("snapshot", "base cow P eight").find("chunk sectors \"eight\"") != std::string::npos);
  CHECK(error("snapshot", "base base P 8").find("cannot be the origin") != std::string::npos);
  CHECK(error("snapshot", "base nowhere P 8").find("\"nowhere\"") != std::string::npos);
  CHECK(error("snapshot", "base cow P 8 1 shiny").find("feature \"shiny\"") != std::string::npos);
  CHECK(error("snapshot", "base cow P 8 2 discard_zeroes_cow").find("number of features") !=
        std::string::npos);
  CHECK(error("snapshot", "base cow P 8 1 discard_passdown_origin").find("discard_zeroes_cow") !=
        std::string::npos);
  CHECK(error("snapshot-merge", "base cow N 8").find("transient") != std::string::npos);
  CHECK(error("snapshot-origin", "base cow").find("2 arguments") != std::string::npos);
  CHECK(scene.cow_disk.pages() == 0);
  // To be read only, what a store would be made on is one without anything in it.
  CHECK(scene.world.set(map, "snapshot", "base cow P 8", true) == "");
  CHECK(test::status_of(map) == "16/" + std::to_string(scene.cow.size() / 512) + " 16");
  CHECK(scene.value(map, 0, size) == 1);
  CHECK(scene.cow_disk.pages() == 0);
}

TEST_CASE("a snapshot that an origin write fills becomes invalid, and the origin goes on") {
  Scene scene(6 * chunk);
  scene.take("PO");
  MemoryDevice roomy("roomy", 1 * MiB);
  scene.world.add(roomy);
  dm::MappedDevice other("other");
  REQUIRE(scene.world.take(scene.origin, other, "roomy", "P", chunk) == "");
  const uint32_t events = scene.snap.info().event_nr;
  REQUIRE(scene.write(scene.origin, 0, 4 * chunk, 2).has_value());
  CHECK(test::status_of(scene.snap) == "48/48 16");
  CHECK(scene.value(scene.snap, 0, 4 * chunk) == 1);
  REQUIRE(scene.write(scene.origin, 4 * chunk, chunk, 3).has_value());
  CHECK(test::status_of(scene.snap) == "Invalid");
  CHECK(scene.snap.info().event_nr == events + 1);
  CHECK(scene.read_error(scene.snap, 0) == EIO);
  CHECK_FALSE(scene.write(scene.snap, 0, 512, 4).has_value());
  CHECK(scene.value(scene.origin, 4 * chunk, chunk) == 3);
  CHECK(scene.value(other, 0, size) == 1);
  // And stays so.
  World second(scene.base);
  second.add(scene.cow);
  dm::MappedDevice again("again");
  REQUIRE(second.set(again, "snapshot", "base cow P 8") == "");
  CHECK(test::status_of(again) == "Invalid");
}

TEST_CASE("a full snapshot that is written to becomes invalid, or with PO can only be read") {
  for (const bool overflow : {false, true}) {
    CAPTURE(overflow);
    Scene scene(6 * chunk);
    scene.take(overflow ? "PO" : "P");
    REQUIRE(scene.write(scene.snap, 0, 3 * chunk, 2).has_value());
    // Two chunks more do not fit, and nothing of them is kept.
    const Status status = scene.write(scene.snap, 3 * chunk, 2 * chunk, 3);
    REQUIRE_FALSE(status.has_value());
    CHECK(status.error().code() == EIO);
    CHECK(test::status_of(scene.snap) == (overflow ? "Overflow" : "Invalid"));
    CHECK_FALSE(scene.write(scene.snap, 0, 512, 4).has_value());
    if (!overflow) continue;
    CHECK(scene.value(scene.snap, 0, 3 * chunk) == 2);
    CHECK(scene.value(scene.snap, 3 * chunk, 2 * chunk) == 1);
    // The room that is left serves the origin.
    REQUIRE(scene.write(scene.origin, 3 * chunk, chunk, 5).has_value());
    CHECK(scene.value(scene.snap, 3 * chunk, chunk) == 1);
    CHECK(test::status_of(scene.snap) == "Overflow");
  }
}

TEST_CASE("an error of the copy-on-write device costs the snapshot only") {
  for (const FaultOp op : {FaultOp::write, FaultOp::flush}) {
    Scene scene;
    scene.take();
    REQUIRE(scene.write(scene.origin, 0, chunk, 2).has_value());
    scene.cow.add({.op = op, .times = 1, .error = EIO});
    REQUIRE(scene.write(scene.origin, chunk, chunk, 3).has_value());
    CHECK(scene.value(scene.origin, chunk, chunk) == 3);
    CHECK(test::status_of(scene.snap) == "Invalid");
    CHECK(scene.read_error(scene.snap, 0) == EIO);
  }
  // A chunk that is there already: an error like any other.
  Scene scene;
  scene.take();
  REQUIRE(scene.write(scene.snap, 0, chunk, 2).has_value());
  scene.cow.add({.op = FaultOp::write, .times = 1, .error = EIO});
  CHECK_FALSE(scene.write(scene.snap, 0, 512, 3).has_value());
  REQUIRE(scene.write(scene.snap, 0, 512, 4).has_value());
  CHECK(test::status_of(scene.snap) == "24/2048 16");
}

TEST_CASE("a copy-on-write device that is gone altogether does not stop the origin") {
  Scene scene;
  scene.take();
  scene.cow.vanish(true);
  REQUIRE(scene.write(scene.origin, 0, size, 2).has_value());
  CHECK(scene.value(scene.origin, 0, size) == 2);
  CHECK(test::status_of(scene.snap) == "Invalid");
}

TEST_CASE("an origin that cannot be read costs the snapshot the chunk was for") {
  Scene scene;
  scene.take();
  scene.base.add_latent(5 * chunk, 512);
  REQUIRE(scene.write(scene.origin, 0, 4 * chunk, 2).has_value());
  CHECK(scene.value(scene.snap, 0, 4 * chunk) == 1);
  REQUIRE(scene.write(scene.origin, 5 * chunk, chunk, 3).has_value());
  CHECK(scene.value(scene.origin, 5 * chunk, chunk) == 3);
  CHECK(test::status_of(scene.snap) == "Invalid");
}

TEST_CASE("a write of whole chunks copies nothing, and several snapshots share one read") {
  Scene scene;
  scene.take();
  std::vector<std::unique_ptr<MemoryDevice>> cows;
  std::vector<std::unique_ptr<dm::MappedDevice>> snaps;
  for (int i = 0; i < 3; ++i) {
    const std::string name = fmt::format("cow{}", i);
    cows.push_back(std::make_unique<MemoryDevice>(name, 1 * MiB));
    snaps.push_back(std::make_unique<dm::MappedDevice>(name));
    scene.world.add(*cows.back());
    REQUIRE(scene.world.take(scene.origin, *snaps.back(), name, "P", chunk) == "");
  }
  const uint64_t before = scene.base.count(FaultOp::read);
  REQUIRE(scene.write(scene.snap, 8 * chunk, 4 * chunk, 2).has_value());
  REQUIRE(scene.snap.write_zeroes(12 * chunk, chunk).has_value());
  CHECK(scene.base.count(FaultOp::read) == before);
  // 8 to 12 are not shared by the first any more; all want 0 to 7.
  REQUIRE(scene.write(scene.origin, 0, 13 * chunk, 3).has_value());
  CHECK(scene.base.count(FaultOp::read) == before + 1);
  CHECK(scene.value(scene.snap, 0, 8 * chunk) == 1);
  CHECK(scene.value(scene.snap, 8 * chunk, 4 * chunk) == 2);
  CHECK(scene.value(scene.snap, 12 * chunk, chunk) == 0);
  for (const auto& snap : snaps) CHECK(scene.value(*snap, 0, 13 * chunk) == 1);
  // A partial write copies the rest of its chunk.
  REQUIRE(scene.write(scene.snap, 20 * chunk + 512, 1024, 7).has_value());
  CHECK(scene.value(scene.snap, 20 * chunk, 512) == 1);
  CHECK(scene.value(scene.snap, 20 * chunk + 512, 1024) == 7);
  CHECK(scene.value(scene.snap, 20 * chunk + 1536, chunk - 1536) == 1);
}

TEST_CASE("what is remapped is answered by map, and only what must be copied is worked") {
  Scene scene;
  scene.take();
  REQUIRE(scene.write(scene.snap, chunk, chunk, 2).has_value());
  {
    Mapping read;
    REQUIRE(scene.snap.map(Op::read, 0, 3 * chunk, Wait::no, read));
    REQUIRE(read.extents().size() == 3);
    CHECK(read.extents()[0].device == &scene.base);
    CHECK(read.extents()[1].device == &scene.cow);
    CHECK(read.extents()[1].offset == 2 * chunk);
    CHECK(read.extents()[2].device == &scene.base);
  }
  {
    Mapping write;
    REQUIRE(scene.snap.map(Op::write, chunk + 512, 512, Wait::no, write));
    CHECK(write.extents()[0].device == &scene.cow);
    CHECK(write.extents()[0].offset == 2 * chunk + 512);
    Mapping origin;
    REQUIRE(scene.origin.map(Op::write, chunk, chunk, Wait::no, origin));
    CHECK(origin.extents()[0].device == &scene.base);
    Mapping shared;
    REQUIRE(scene.origin.map(Op::write, 0, chunk, Wait::no, shared));
    CHECK(shared.extents()[0].device != &scene.base);
  }
}

TEST_CASE("discards zero what the snapshot has of its own, and pass down if asked to") {
  Scene scene;
  REQUIRE(scene.world.set_origin(scene.origin) == "");
  REQUIRE(scene.world.set(scene.snap, "snapshot", "base cow P 8 1 discard_zeroes_cow") == "");
  CHECK(scene.snap.limits().discard_granularity == chunk);
  REQUIRE(scene.write(scene.snap, 0, 4 * chunk, 2).has_value());
  // Whole chunks only: the first is touched partially.
  REQUIRE(scene.snap.discard(512, 3 * chunk - 512).has_value());
  CHECK(scene.value(scene.snap, 0, chunk) == 2);
  CHECK(scene.value(scene.snap, chunk, 2 * chunk) == 0);
  CHECK(scene.value(scene.snap, 3 * chunk, chunk) == 2);
  CHECK(scene.value(scene.origin, 0, size) == 1);
  CHECK(scene.origin.discard(0, chunk).error().code() == EOPNOTSUPP);
  Scene passing;
  REQUIRE(passing.world.set(passing.snap, "snapshot",
                            "base cow P 8 2 discard_zeroes_cow discard_passdown_origin") == "");
  REQUIRE(passing.snap.discard(0, chunk).has_value());
  CHECK(passing.base.count(FaultOp::discard) == 1);
  Scene plain;
  plain.take();
  CHECK(plain.snap.discard(0, chunk).error().code() == EOPNOTSUPP);
}

TEST_CASE("a merge that fails says so, keeps the contents, and a new one ends the work") {
  Scene scene;
  scene.take();
  REQUIRE(scene.write(scene.snap, 0, 10 * chunk, 2).has_value());
  REQUIRE(scene.origin.suspend().has_value());
  REQUIRE(scene.snap.suspend().has_value());
  scene.base.add({.op = FaultOp::write, .times = 1, .error = EIO});
  REQUIRE(scene.world.set(scene.origin, "snapshot-merge", "base cow P 8") == "");
  for (uint32_t seen = 0; test::status_of(scene.origin) != "Merge failed";)
    seen = scene.origin.wait_event(seen, now() + std::chrono::milliseconds(20));
  CHECK(scene.value(scene.origin, 0, 10 * chunk) == 2);
  CHECK(scene.value(scene.origin, 10 * chunk, size - 10 * chunk) == 1);
  REQUIRE(scene.write(scene.origin, 0, chunk, 3).has_value());
  // The snapshot's own device must not show it at the same time.
  CHECK_FALSE(scene.snap.resume().has_value());
  // A new life.
  World second(scene.base);
  second.add(scene.cow);
  dm::MappedDevice merging("merging");
  REQUIRE(second.set(merging, "snapshot-merge", "base cow P 8") == "");
  wait_until_merged(merging);
  CHECK(scene.value(scene.base, 0, chunk) == 3);
  CHECK(scene.value(scene.base, chunk, 9 * chunk) == 2);
  CHECK(merging.status() == "0 512 snapshot-merge 16/2048 16\n");
}

TEST_CASE("a snapshot shown by one device cannot be resumed on another") {
  Scene scene;
  scene.take();
  dm::MappedDevice other("other");
  CHECK(scene.world.set(other, "snapshot", "base cow P 8").find("suspend it first") !=
        std::string::npos);
  REQUIRE(scene.snap.suspend().has_value());
  REQUIRE(other.resume().has_value());
  CHECK_FALSE(scene.snap.resume().has_value());
  // Even suspended it had its copies made.
  REQUIRE(scene.write(scene.origin, 0, chunk, 2).has_value());
  CHECK(scene.value(other, 0, chunk) == 1);
}

TEST_CASE("a merge of an invalid snapshot is the origin") {
  Scene scene(6 * chunk);
  scene.take();
  REQUIRE(scene.write(scene.origin, 0, 5 * chunk, 2).has_value());
  REQUIRE(test::status_of(scene.snap) == "Invalid");
  REQUIRE(scene.snap.suspend().has_value());
  REQUIRE(scene.world.set(scene.origin, "snapshot-merge", "base cow P 8") == "");
  CHECK(test::status_of(scene.origin) == "Invalid");
  CHECK(scene.value(scene.origin, 0, 5 * chunk) == 2);
  REQUIRE(scene.write(scene.origin, 0, chunk, 3).has_value());
  CHECK(scene.value(scene.base, 0, chunk) == 3);
}
