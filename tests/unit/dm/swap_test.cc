// SPDX-License-Identifier: GPL-2.0-or-later
// Tables replaced while they are in use. Two disks hold the same bytes at different places; what
// is written goes to the disk of the moment, and is moved by the swapper while nobody is inside,
// as pvmove would. So a reader must always see what the last write left.
#include <fmt/format.h>

#include <atomic>

#include "fixture.h"
#include "support/byte_model.h"
#include "support/sim_scheduler.h"

namespace volfs::test {
namespace {

using dm::MappedDevice;

constexpr uint64_t sectors = 64;

struct Swapping {
  Swapping() : lab(2, 128 * KiB), map("map"), top("top") {
    lab.add(map);
    REQUIRE(lab.set(map, text(0)) == "");
    REQUIRE(lab.set(top, "0 64 linear map 0") == "");
  }
  static std::string text(size_t disk) {
    return disk == 0 ? "0 64 linear disk0 8" : "0 16 linear disk1 0\n16 48 linear disk1 32";
  }

  // Swaps to the other disk. Half of the time the size changes for a moment, too.
  void swap(Random& random) {
    const size_t to = 1 - at;
    REQUIRE(lab.load(map, text(to)));
    REQUIRE(map.suspend({.flush = random.one_in(2)}));
    move(to);
    at = to;
    REQUIRE(map.resume());
    if (random.one_in(4)) {
      REQUIRE(lab.load(map, text(to) + "\n64 8 zero"));
      REQUIRE(map.resume());
      CHECK(map.size() == 72 * sector_size);
    }
  }
  void move(size_t to) {
    for (uint64_t sector = 0; sector < sectors; ++sector) {
      const auto place = [sector](size_t disk) {
        if (disk == 0) return sector + 8;
        return sector < 16 ? sector : sector + 16;
      };
      const auto bytes = lab.disks[1 - to]->peek(place(1 - to) * sector_size, sector_size);
      lab.disks[to]->poke(place(to) * sector_size, bytes);
      // What is left behind must not be seen any more.
      lab.disks[1 - to]->poke(place(1 - to) * sector_size,
                              std::vector<std::byte>(sector_size, std::byte(0xee)));
    }
  }

  // Writes and reads the sectors that are this worker's own.
  void work(uint64_t worker, uint64_t workers, uint64_t rounds, uint64_t seed) {
    Random random(seed);
    ByteModel model(sectors * sector_size);
    for (uint64_t i = 0; i < rounds; ++i) {
      const uint64_t sector = worker + workers * random.below(sectors / workers);
      MappedDevice& device = random.one_in(2) ? top : map;
      if (random.one_in(2)) {
        const auto bytes = random_bytes(random, sector_size);
        if (!device.write(sector * sector_size, bytes)) ++failures;
        model.write(sector * sector_size, bytes);
      } else {
        std::vector<std::byte> bytes(sector_size);
        if (!device.read(sector * sector_size, bytes)) ++failures;
        if (first_difference(bytes, model.bytes(sector * sector_size, sector_size))) ++differences;
      }
      if (random.one_in(16) && !device.flush()) ++failures;
    }
  }

  void run(uint64_t seed, uint64_t rounds, uint64_t swaps) {
    constexpr uint64_t workers = 4;
    std::vector<Thread> threads;
    for (uint64_t i = 0; i < workers; ++i) {
      auto thread =
          Thread::start("worker", [this, i, rounds, seed] { work(i, workers, rounds, seed + i); });
      REQUIRE(thread);
      threads.push_back(std::move(*thread));
    }
    std::atomic<bool> ended = false;
    auto watcher = Thread::start("watcher", [this, &ended] {
      while (!ended) {
        if (map.table().empty() || map.status().empty() || map.deps().size() != 1) ++failures;
        sleep_for(std::chrono::microseconds(50));
      }
    });
    REQUIRE(watcher);
    Random random(seed ^ 1);
    for (uint64_t i = 0; i < swaps; ++i) swap(random);
    for (Thread& thread : threads) thread.join();
    ended = true;
    watcher->join();
    CHECK(failures == 0);
    CHECK(differences == 0);
  }

  Lab lab;
  MappedDevice map, top;
  size_t at = 0;
  std::atomic<uint64_t> failures{0}, differences{0};
};

TEST_CASE("tables swapped under load lose nothing, in every order of a simulated world") {
  simulate(test_iterations(40), [](uint64_t seed) {
    SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Swapping swapping;
    swapping.run(seed, 40, 8);
  });
}

TEST_CASE("tables swapped under load lose nothing, with real threads") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Swapping swapping;
  swapping.run(seed, 2000 * test_iterations(1), 200 * test_iterations(1));
}

TEST_CASE("a request that is inside a map comes through it again while that is being suspended") {
  Lab lab(1);
  MappedDevice map("map"), top("top");
  REQUIRE(lab.set(map, "0 64 linear disk0 0") == "");
  lab.add(map);
  REQUIRE(lab.set(top, "0 32 striped 2 1 map 0 map 32") == "");
  Mapping mapping;
  REQUIRE(top.map(Op::read, 0, sector_size, Wait::yes, mapping));
  auto suspending = Thread::start("suspend", [&map] { CHECK(map.suspend()); });
  REQUIRE(suspending);
  while (!map.suspended()) sleep_for(std::chrono::milliseconds(1));
  // Its next stripe is behind the same gate, which waits for it; for others that is closed.
  CHECK(top.map(Op::read, sector_size, sector_size, Wait::yes, mapping));
  CHECK(mapping.extents().size() == 2);
  Mapping other;
  CHECK(!top.map(Op::read, 0, sector_size, Wait::no, other));
  other.clear();
  mapping.clear();
  suspending->join();
  REQUIRE(map.resume());
  CHECK(top.map(Op::read, 0, sector_size, Wait::no, other));
}

}  // namespace
}  // namespace volfs::test
