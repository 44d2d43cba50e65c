// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "volfs/md/layout.h"
#include "volfs/md/parity.h"

using namespace volfs::md;

namespace {

uint64_t seed() {
  const char* text = std::getenv("VOLFS_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 20261126;
}

unsigned multiply(unsigned a, unsigned b) {
  unsigned product = 0;
  for (; b != 0; b >>= 1) {
    if (b & 1) product ^= a;
    a = a << 1 ^ (a & 0x80 ? 0x11d : 0);
  }
  return product & 255;
}

// A row of count data blocks, P and Q, all `shift` bytes off a 64-byte boundary.
class Row {
 public:
  Row(size_t count, size_t length, size_t shift, uint64_t row_seed) : length_(length) {
    size_t room = (length + shift + 63) / 64 * 64 + 64;
    memory_.resize((count + 2) * room + 64);
    auto base = reinterpret_cast<uintptr_t>(memory_.data());
    std::byte* start = memory_.data() + (64 - base % 64) % 64;
    for (size_t i = 0; i < count + 2; ++i) blocks.push_back(start + i * room + shift);
    std::mt19937_64 random(row_seed);
    for (size_t i = 0; i < count; ++i)
      for (size_t k = 0; k < length; ++k) blocks[i][k] = static_cast<std::byte>(random());
  }
  std::vector<const std::byte*> data() const { return {blocks.begin(), blocks.end() - 2}; }
  std::byte* p() { return blocks[blocks.size() - 2]; }
  std::byte* q() { return blocks.back(); }
  std::vector<std::vector<std::byte>> copy() const {
    std::vector<std::vector<std::byte>> all;
    for (std::byte* block : blocks) {
      if (block == nullptr)
        all.emplace_back();
      else
        all.emplace_back(block, block + length_);
    }
    return all;
  }
  std::vector<std::byte*> blocks;

 private:
  std::vector<std::byte> memory_;
  size_t length_;
};

void check_definition(Row& row, size_t length) {
  auto data = row.data();
  for (size_t k = 0; k < length; k += 37) {
    unsigned p = 0, q = 0, factor = 1;
    for (const std::byte* block : data) {
      if (block != nullptr) {
        p ^= static_cast<unsigned>(block[k]);
        q ^= multiply(static_cast<unsigned>(block[k]), factor);
      }
      factor = multiply(factor, 2);
    }
    REQUIRE(static_cast<unsigned>(row.p()[k]) == p);
    REQUIRE(static_cast<unsigned>(row.q()[k]) == q);
  }
}

void check_all_losses(Row& row, size_t length) {
  auto before = row.copy();
  size_t n = row.blocks.size();
  for (size_t a = 0; a < n; ++a)
    for (size_t b = a; b < n; ++b) {
      if (row.blocks[a] == nullptr || row.blocks[b] == nullptr) continue;
      CAPTURE(a);
      CAPTURE(b);
      std::memset(row.blocks[a], 0xa5, length);
      std::memset(row.blocks[b], 0x5a, length);
      recover_pq(row.blocks, a, b, length);
      REQUIRE(row.copy() == before);
    }
}

}  // namespace

TEST_CASE("P and Q are what the definition says, aligned or not, of any length") {
  MESSAGE("VOLFS_SEED=", seed());
  for (size_t count : {1, 2, 3, 6, 14})
    for (size_t length : {64, 512, 4096, 20480, 16384 + 64, 511, 17, 1})
      for (size_t shift : {0, 1, 32}) {
        CAPTURE(count);
        CAPTURE(length);
        CAPTURE(shift);
        Row row(count, length, shift, seed() + count * length);
        generate_pq(row.data(), row.p(), row.q(), length);
        check_definition(row, length);
        CHECK(check_pq(row.data(), row.p(), row.q(), length) == 0);
        row.p()[length - 1] ^= std::byte{1};
        CHECK(check_pq(row.data(), row.p(), row.q(), length) == 1);
        row.q()[0] ^= std::byte{128};
        CHECK(check_pq(row.data(), row.p(), row.q(), length) == 3);
        CHECK(check_pq(row.data(), nullptr, row.q(), length) == 2);
      }
}

TEST_CASE("every pair of lost members is restored exactly") {
  for (size_t count : {2, 3, 4, 6})
    for (size_t length : {64, 4096, 1000})
      for (size_t shift : {0, 3}) {
        CAPTURE(count);
        CAPTURE(length);
        Row row(count, length, shift, seed() + count);
        generate_pq(row.data(), row.p(), row.q(), length);
        check_all_losses(row, length);
      }
}

TEST_CASE("every pair of lost members is restored in the rows of every raid6 layout") {
  for (uint32_t number : {0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20})
    for (uint32_t disks = 4; disks <= 8; ++disks) {
      CAPTURE(number);
      CAPTURE(disks);
      auto layout = *ParityLayout::make({6, number, disks, 4096});
      for (uint64_t r = 0; r < disks; ++r) {
        RowShape s = layout.shape(r);
        Row row(layout.syndrome_count(), 128, 0, seed() + r);
        std::vector<bool> used(layout.syndrome_count());
        for (uint32_t i = 0; i < layout.data_disks(); ++i)
          used[layout.syndrome_index(s, layout.data_slot(s, i))] = true;
        for (size_t i = 0; i < used.size(); ++i)
          if (!used[i]) row.blocks[i] = nullptr;
        generate_pq(row.data(), row.p(), row.q(), 128);
        check_definition(row, 128);
        check_all_losses(row, 128);
      }
    }
}

TEST_CASE("a row as wide as raid6 can be is generated and restored") {
  Row row(254, 192, 0, seed());
  generate_pq(row.data(), row.p(), row.q(), 192);
  check_definition(row, 192);
  auto before = row.copy();
  for (auto [a, b] :
       {std::pair<size_t, size_t>{0, 253}, {13, 254}, {253, 255}, {254, 255}, {7, 200}}) {
    std::memset(row.blocks[a], 0, 192);
    std::memset(row.blocks[b], 0, 192);
    recover_pq(row.blocks, a, b, 192);
    REQUIRE(row.copy() == before);
  }
}

TEST_CASE("a lost P or Q that nobody wants may be null") {
  Row row(4, 256, 0, seed());
  generate_pq(row.data(), row.p(), row.q(), 256);
  auto before = row.copy();
  auto blocks = row.blocks;
  blocks[4] = nullptr;
  std::memset(row.blocks[1], 0, 256);
  recover_pq(blocks, 1, 4, 256);
  CHECK(row.copy() == before);
  blocks = row.blocks;
  blocks[5] = nullptr;
  std::memset(row.blocks[3], 0, 256);
  recover_pq(blocks, 3, 5, 256);
  CHECK(row.copy() == before);
  std::memset(row.blocks[0], 0, 256);
  recover_pq(blocks, 0, 0, 256);
  CHECK(row.copy() == before);
}

TEST_CASE("P and Q follow a changed block without the others") {
  for (size_t length : {4096, 9001})
    for (size_t shift : {0, 5})
      for (uint32_t index = 0; index < 5; ++index) {
        Row row(5, length, shift, seed());
        generate_pq(row.data(), row.p(), row.q(), length);
        std::vector<std::byte> delta(row.blocks[index], row.blocks[index] + length);
        for (size_t k = 0; k < length; ++k)
          row.blocks[index][k] = static_cast<std::byte>(k * 7 + 3);
        xor_into(delta.data(), row.blocks[index], length);
        xor_into(row.p(), delta.data(), length);
        update_q(row.q(), index, delta.data(), length);
        CHECK(check_pq(row.data(), row.p(), row.q(), length) == 0);
      }
}

TEST_CASE("a sum of nothing is zero and of one block is a copy") {
  std::vector<std::byte> target(100, std::byte{1}), source(100, std::byte{7});
  const std::byte* one[] = {nullptr, source.data()};
  xor_blocks(one, target.data(), 100);
  CHECK(target == source);
  const std::byte* none[] = {nullptr};
  xor_blocks(none, target.data(), 100);
  CHECK(target == std::vector<std::byte>(100));
}
