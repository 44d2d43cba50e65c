// SPDX-License-Identifier: GPL-2.0-or-later
// delay, flakey and dust, in simulated time.
#include <fmt/format.h>

#include "fixture.h"
#include "support/byte_model.h"
#include "support/sim_scheduler.h"

namespace volfs::test {
namespace {

using dm::MappedDevice;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t s = sector_size;

std::vector<std::byte> filled(uint64_t length, int value) {
  return std::vector<std::byte>(length, std::byte(value));
}

// One world, one map over disk0 full of ones.
struct World {
  World() : sim(test_seed()), lab(2, 1 * MiB), map("map") { lab.disks[0]->poke(0, filled(MiB, 1)); }
  int read(uint64_t offset, uint64_t length = s) {
    buffer.assign(length, std::byte(9));
    const auto status = map.read(offset, buffer);
    return status ? 0 : status.error().code();
  }
  int write(uint64_t offset, uint64_t length = s, int value = 2) {
    const auto status = map.write(offset, filled(length, value));
    return status ? 0 : status.error().code();
  }
  std::string say(std::string_view text) {
    auto answer = map.message(0, text);
    return answer ? *answer : answer.error().text();
  }
  SimScheduler sim;
  Lab lab;
  MappedDevice map;
  std::vector<std::byte> buffer;
};

TEST_CASE("delay holds reads, writes and flushes back, each for its time and to its device") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 8 delay disk0 0 100 disk1 8 2000 disk1 0 30000") == "");
  TimePoint start = now();
  CHECK(w.read(0) == 0);
  CHECK(w.buffer == filled(s, 1));
  CHECK(now() >= start + milliseconds(100));
  start = now();
  CHECK(w.write(s) == 0);
  CHECK(now() >= start + milliseconds(2000));
  CHECK(w.lab.disks[1]->peek(9 * s, s) == filled(s, 2));
  start = now();
  const uint64_t flushes = w.lab.disks[0]->flushes();
  CHECK(w.map.flush());
  CHECK(now() >= start + seconds(30));
  CHECK(w.lab.disks[0]->flushes() == flushes);
  CHECK(w.map.service(Op::read) == Service::blocking);
}

TEST_CASE("what is not delayed is mapped through") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 8 delay disk0 3 0 disk1 0 10") == "");
  Mapping mapping;
  REQUIRE(w.map.map(Op::read, 0, s, Wait::no, mapping));
  CHECK(mapping.extents()[0].device == w.lab.disks[0].get());
  CHECK(mapping.extents()[0].offset == 3 * s);
  mapping.clear();
  REQUIRE(w.map.map(Op::write, 0, s, Wait::no, mapping));
  CHECK(mapping.extents()[0].device != w.lab.disks[1].get());
}

TEST_CASE("status counts what is held back, and a suspend lets it go at once") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 8 delay disk0 0 4000000000") == "");
  const TimePoint start = now();
  std::vector<Thread> threads;
  for (int i = 0; i < 3; ++i) {
    auto thread = Thread::start("io", [&w, i] {
      std::vector<std::byte> buffer(s);
      if (i == 0)
        CHECK(w.map.write(0, std::span<const std::byte>(buffer)));
      else if (i == 1)
        CHECK(w.map.read(0, buffer));
      else
        CHECK(w.map.flush());
    });
    REQUIRE(thread);
    threads.push_back(std::move(*thread));
  }
  while (w.map.status() != "0 8 delay 1 1 1\n") sleep_for(seconds(1));
  REQUIRE(w.map.suspend());
  for (Thread& thread : threads) thread.join();
  CHECK(now() < start + std::chrono::hours(24));
  CHECK(w.map.status() == "0 8 delay 0 0 0\n");
  // After the resume it delays again.
  REQUIRE(w.map.resume());
  const TimePoint again = now();
  CHECK(w.read(0) == 0);
  CHECK(now() >= again + seconds(4000000));
}

TEST_CASE("flakey is up, down and up again, and fails everything while down") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 4 10 5") == "");
  Mapping mapping;
  REQUIRE(w.map.map(Op::read, 0, s, Wait::no, mapping));
  CHECK(mapping.extents()[0].device == w.lab.disks[0].get());
  CHECK(mapping.extents()[0].offset == 4 * s);
  mapping.clear();
  const TimePoint start = now();
  for (int round = 0; round < 2; ++round) {
    CHECK(w.read(0) == 0);
    CHECK(w.write(0) == 0);
    CHECK(w.map.flush());
    sleep_until(start + seconds(15 * round + 10));
    CHECK(w.read(0) == EIO);
    CHECK(w.write(0) == EIO);
    CHECK(!w.map.discard(0, s));
    CHECK(!w.map.flush());
    sleep_until(start + seconds(15 * round + 15));
  }
}

