// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/random.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <random>

namespace volfs::test {
namespace {

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 0) : otherwise;
}

}  // namespace

uint64_t test_seed() {
  static const uint64_t seed = from_environment("VOLFS_SEED", std::random_device{}());
  return seed;
}

uint64_t test_iterations(uint64_t short_run) {
  return from_environment("VOLFS_ITERATIONS", short_run);
}

Random::Random(uint64_t seed) {
  for (uint64_t& word : state_) {
    seed += 0x9e3779b97f4a7c15;
    uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    word = z ^ (z >> 31);
  }
}

uint64_t Random::next() {
  const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

uint64_t Random::below(uint64_t limit) {
  // The bias of the remainder is far below what a test could notice.
  return limit == 0 ? 0 : next() % limit;
}

void Random::fill(std::span<std::byte> memory) {
  while (memory.size() >= 8) {
    const uint64_t word = next();
    std::memcpy(memory.data(), &word, 8);
    memory = memory.subspan(8);
  }
  if (memory.empty()) return;
  const uint64_t word = next();
  std::memcpy(memory.data(), &word, memory.size());
}

}  // namespace volfs::test
