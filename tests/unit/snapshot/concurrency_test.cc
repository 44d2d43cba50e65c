// SPDX-License-Identifier: GPL-2.0-or-later
// Readers and writers of an origin and its snapshots at the same time: under a seeded scheduler,
// and with real threads.
#include <atomic>
#include <memory>
#include <vector>

#include "support/fault_device.h"
#include "support/random.h"
#include "support/sim_scheduler.h"
#include "world.h"

using namespace volfs;
using namespace volfs::test;

namespace {

constexpr uint64_t size = 64 * KiB;

Thread start(std::string name, std::function<void()> body) {
  auto thread = Thread::start(std::move(name), std::move(body));
  REQUIRE(thread.has_value());
  return std::move(*thread);
}

// Several threads work on an origin with two snapshots while a third is merged into it. Each
// writer has sectors of its own; `kept` must never change.
void run_mixed(uint64_t seed, uint64_t steps) {
  Random random(seed);
  MemoryDevice base("base", size), kept_cow("kept", 1 * MiB), own_cow("own", 1 * MiB),
      merged_cow("merged", 1 * MiB);
  const auto first = random_bytes(random, size);
  base.poke(0, first);
  World world(base);
  world.add(kept_cow);
  world.add(own_cow);
  world.add(merged_cow);
  dm::MappedDevice origin("origin"), kept("k"), own("o");
  REQUIRE(world.set_origin(origin) == "");
  {
    // What is merged: every third sector.
    dm::MappedDevice merged("m");
    REQUIRE(world.take(origin, merged, "merged", "P", 1024) == "");
    for (uint64_t at = 0; at < size; at += 3 * 512)
      REQUIRE(merged.write(at, random_bytes(random, 512)).has_value());
  }
  REQUIRE(world.take(origin, kept, "kept", "P", 4096) == "");
  REQUIRE(world.take(origin, own, "own", "N", 512) == "");
  ByteModel origin_model(size), own_model(size);
  own_model.write(0, first);
  REQUIRE(
      world.load(origin, "snapshot-merge", world.snapshot_args("merged", "P", 1024)).has_value());
  REQUIRE(origin.resume().has_value());
  origin_model.write(0, read_bytes(origin, 0, size));

  std::atomic<int> wrong{0};
  const auto writer = [&](BlockDevice& device, ByteModel& model, uint64_t which, uint64_t of) {
    Random mine(seed + 100 + which);
    for (uint64_t i = 0; i < steps; ++i) {
      const uint64_t at = (mine.below(size / 512 / of) * of + which) * 512;
      const auto bytes = random_bytes(mine, 512);
      if (!device.write(at, bytes)) ++wrong;
      model.write(at, bytes);
      std::vector<std::byte> back(512);
      if (!device.read(at, back) || back != bytes) ++wrong;
    }
  };
  const auto reader = [&](uint64_t which) {
    Random mine(seed + 200 + which);
    for (uint64_t i = 0; i < steps; ++i) {
      const Range range = random_range(mine, size, 512, 8 * KiB);
      std::vector<std::byte> bytes(range.length);
      const auto should = std::span(first).subspan(range.offset, range.length);
      if (!kept.read(range.offset, bytes) || first_difference(bytes, should)) ++wrong;
    }
  };
  {
    std::vector<Thread> threads;
    for (uint64_t i = 0; i < 2; ++i)
      threads.push_back(start("origin", [&, i] { writer(origin, origin_model, i, 2); }));
    threads.push_back(start("own", [&] { writer(own, own_model, 0, 1); }));
    for (uint64_t i = 0; i < 2; ++i) threads.push_back(start("reader", [&, i] { reader(i); }));
  }
  CHECK(wrong == 0);
  wait_until_merged(origin);
  if (const auto difference = origin_model.difference(origin)) FAIL("origin: " << *difference);
  if (const auto difference = own_model.difference(own)) FAIL("own: " << *difference);
  CHECK(read_bytes(kept, 0, size) == first);
}

}  // namespace

TEST_CASE("readers, writers and a merge at once, under a seeded scheduler") {
  simulate(test_iterations(30), [](uint64_t seed) { run_mixed(seed, 15); });
}

TEST_CASE("readers, writers and a merge at once, with real threads") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=" << seed);
  for (uint64_t i = 0; i < test_iterations(5); ++i) run_mixed(seed + i, 200);
}

TEST_CASE("a mapped read of a snapshot holds off the write that would change what it reads") {
  simulate(test_iterations(20), [](uint64_t) {
    MemoryDevice base("base", size), cow("cow", 1 * MiB);
    base.poke(0, std::vector<std::byte>(size, std::byte{1}));
    World world(base);
    world.add(cow);
    dm::MappedDevice origin("origin"), snap("snap");
    REQUIRE(world.set_origin(origin) == "");
    REQUIRE(world.take(origin, snap, "cow", "P", 4096) == "");
    Mapping held;
    REQUIRE(snap.map(Op::read, 512, 512, Wait::no, held));
    REQUIRE(held.extents()[0].device == &base);
    std::atomic<bool> written{false};
    Thread writer = start("writer", [&] {
      CHECK(origin.write(0, std::vector<std::byte>(4096, std::byte{2})).has_value());
      written = true;
    });
    // By then the chunk is copied, a new read goes there, and the writer waits.
    sleep_for(std::chrono::seconds(1));
    CHECK_FALSE(written);
    CHECK(base.peek(512, 512) == std::vector<std::byte>(512, std::byte{1}));
    Mapping later;
    REQUIRE(snap.map(Op::read, 512, 512, Wait::no, later));
    CHECK(later.extents()[0].device == &cow);
    held.clear();
    writer.join();
    CHECK(base.peek(512, 512) == std::vector<std::byte>(512, std::byte{2}));
  });
}

TEST_CASE("writers that wait for copies share the flushes") {
  simulate(3, [](uint64_t) {
    constexpr int writers = 12;
    MemoryDevice base("base", 1 * MiB), cow_disk("cow", 2 * MiB);
    FaultDevice cow(cow_disk);
    World world(base);
    world.add(cow);
    dm::MappedDevice origin("origin"), snap("snap");
    REQUIRE(world.set_origin(origin) == "");
    REQUIRE(world.take(origin, snap, "cow", "P", 4096) == "");
    // A flush takes a while, as it does.
    cow.add({.op = FaultOp::flush, .delay = std::chrono::milliseconds(10)});
    const uint64_t before = cow.count(FaultOp::flush);
    {
      std::vector<Thread> threads;
      for (int i = 0; i < writers; ++i)
        threads.push_back(start("writer", [&, i] {
          CHECK(origin
                    .write(static_cast<uint64_t>(i) * 64 * KiB,
                           std::vector<std::byte>(4096, std::byte{2}))
                    .has_value());
        }));
    }
    // Two flushes a commit; alone they would have been 24.
    CHECK(cow.count(FaultOp::flush) - before <= 8);
  });
}