TEST_CASE("flakey with error_reads or error_writes fails only those") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 0 0 1 1 error_reads") == "");
  CHECK(w.read(0) == EIO);
  CHECK(w.write(0) == 0);
  CHECK(w.map.flush());
  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 0 0 1 1 error_writes") == "");
  CHECK(w.read(0) == 0);
  CHECK(w.buffer == filled(s, 2));
  CHECK(w.write(0) == EIO);
  CHECK(!w.map.write_zeroes(0, s));
  CHECK(!w.map.flush());
}

TEST_CASE("flakey drops writes, discards and flushes and says they are done") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 0 0 1 1 drop_writes") == "");
  const uint64_t flushes = w.lab.disks[0]->flushes();
  CHECK(w.write(0, 4 * s) == 0);
  CHECK(w.map.discard(0, s));
  CHECK(w.map.write_zeroes(s, s));
  CHECK(w.map.flush());
  CHECK(w.lab.disks[0]->flushes() == flushes);
  CHECK(w.read(0, 8 * s) == 0);
  CHECK(w.buffer == filled(8 * s, 1));
}

TEST_CASE("flakey sets the given byte of each read or write in the given direction") {
  World w;
  Random random(w.sim.seed());
  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 0 0 1 5 corrupt_bio_byte 514 r 77 0") == "");
  CHECK(w.read(0, 4 * s) == 0);
  auto expected = filled(4 * s, 1);
  expected[513] = std::byte(77);
  CHECK(w.buffer == expected);
  CHECK(w.read(0, s) == 0);  // too short to have the byte
  CHECK(w.buffer == filled(s, 1));
  CHECK(w.write(0, 2 * s) == 0);
  CHECK(w.lab.disks[0]->peek(0, 2 * s) == filled(2 * s, 2));

  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 0 0 1 5 corrupt_bio_byte 1 w 255 0") == "");
  ScatterList list(random, 3 * s);
  const auto bytes = filled(3 * s, 3);
  list.set(bytes);
  CHECK(w.map.write(s, list.iov()));
  CHECK(list.bytes() == bytes);  // the writer's memory is as it was
  expected = bytes;
  expected[0] = std::byte(255);
  CHECK(w.lab.disks[0]->peek(s, 3 * s) == expected);
  CHECK(w.read(s, 3 * s) == 0);
  CHECK(w.buffer == expected);
  // Flags that the request does not have: only FUA (bit 17) is known here.
  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 0 0 1 5 corrupt_bio_byte 1 w 255 131072") == "");
  CHECK(w.write(0) == 0);
  CHECK(w.lab.disks[0]->peek(0, s) == filled(s, 2));
  CHECK(w.map.write(0, filled(s, 2), Fua::yes));
  CHECK(w.lab.disks[0]->peek(0, 1) == filled(1, 255));
}

TEST_CASE("flakey corrupts one byte of a random request in so many") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 8 flakey disk0 0 0 1 2 random_read_corrupt 500000000") == "");
  int corrupted = 0;
  for (int i = 0; i < 200; ++i) {
    CHECK(w.read(0, 2 * s) == 0);
    const auto wrong = std::count_if(w.buffer.begin(), w.buffer.end(),
                                     [](std::byte b) { return b != std::byte(1); });
    CHECK(wrong <= 1);
    corrupted += static_cast<int>(wrong);
  }
  CHECK(corrupted > 50);
  CHECK(corrupted < 150);
  CHECK(w.lab.disks[0]->peek(0, 2 * s) == filled(2 * s, 1));
  REQUIRE(w.lab.set(w.map,
                    "0 8 flakey disk0 0 0 1 7 random_write_corrupt 1000000000 "
                    "corrupt_bio_byte 5 w 200 0") == "");
  for (int i = 0; i < 50; ++i) {
    CHECK(w.write(0, 2 * s) == 0);
    const auto now_there = w.lab.disks[0]->peek(0, 2 * s);
    const auto wrong = std::count_if(now_there.begin(), now_there.end(),
                                     [](std::byte b) { return b != std::byte(2); });
    CHECK(wrong >= 1);
    CHECK(wrong <= 2);
  }
}

