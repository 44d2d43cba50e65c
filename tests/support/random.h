// SPDX-License-Identifier: GPL-2.0-or-later
// Random numbers that are a function of a seed on every machine, and the seed of a test run.
//
//   const uint64_t seed = test_seed();
//   INFO("VOLFS_SEED=", seed);        // doctest prints it when a check of the scope fails
//   Random random(seed);
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace volfs::test {

// The seed of this run: the environment's VOLFS_SEED, else a new one each run.
uint64_t test_seed();
// How many rounds a random test makes: the environment's VOLFS_ITERATIONS, else SHORT_RUN.
uint64_t test_iterations(uint64_t short_run);

// xoshiro256**, seeded by splitmix64. Not thread-safe.
class Random {
 public:
  explicit Random(uint64_t seed);
  uint64_t next();
  // In [0, LIMIT); 0 if LIMIT is 0.
  uint64_t below(uint64_t limit);
  // In [LEAST, MOST].
  uint64_t between(uint64_t least, uint64_t most) { return least + below(most - least + 1); }
  // True ONCE in so many.
  bool one_in(uint64_t once) { return below(once) == 0; }
  void fill(std::span<std::byte> memory);

 private:
  uint64_t state_[4];
};

}  // namespace volfs::test
