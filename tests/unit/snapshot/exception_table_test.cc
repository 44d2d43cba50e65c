// SPDX-License-Identifier: GPL-2.0-or-later
#include "dm/snapshot/exception_table.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>
#include <vector>

#include "support/random.h"
#include "volfs/sync.h"

using volfs::dm::Exception;
using volfs::dm::ExceptionTable;
using volfs::test::Random;

namespace {

// Checks find() over [FROM, FROM + COUNT) against a plain map.
void check_range(const ExceptionTable& table, const std::map<uint64_t, uint64_t>& model,
                 uint64_t from, uint64_t count) {
  for (uint64_t chunk = from; chunk < from + count;) {
    const auto run = table.find(chunk, from + count - chunk);
    REQUIRE(run.count >= 1);
    REQUIRE(run.count <= from + count - chunk);
    for (uint64_t i = 0; i < run.count; ++i) {
      const auto known = model.find(chunk + i);
      REQUIRE(run.mapped == (known != model.end()));
      if (run.mapped) REQUIRE(run.new_chunk + i == known->second);
    }
    chunk += run.count;
  }
}

}  // namespace

TEST_CASE("a table of exceptions answers as a plain map does") {
  const uint64_t seed = volfs::test::test_seed();
  INFO("VOLFS_SEED=" << seed);
  Random random(seed);
  const uint64_t steps = volfs::test::test_iterations(20000);
  ExceptionTable table;
  std::map<uint64_t, uint64_t> model;
  const uint64_t space = 6000;
  uint64_t next_new = 2;
  for (uint64_t step = 0; step < steps; ++step) {
    const uint64_t chunk = random.below(space);
    switch (random.below(4)) {
      case 0: {  // a run, forwards or backwards in memory
        const uint64_t count = random.between(1, 300);
        const bool backwards = random.one_in(2);
        for (uint64_t i = 0; i < count; ++i) {
          const uint64_t at = backwards ? count - 1 - i : i;
          REQUIRE(table.insert({chunk + at, next_new + at}) ==
                  model.emplace(chunk + at, next_new + at).second);
        }
        next_new += count;
        break;
      }
      case 1:
        REQUIRE(table.insert({chunk, next_new}) == model.emplace(chunk, next_new).second);
        ++next_new;
        break;
      case 2:
        REQUIRE(table.erase(chunk) == (model.erase(chunk) == 1));
        break;
      default:
        for (uint64_t i = 0; i < 200; ++i)
          REQUIRE(table.erase(chunk + i) == (model.erase(chunk + i) == 1));
    }
    if (step % 64 == 0) check_range(table, model, random.below(space), random.between(1, 1000));
  }
  check_range(table, model, 0, space + 1000);
  CHECK(table.chunks() == model.size());
  uint64_t visited = 0;
  table.for_each([&](Exception first, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i)
      CHECK(model.at(first.old_chunk + i) == first.new_chunk + i);
    visited += count;
  });
  CHECK(visited == model.size());
}

TEST_CASE("consecutive chunks share an entry") {
  ExceptionTable table;
  for (uint64_t i = 0; i < 10000; ++i) CHECK(table.insert({i, i + 2}));
  CHECK(table.chunks() == 10000);
  CHECK(table.entries() == 40);  // one for each 256
  CHECK(table.find(512, 1000).count == 256);
  // What comes between two entries makes them one.
  ExceptionTable gap;
  CHECK(gap.insert({10, 20}));
  CHECK(gap.insert({12, 22}));
  CHECK(gap.entries() == 2);
  CHECK(gap.insert({11, 21}));
  CHECK(gap.entries() == 1);
  CHECK(!gap.insert({11, 99}));
  // And what is taken out of the middle makes it two again.
  CHECK(gap.erase(11));
  CHECK(gap.entries() == 2);
  CHECK(gap.find(12).new_chunk == 22);
  CHECK(!gap.find(11).mapped);
}

TEST_CASE("the table takes chunks at the ends of the number range") {
  ExceptionTable table;
  const uint64_t last = UINT64_MAX;
  CHECK(table.insert({last, ExceptionTable::max_new_chunk}));
  CHECK(table.insert({0, 2}));
  CHECK(table.find(last, 1).mapped);
  CHECK(table.find(last, 1).new_chunk == ExceptionTable::max_new_chunk);
  CHECK(!table.find(last - 1, 2).mapped);
  CHECK(table.find(last - 1, 2).count == 1);
  CHECK(table.find(0, 500).mapped);
}

TEST_CASE("a million exceptions at random places take 24 bytes each or less") {
  const uint64_t seed = volfs::test::test_seed();
  INFO("VOLFS_SEED=" << seed);
  Random random(seed);
  const uint64_t count = volfs::test::test_iterations(1000000);
  ExceptionTable table;
  const auto start = volfs::now();
  uint64_t next_new = 2;
  while (table.chunks() < count) {
    table.insert({random.below(count * 100), next_new});
    next_new += 2;  // never consecutive
    if (table.chunks() == count / 2) CHECK(table.memory() <= 24 * table.chunks() + 64 * 1024);
  }
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(volfs::now() - start);
  CHECK(table.memory() <= 24 * table.chunks() + 64 * 1024);
  MESSAGE(table.chunks() << " exceptions: " << double(table.memory()) / double(table.chunks())
                         << " bytes each, " << took.count() << " ms");
}
