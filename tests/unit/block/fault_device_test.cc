// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/fault_device.h"

#include <doctest/doctest.h>

#include <cerrno>

#include "support/byte_model.h"
#include "support/memory_device.h"
#include "support/sim_scheduler.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

struct Disk {
  MemoryDevice memory{"disk", MiB};
  FaultDevice device{memory};
  std::vector<std::byte> ones = std::vector<std::byte>(4096, std::byte{1});
};

}  // namespace

TEST_CASE_FIXTURE(Disk, "a rule fails the request it names, once, and no other") {
  device.fail_nth(FaultOp::write, 2, ENOSPC);
  CHECK(device.write(0, ones));
  CHECK(device.read(0, ones));
  CHECK(device.write(4096, ones));
  auto third = device.write(8192, ones);
  REQUIRE_FALSE(third);
  CHECK(third.error().code() == ENOSPC);
  CHECK(third.error().text() == "disk: write 4096 at 8192: No space left on device");
  CHECK(memory.peek(8192, 1)[0] == std::byte{0});
  CHECK(device.write(8192, ones));
  CHECK(device.count(FaultOp::write) == 4);
  CHECK(device.count(FaultOp::any) == 5);
}

TEST_CASE_FIXTURE(Disk, "a rule of a range spoils what touches it") {
  const auto id = device.add(
      {.op = FaultOp::read | FaultOp::discard, .begin = 8192, .end = 8704, .error = EIO});
  CHECK(device.read(4096, ones));
  CHECK_FALSE(device.read(8192, ones));
  CHECK_FALSE(device.discard(4096, 8192));
  CHECK(device.discard(8704, 512));
  CHECK(device.hits(id) == 2);
  device.remove(id);
  CHECK(device.read(8192, ones));
}

TEST_CASE_FIXTURE(Disk, "a torn write leaves its first sectors and fails") {
  device.add({.op = FaultOp::write, .error = EIO, .torn = 1024});
  CHECK_FALSE(device.write(0, ones));
  CHECK(memory.peek(1023, 2) == std::vector{std::byte{1}, std::byte{0}});
}

TEST_CASE_FIXTURE(Disk, "a latent sector cannot be read until it is written") {
  device.add_latent(4096, 512);
  CHECK(device.read(0, ones));
  auto read = device.read(4096, ones);
  REQUIRE_FALSE(read);
  CHECK(read.error().code() == EIO);
  CHECK(device.write(4096, std::span(ones).first(512)));
  CHECK(device.read(4096, ones));
}

TEST_CASE_FIXTURE(
    Disk, "bits flip in what is read, or in what is written, never in the caller's memory") {
  REQUIRE(device.write(0, ones));
  const auto id = device.add({.op = FaultOp::read, .times = 1, .flip_offset = 100, .flip_bit = 3});
  CHECK(read_bytes(device, 0, 512)[100] == std::byte{9});
  CHECK(read_bytes(device, 0, 512)[100] == std::byte{1});
  device.remove(id);
  device.add({.op = FaultOp::write, .flip_offset = 5000, .flip_bit = 0});
  REQUIRE(device.write(4096, ones));
  CHECK(ones[5000 - 4096] == std::byte{1});
  CHECK(memory.peek(4999, 3) == std::vector{std::byte{1}, std::byte{0}, std::byte{1}});
}

TEST_CASE_FIXTURE(Disk, "lost and misdirected writes are acknowledged all the same") {
  const auto lost = device.add({.op = FaultOp::write, .lost = true});
  CHECK(device.write(0, ones));
  CHECK(memory.pages() == 0);
  device.remove(lost);
  device.add({.op = FaultOp::write, .redirect = 65536});
  CHECK(device.write(0, ones));
  CHECK(memory.peek(0, 1)[0] == std::byte{0});
  CHECK(memory.peek(65536, 1)[0] == std::byte{1});
}

TEST_CASE_FIXTURE(Disk, "a vanished member fails everything until it is back") {
  device.vanish(true);
  CHECK(device.read(0, ones).error().code() == ENXIO);
  CHECK(device.write(0, ones).error().code() == ENXIO);
  CHECK(device.flush().error().code() == ENXIO);
  device.vanish(false);
  CHECK(device.write(0, ones));
  CHECK(device.flush());
}

TEST_CASE("a slow disk takes simulated time, a hanging one comes back when it is let go") {
  simulate(20, [](uint64_t seed) {
    SimScheduler sim(seed);
    MemoryDevice memory("disk", MiB);
    FaultDevice device(memory);
    std::vector<std::byte> ones(4096, std::byte{1});
    device.add({.op = FaultOp::write, .times = 1, .delay = std::chrono::seconds(30)});
    const TimePoint before = now();
    CHECK(device.service(Op::write) == Service::blocking);
    REQUIRE(device.write(0, ones));
    CHECK(now() - before >= std::chrono::seconds(30));

    const auto hang = device.add({.op = FaultOp::read, .hang = true});
    bool done = false;
    auto reader = Thread::start("reader", [&] {
      CHECK(device.read(0, ones));
      done = true;
    });
    REQUIRE(reader);
    sleep_for(std::chrono::hours(1));
    CHECK_FALSE(done);
    device.remove(hang);
    reader->join();
    CHECK(done);
  });
}
