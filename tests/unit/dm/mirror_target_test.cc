// SPDX-License-Identifier: GPL-2.0-or-later
// The mirror target: its arguments, table and status, what its log says and what follows from it.
#include <fmt/format.h>

#include <algorithm>

#include "fixture.h"
#include "support/byte_model.h"
#include "support/fault_device.h"

namespace volfs::test {
namespace {

constexpr uint64_t region = 64 * sector_size;
constexpr uint64_t regions = 9;  // the last one is short
constexpr uint64_t length = 8 * region + 6 * sector_size;
constexpr uint64_t skipped = 8 * sector_size;  // of the right leg
const std::string disk_row = "0 518 mirror disk 2 log 64 2 left 0 right 8 1 handle_errors";

// Legs `left` and `right` with different random contents, and a log; faults stand before them.
struct MirrorLab : Lab {
  MirrorLab() : Lab(0) {
    for (FaultDevice* device : {&left, &right, &log}) Lab::add(*device);
    for (MemoryDevice* disk : {&left_disk, &right_disk})
      disk->poke(0, random_bytes(random, disk->size()));
  }
  std::vector<std::byte> on_left() const { return left_disk.peek(0, length); }
  std::vector<std::byte> on_right() const { return right_disk.peek(skipped, length); }
  // One letter a region: c(lean) or d(irty); nothing without a header that is right.
  std::string log_text() const {
    const auto bytes = log_disk.peek(0, 2 * KiB);
    constexpr std::array<unsigned char, 16> header = {'r', 'R', 'i', 'M', 2, 0, 0, 0, regions};
    if (!std::ranges::equal(std::as_bytes(std::span(header)), std::span(bytes).first(16)))
      return "";
    std::string out;
    for (uint64_t i = 0; i < 16; ++i)
      out += (bytes[1024 + i / 8] & std::byte(1 << (i % 8))) != std::byte{} ? 'c' : 'd';
    return out;
  }
  void settle(dm::MappedDevice& map, std::string_view until = " 9/9 1 AA ") {
    while (map.status().find(until) == std::string::npos)
      map.wait_event(map.info().event_nr, now() + std::chrono::milliseconds(20));
  }
  // In sync, and nothing dirty in the log.
  void start(dm::MappedDevice& map) {
    REQUIRE(set(map, disk_row) == "");
    settle(map);
    REQUIRE(map.suspend());
    REQUIRE(map.resume());
  }
  // Goes on from what the devices hold now, as if the power had gone.
  void crash(dm::MappedDevice& map, MirrorLab& after) const {
    after.left_disk.copy_from(left_disk);
    after.right_disk.copy_from(right_disk);
    after.log_disk.copy_from(log_disk);
    REQUIRE(map.status() != "");
  }

  Random random{test_seed()};
  MemoryDevice left_disk{"left", length + skipped}, right_disk{"right", length + skipped};
  MemoryDevice log_disk{"log", 8 * KiB};
  FaultDevice left{left_disk}, right{right_disk}, log{log_disk};
};

std::vector<std::byte> contents(dm::MappedDevice& map) {
  std::vector<std::byte> bytes(map.size());
  REQUIRE(map.read(0, bytes));
  return bytes;
}

TEST_CASE("a new mirror takes over what its first leg holds, and its log says so") {
  MirrorLab lab;
  const auto first = lab.on_left();
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, disk_row) == "");
  CHECK(contents(map) == first);
  CHECK(map.table() == disk_row + "\n");
  lab.settle(map);
  CHECK(map.status() == "0 518 mirror 2 left right 9/9 1 AA 3 disk log A\n");
  CHECK(lab.on_left() == first);
  CHECK(lab.on_right() == first);
  REQUIRE(map.suspend());
  CHECK(lab.log_text() == "cccccccccddddddd");
  REQUIRE(map.resume());
  CHECK(map.status() == "0 518 mirror 2 left right 9/9 1 AA 3 disk log A\n");
}

