// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/crash_device.h"

#include <doctest/doctest.h>

#include "support/byte_model.h"
#include "support/sim_scheduler.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

std::vector<std::byte> filled(uint64_t length, int value) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

}  // namespace

TEST_CASE("any prefix of what was written can be had back") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  CrashLog log;
  CrashDevice disk(log, "disk", 64 * KiB);
  ByteModel model(64 * KiB);
  std::vector<ByteModel> states{model};
  for (int i = 0; i < 100; ++i) {
    const Range range = random_range(random, model.size(), 512, 16 * KiB);
    if (random.one_in(4)) {
      REQUIRE((random.one_in(2) ? disk.discard(range.offset, range.length)
                                : disk.write_zeroes(range.offset, range.length))
                  .has_value());
      model.zero(range.offset, range.length);
    } else {
      const auto bytes = random_bytes(random, range.length);
      REQUIRE(disk.write(range.offset, bytes));
      model.write(range.offset, bytes);
    }
    states.push_back(model);
  }
  REQUIRE(log.size() == 100);
  MemoryDevice after("after", 64 * KiB);
  for (size_t point = 0; point <= 100; ++point) {
    log.materialise(disk, point, CrashKeep::all(), after);
    REQUIRE_FALSE(states[point].difference(after));
  }
  CHECK_FALSE(model.difference(disk));
}

TEST_CASE("a power cut keeps what a flush covered or FUA wrote, and of the rest any sectors") {
  CrashLog log;
  CrashDevice disk(log, "disk", 64 * KiB);
  REQUIRE(disk.write(0, filled(4096, 1)));
  REQUIRE(disk.flush());
  REQUIRE(disk.write(4096, filled(4096, 2)));
  REQUIRE(disk.write(8192, filled(4096, 3), Fua::yes));
  const size_t cut = log.mark("cut here");
  REQUIRE(disk.write(0, filled(4096, 4)));
  REQUIRE(disk.flush());

  bool torn = false, lost = false, whole = false;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    MemoryDevice after("after", 64 * KiB);
    log.materialise(disk, cut, CrashKeep::some(seed), after);
    CHECK(after.peek(0, 4096) == filled(4096, 1));
    CHECK(after.peek(8192, 4096) == filled(4096, 3));
    unsigned kept = 0;
    for (uint64_t at = 4096; at < 8192; at += 512) {
      const auto sector = after.peek(at, 512);
      CHECK((sector == filled(512, 0) || sector == filled(512, 2)));
      kept += sector == filled(512, 2);
    }
    lost |= kept == 0;
    whole |= kept == 8;
    torn |= kept > 0 && kept < 8;
  }
  CHECK(torn);
  CHECK(lost);
  CHECK(whole);
  MemoryDevice after("after", 64 * KiB);
  log.materialise(disk, cut, CrashKeep::none(), after);
  CHECK(after.peek(4096, 4096) == filled(4096, 0));
  CHECK(after.peek(8192, 4096) == filled(4096, 3));
  log.materialise(disk, log.size(), CrashKeep::none(), after);
  CHECK(after.peek(0, 4096) == filled(4096, 4));
  CHECK(after.peek(4096, 4096) == filled(4096, 2));
}

TEST_CASE("a write that was under way when the power went may be there in part, FUA or not") {
  CrashLog log;
  CrashDevice disk(log, "disk", 8192);
  REQUIRE(disk.write(0, filled(4096, 1), Fua::yes));
  bool torn = false;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    MemoryDevice after("after", 8192);
    log.materialise(disk, 0, CrashKeep::some(seed), after);
    const auto bytes = after.peek(0, 4096);
    torn |= bytes != filled(4096, 0) && bytes != filled(4096, 1);
    log.materialise(disk, 1, CrashKeep::some(seed), after);
    CHECK(after.peek(0, 4096) == filled(4096, 1));
  }
  CHECK(torn);
}

TEST_CASE("a flush of one disk covers no other disk") {
  CrashLog log;
  CrashDevice a(log, "a", 8192), b(log, "b", 8192);
  REQUIRE(a.write(0, filled(512, 1)));
  REQUIRE(b.write(0, filled(512, 2)));
  REQUIRE(a.flush());
  MemoryDevice after("after", 8192);
  log.materialise(a, log.size(), CrashKeep::none(), after);
  CHECK(after.peek(0, 512) == filled(512, 1));
  log.materialise(b, log.size(), CrashKeep::none(), after);
  CHECK(after.peek(0, 512) == filled(512, 0));
  log.restart();
  CHECK(log.size() == 0);
  log.materialise(b, 0, CrashKeep::none(), after);
  CHECK(after.peek(0, 512) == filled(512, 2));
}

TEST_CASE("a flush covers only what was done before it began") {
  simulate(20, [](uint64_t seed) {
    SimScheduler sim(seed);
    CrashLog log;
    CrashDevice disk(log, "disk", 8192);
    auto writer = Thread::start("writer", [&] { CHECK(disk.write(0, filled(512, 1))); });
    REQUIRE(writer);
    REQUIRE(disk.flush());
    writer->join();
    MemoryDevice after("after", 8192);
    log.materialise(disk, log.size(), CrashKeep::none(), after);
    const auto& records = log.records();
    REQUIRE(records.size() == 2);
    const bool covered = records[1].kind == CrashRecord::Kind::flush && records[1].begun == 1;
    CHECK((after.peek(0, 512) == filled(512, 1)) == covered);
  });
}