TEST_CASE("dust fails reads of bad blocks once enabled, and writes heal them") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 64 dust disk0 0 512") == "");
  CHECK(w.say("addbadblock 5") == "");
  CHECK(w.say("addbadblock 7 2") == "");
  CHECK(w.read(0, 16 * s) == 0);  // not enabled yet
  CHECK(w.say("enable") == "");
  CHECK(w.read(0, 5 * s) == 0);
  CHECK(w.read(0, 6 * s) == EIO);
  CHECK(w.read(6 * s) == 0);
  CHECK(w.read(8 * s, 56 * s) == 0);
  Mapping mapping;
  REQUIRE(w.map.map(Op::read, 0, 16 * s, Wait::no, mapping));
  CHECK(mapping.extents().size() == 5);
  mapping.clear();
  CHECK(w.write(4 * s, 2 * s) == 0);
  CHECK(w.read(5 * s) == 0);
  CHECK(w.say("listbadblocks") == "7\n");
  // The other sectors of a write that fails are written.
  CHECK(w.write(6 * s, 3 * s) == EIO);
  CHECK(w.lab.disks[0]->peek(6 * s, s) == filled(s, 2));
  CHECK(w.lab.disks[0]->peek(7 * s, s) == filled(s, 1));
  CHECK(w.lab.disks[0]->peek(8 * s, s) == filled(s, 2));
  CHECK(!w.map.write_zeroes(7 * s, s));
  CHECK(w.say("countbadblocks") == "countbadblocks: 1 badblock(s) found");
  CHECK(w.write(7 * s) == 0);
  CHECK(w.say("countbadblocks") == "countbadblocks: 0 badblock(s) found");
  CHECK(w.read(0, 64 * s) == 0);
  CHECK(w.say("addbadblock 0") == "");
  CHECK(w.say("disable") == "");
  CHECK(w.read(0) == 0);
}

TEST_CASE("dust answers its messages as the kernel does") {
  World w;
  REQUIRE(w.lab.set(w.map, "0 64 dust disk0 0 512") == "");
  CHECK(w.say("listbadblocks") == "No blocks in badblocklist");
  CHECK(w.say("clearbadblocks") == "dust_clear_badblocks: no badblocks found");
  CHECK(w.say("ADDBADBLOCK 2048") == "");
  CHECK(w.say("addbadblock 2049") == "map: dust: block \"2049\": expected a number from 0 to 2048");
  CHECK(w.say("addbadblock 2048") == "map: dust: addbadblock: block 2048 is in the list already");
  CHECK(w.say("removebadblock 3") == "map: dust: removebadblock: block 3 is not in the list");
  CHECK(w.say("queryblock 2048") == "dust_query_block: block 2048 found in badblocklist");
  CHECK(w.say("queryblock 3") == "dust_query_block: block 3 not found in badblocklist");
  CHECK(w.say("addbadblock 5 256") ==
        "map: dust: writes that fail \"256\": expected a number from 0 to 255");
  CHECK(w.say("addbadblock") == "map: dust: message addbadblock: expected the number of a block");
  for (const char* bad : {"foo", "foo 1", "enable 5", "queryblock 5 6", "addbadblock 1 2 3"})
    CHECK(w.say(bad).starts_with("map: dust: message \""));
  CHECK(w.say("quiet") == "");
  CHECK(w.map.status() == "0 64 dust disk0 bypass quiet\n");
  CHECK(w.say("quiet") == "");
  CHECK(w.say("removebadblock 2048") == "");
  CHECK(w.say("addbadblock 1") == "");
  CHECK(w.say("clearbadblocks") == "dust_clear_badblocks: badblocks cleared");
}

TEST_CASE("dust counts blocks on the device below and cuts requests at its own") {
  // As a real kernel did with the same table and reads.
  World w;
  REQUIRE(w.lab.set(w.map, "0 1000 dust disk0 7 4096") == "");
  CHECK(w.say("addbadblock 2") == "");
  CHECK(w.say("enable") == "");
  for (uint64_t sector : {0, 1, 7, 8, 17, 18}) CHECK(w.read(sector * s) == 0);
  for (uint64_t sector : {9, 10, 15, 16}) CHECK(w.read(sector * s) == EIO);
  CHECK(w.read(8 * s, 8 * s) == 0);
  CHECK(w.read(16 * s, 8 * s) == EIO);
}

}  // namespace
}  // namespace volfs::test