TEST_CASE("a region is dirty in the log before it is written, and clean after a stop") {
  MirrorLab lab;
  dm::MappedDevice map("map");
  lab.start(map);
  const auto bytes = random_bytes(lab.random, 3 * sector_size);
  REQUIRE(map.write(2 * region - sector_size, bytes));
  REQUIRE(map.write(8 * region, bytes));
  CHECK(lab.log_text() == "cddcccccdddddddd");
  CHECK(lab.on_left() == lab.on_right());
  CHECK(map.status() == "0 518 mirror 2 left right 9/9 1 AA 3 disk log A\n");
  REQUIRE(map.suspend());
  CHECK(lab.log_text() == "cccccccccddddddd");
}

TEST_CASE("after a crash the regions that were being written are those of the first leg") {
  MirrorLab lab, after;
  dm::MappedDevice map("map"), next("map");
  lab.start(map);
  REQUIRE(map.write(3 * region, random_bytes(lab.random, sector_size)));
  lab.crash(map, after);
  // The power went between the legs; and what the log calls clean is not looked at.
  const auto other = random_bytes(lab.random, sector_size);
  after.right_disk.poke(skipped + 3 * region + 8 * sector_size, other);
  after.right_disk.poke(skipped + 5 * region, other);
  REQUIRE(after.set(next, disk_row) == "");
  after.settle(next);
  REQUIRE(next.suspend());
  auto expected = lab.on_left();
  CHECK(after.on_left() == expected);
  std::ranges::copy(other, expected.begin() + 5 * region);
  CHECK(after.on_right() == expected);
}

TEST_CASE("the second leg fails: the log remembers what it missed") {
  MirrorLab lab;
  dm::MappedDevice map("map");
  lab.start(map);
  lab.right.vanish(true);
  const auto bytes = random_bytes(lab.random, region);
  REQUIRE(map.write(4 * region, bytes));
  REQUIRE(map.flush());
  CHECK(map.status() == "0 518 mirror 2 left right 8/9 1 AD 3 disk log A\n");
  REQUIRE(map.suspend());
  CHECK(lab.log_text() == "ccccdccccddddddd");
  lab.right.vanish(false);
  REQUIRE(map.resume());
  lab.settle(map);
  CHECK(lab.on_left() == lab.on_right());
  CHECK(lab.right_disk.peek(skipped + 4 * region, region) == bytes);
}

TEST_CASE("what may differ is read from the first leg only, the rest from any") {
  for (const bool read_only : {false, true}) {
    CAPTURE(read_only);
    MirrorLab lab, after;
    dm::MappedDevice map("map"), next("map");
    lab.start(map);
    REQUIRE(map.write(3 * region, random_bytes(lab.random, sector_size)));
    lab.crash(map, after);
    after.left.add({.op = FaultOp::read, .error = EIO});
    const auto right = after.on_right();
    REQUIRE(after.set(next, disk_row, read_only) == "");
    std::vector<std::byte> bytes(region);
    CHECK(!next.read(3 * region, bytes));
    REQUIRE(next.read(4 * region, bytes));
    CHECK(std::ranges::equal(bytes, std::span(right).subspan(4 * region, region)));
    CHECK(after.on_right() == right);
    (void)next.suspend();
  }
}

TEST_CASE("without its first leg or its log a mirror takes no writes") {
  for (const bool log_too : {false, true}) {
    CAPTURE(log_too);
    MirrorLab lab;
    dm::MappedDevice map("map");
    lab.start(map);
    const auto before = lab.on_right();
    (log_too ? lab.log : lab.left).vanish(true);
    const auto written = map.write(0, random_bytes(lab.random, region));
    REQUIRE(!written);
    CHECK(written.error().code() == EIO);
    CHECK(!map.write(5 * region, random_bytes(lab.random, region)));
    // Who comes back is not overwritten by what is older, and nothing was told to be good.
    if (!log_too) CHECK(lab.log_text()[0] == 'd');
    if (log_too) CHECK(lab.on_right() == before);
    CHECK(map.status().ends_with(log_too ? "A 3 disk log D\n" : " DA 3 disk log A\n"));
    (void)map.suspend();
  }
}

TEST_CASE("a log that has no room is written when there is some") {
  MirrorLab lab;
  dm::MappedDevice map("map");
  lab.start(map);
  lab.log.add({.op = FaultOp::write, .times = 2, .error = ENOSPC});
  const auto bytes = random_bytes(lab.random, region);
  const auto written = map.write(region, bytes);
  REQUIRE(!written);
  CHECK(written.error().code() == ENOSPC);
  lab.log.remove_all();
  REQUIRE(map.write(region, bytes));
  CHECK(lab.log_text() == "cdcccccccddddddd");
  CHECK(map.status() == "0 518 mirror 2 left right 9/9 1 AA 3 disk log A\n");
}

TEST_CASE("a mirror whose log is in memory is synced at each start, unless told not to") {
  MirrorLab lab;
  const auto left = lab.on_left(), right = lab.on_right();
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, "0 518 mirror core 2 64 nosync 2 left 0 right 8") == "");
  CHECK(map.table() == "0 518 mirror core 2 64 nosync 2 left 0 right 8\n");
  CHECK(map.status() == "0 518 mirror 2 left right 9/9 1 AA 1 core\n");
  CHECK(lab.on_right() == right);
  // That a leg has failed would be forgotten.
  lab.right.vanish(true);
  CHECK(!map.write(0, random_bytes(lab.random, sector_size)));
  lab.right.vanish(false);
  REQUIRE(map.suspend());
  lab.left_disk.poke(0, left);
  REQUIRE(lab.set(map, "0 518 mirror core 1 64 2 left 0 right 8") == "");
  lab.settle(map);
  CHECK(lab.on_left() == left);
  CHECK(lab.on_right() == left);
}

TEST_CASE("a mirror of a read-only table writes nothing, and reads where it is in sync") {
  MirrorLab lab;
  const auto left = lab.on_left(), right = lab.on_right();
  const auto log = lab.log_disk.peek(0, lab.log_disk.size());
  dm::MappedDevice map("map");
  REQUIRE(lab.set(map, disk_row, true) == "");
  CHECK(contents(map) == left);
  CHECK(map.status() == "0 518 mirror 2 left right 0/9 1 AA 3 disk log A\n");
  REQUIRE(map.suspend());
  CHECK(lab.on_left() == left);
  CHECK(lab.on_right() == right);
  CHECK(lab.log_disk.peek(0, log.size()) == log);
}

TEST_CASE("arguments of a mirror target that mean nothing") {
  MirrorLab lab;
  dm::MappedDevice map("map");
  const auto refusal = [&](std::string_view args) {
    return lab.set(map, fmt::format("0 518 mirror {}", args));
  };
  for (const auto& [args, expected] : {
           std::pair("CORE 1 64 2 left 0 right 8", "log type \"CORE\": expected core or disk"),
           std::pair("core 0 2 left 0 right 8", "number of log arguments \"0\""),
           std::pair("core 3 64 sync 2 2 left 0 right 8", "number of log arguments \"3\""),
           std::pair("disk 1 64 2 left 0 right 8", "number of log arguments \"1\""),
           std::pair("core 1 63 2 left 0 right 8", "the region size is 32256 bytes"),
           std::pair("core 1 1 2 left 0 right 8", "the region size is 512 bytes"),
           std::pair("core 1 1024 2 left 0 right 8", "the region size is 524288 bytes"),
           std::pair("core 2 64 foo 2 left 0 right 8", "log argument \"foo\""),
           std::pair("core 1 64 1 left 0", "number of legs \"1\""),
           std::pair("core 1 64 3 left 0 right 8", "at least 10, for 3 legs"),
           std::pair("core 1 64 2 left 0 right 8 1 bar", "feature \"bar\""),
           std::pair("core 1 64 2 left 0 right 8 1 keep_log", "keep_log needs handle_errors"),
           std::pair("core 1 64 2 left 0 right 8 1 handle_errors more", "expected 1 after"),
           std::pair("core 1 64 2 left x right 8", "start sector \"x\""),
           std::pair("core 1 64 2 nobody 0 right 8", "device \"nobody\""),
           std::pair("core 1 64 2 left 9 right 8", "too small"),
       }) {
    CAPTURE(args);
    const std::string text = refusal(args);
    CHECK_MESSAGE(text.find(expected) != text.npos, text);
  }
  lab.log_disk.poke(0, std::as_bytes(std::span("rRiM\3\0\0\0\1\0\0\0\0\0\0", 16)));
  CHECK(refusal("disk 2 log 64 2 left 0 right 8").find("version 3, expected 1 or 2") !=
        std::string::npos);
  REQUIRE(refusal("core 1 64 2 left 0 right 8 0") == "");
}

}  // namespace
}  // namespace volfs::test
