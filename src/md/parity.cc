// SPDX-License-Identifier: GPL-2.0-or-later
// ISA-L does the work. Its xor and P+Q routines want aligned blocks; its Reed-Solomon routines take
// any, and serve what is unaligned and every recovery. Both use polynomial 0x11d.
#include "volfs/md/parity.h"

#include <isa-l.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace volfs::md {
namespace {

// A piece of every block of a row stays in the L2 cache together.
constexpr size_t piece_size = 16384;
constexpr size_t fast_align = 64;
constexpr size_t table_size = 32;  // bytes ISA-L needs for each coefficient

using Source = const std::byte*;

alignas(64) const std::byte zero_piece[piece_size]{};

unsigned char* raw(std::byte* p) {
  return reinterpret_cast<unsigned char*>(p);
}
unsigned char* raw(const std::byte* p) {
  // ISA-L's prototypes lack const for its inputs; it does not write them.
  return reinterpret_cast<unsigned char*>(const_cast<std::byte*>(p));
}

unsigned char power_of_2(size_t exponent) {
  unsigned value = 1;
  for (exponent %= 255; exponent != 0; --exponent) {
    value <<= 1;
    if (value & 0x100) value ^= 0x11d;
  }
  return static_cast<unsigned char>(value);
}

// One or two sums of the same sources, each source times a coefficient of its own.
class Combination {
 public:
  explicit Combination(unsigned targets) : targets_(targets) {}
  void add(Source source, unsigned char first, unsigned char second = 0) {
    sources_[count_] = source;
    first_[count_] = first;
    second_[count_] = second;
    ++count_;
  }
  void run(std::byte* first, std::byte* second, size_t length);

 private:
  unsigned targets_;
  size_t count_ = 0;
  // Two more than the data: recovery reads P and Q as well.
  std::array<Source, max_parity_sources + 2> sources_;
  std::array<unsigned char, max_parity_sources + 2> first_, second_;
};

void Combination::run(std::byte* first, std::byte* second, size_t length) {
  if (count_ == 0) {
    std::memset(first, 0, length);
    if (second != nullptr) std::memset(second, 0, length);
    return;
  }
  alignas(64) std::array<unsigned char, 2 * table_size*(max_parity_sources + 2)> tables;
  for (size_t i = 0; i < count_; ++i) {
    gf_vect_mul_init(first_[i], &tables[i * table_size]);
    if (targets_ == 2) gf_vect_mul_init(second_[i], &tables[(count_ + i) * table_size]);
  }
  std::array<unsigned char*, max_parity_sources + 2> in;
  for (size_t done = 0; done < length;) {
    size_t step = std::min(piece_size, length - done);
    for (size_t i = 0; i < count_; ++i) in[i] = raw(sources_[i] + done);
    unsigned char* out[2] = {raw(first + done), targets_ == 2 ? raw(second + done) : nullptr};
    ec_encode_data(static_cast<int>(step), static_cast<int>(count_), static_cast<int>(targets_),
                   tables.data(), in.data(), out);
    done += step;
  }
}

bool aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % fast_align == 0;
}

template <class Sources>
bool fast(const Sources& sources, const std::byte* p, const std::byte* q, size_t length) {
  if (length % fast_align != 0 || !aligned(p) || !aligned(q)) return false;
  return std::all_of(sources.begin(), sources.end(), [](Source s) { return aligned(s); });
}

// P alone of present, aligned blocks: at least two of them.
void fast_xor(std::span<const Source> data, std::byte* p, size_t length) {
  std::array<void*, max_parity_sources + 3> blocks;
  for (size_t done = 0; done < length;) {
    size_t step = std::min(piece_size, length - done);
    for (size_t i = 0; i < data.size(); ++i) blocks[i] = raw(data[i] + done);
    blocks[data.size()] = p + done;
    xor_gen(static_cast<int>(data.size() + 1), static_cast<int>(step), blocks.data());
    done += step;
  }
}

// P and Q; holes are allowed here, because the position gives the coefficient.
void fast_pq(std::span<const Source> data, std::byte* p, std::byte* q, size_t length) {
  std::array<void*, max_parity_sources + 2> blocks;
  for (size_t done = 0; done < length;) {
    size_t step = std::min(piece_size, length - done);
    for (size_t i = 0; i < data.size(); ++i)
      blocks[i] = raw(data[i] != nullptr ? data[i] + done : zero_piece);
    blocks[data.size()] = p + done;
    blocks[data.size() + 1] = q + done;
    pq_gen(static_cast<int>(data.size() + 2), static_cast<int>(step), blocks.data());
    done += step;
  }
}

// Coefficients for the first lost data block x when y (> x) is lost too, by P and Q.
struct TwoLost {
  unsigned char a, b;
  TwoLost(size_t x, size_t y) {
    unsigned char inverse = gf_inv(static_cast<unsigned char>(power_of_2(y - x) ^ 1));
    a = gf_mul(power_of_2(y - x), inverse);
    b = gf_mul(power_of_2(255 - x % 255), inverse);
  }
};

void recover_two_data(std::span<std::byte* const> blocks, size_t x, size_t y, size_t length) {
  size_t count = blocks.size() - 2;
  TwoLost lost(x, y);
  Combination sum(2);
  for (size_t i = 0; i < count; ++i) {
    if (i == x || i == y || blocks[i] == nullptr) continue;
    auto factor = static_cast<unsigned char>(lost.a ^ gf_mul(lost.b, power_of_2(i)));
    sum.add(blocks[i], factor, static_cast<unsigned char>(factor ^ 1));
  }
  sum.add(blocks[count], lost.a, static_cast<unsigned char>(lost.a ^ 1));
  sum.add(blocks[count + 1], lost.b, lost.b);
  sum.run(blocks[x], blocks[y], length);
}

// Data block x by Q alone, and P with it unless that is null.
void recover_data_and_p(std::span<std::byte* const> blocks, size_t x, size_t length) {
  size_t count = blocks.size() - 2;
  std::byte* p = blocks[count];
  unsigned char inverse = power_of_2(255 - x % 255);
  Combination sum(p != nullptr ? 2 : 1);
  for (size_t i = 0; i < count; ++i) {
    if (i == x || blocks[i] == nullptr) continue;
    unsigned char factor = gf_mul(inverse, power_of_2(i));
    sum.add(blocks[i], factor, static_cast<unsigned char>(factor ^ 1));
  }
  sum.add(blocks[count + 1], inverse, inverse);
  sum.run(blocks[x], p, length);
}

void recover_data(std::span<std::byte* const> blocks, size_t x, size_t length) {
  std::array<Source, max_parity_sources + 1> sources;
  size_t n = 0;
  for (size_t i = 0; i + 1 < blocks.size(); ++i)
    if (i != x) sources[n++] = blocks[i];
  xor_blocks({sources.data(), n}, blocks[x], length);
}

}  // namespace

void xor_blocks(std::span<const Source> sources, std::byte* target, size_t length) {
  std::array<Source, max_parity_sources + 2> present;
  size_t n = 0;
  for (Source s : sources)
    if (s != nullptr && n < present.size()) present[n++] = s;
  std::span<const Source> data{present.data(), n};
  if (n == 1) {
    std::memcpy(target, present[0], length);
  } else if (n > 1 && fast(data, target, nullptr, length)) {
    fast_xor(data, target, length);
  } else {
    Combination sum(1);
    for (Source s : data) sum.add(s, 1);
    sum.run(target, nullptr, length);
  }
}

void xor_into(std::byte* target, const std::byte* source, size_t length) {
  // Words by memcpy: the compiler makes vectors of it, at any alignment.
  size_t i = 0;
  for (; i + sizeof(uint64_t) <= length; i += sizeof(uint64_t)) {
    uint64_t a, b;
    std::memcpy(&a, target + i, sizeof a);
    std::memcpy(&b, source + i, sizeof b);
    a ^= b;
    std::memcpy(target + i, &a, sizeof a);
  }
  for (; i < length; ++i) target[i] ^= source[i];
}

void generate_pq(std::span<const Source> data, std::byte* p, std::byte* q, size_t length) {
  data = data.first(std::min(data.size(), max_parity_sources));
  if (q == nullptr) {
    if (p != nullptr) xor_blocks(data, p, length);
    return;
  }
  if (p != nullptr && data.size() >= 2 && fast(data, p, q, length)) {
    fast_pq(data, p, q, length);
    return;
  }
  Combination sum(p != nullptr ? 2 : 1);
  for (size_t i = 0; i < data.size(); ++i)
    if (data[i] != nullptr) sum.add(data[i], power_of_2(i), 1);
  sum.run(q, p, length);
}

void update_q(std::byte* q, uint32_t syndrome_index, const std::byte* delta, size_t length) {
  alignas(32) unsigned char table[table_size];
  gf_vect_mul_init(power_of_2(syndrome_index), table);
  alignas(64) std::byte product[4096];
  for (size_t done = 0; done < length;) {
    size_t step = std::min(sizeof product, length - done);
    unsigned char* in[1] = {raw(delta + done)};
    unsigned char* out[1] = {raw(product)};
    ec_encode_data(static_cast<int>(step), 1, 1, table, in, out);
    xor_into(q + done, product, step);
    done += step;
  }
}

void recover_pq(std::span<std::byte* const> blocks, size_t a, size_t b, size_t length) {
  size_t p = blocks.size() - 2, q = blocks.size() - 1;
  if (a > b) std::swap(a, b);
  if (b < p && a != b) {
    recover_two_data(blocks, a, b, length);
  } else if (a < p && b == p) {
    recover_data_and_p(blocks, a, length);
  } else {
    // P is there, so a data block comes from it; what is lost of P and Q comes from the data.
    if (a < p) recover_data(blocks, a, length);
    std::array<Source, max_parity_sources> data;
    std::copy_n(blocks.begin(), p, data.begin());
    generate_pq({data.data(), p}, a == p ? blocks[p] : nullptr, b == q ? blocks[q] : nullptr,
                length);
  }
}

unsigned check_pq(std::span<const Source> data, const std::byte* p, const std::byte* q,
                  size_t length) {
  alignas(64) std::byte p_piece[4096], q_piece[4096];
  std::array<Source, max_parity_sources> piece;
  size_t count = std::min(data.size(), piece.size());
  unsigned wrong = 0;
  for (size_t done = 0; done < length;) {
    size_t step = std::min(sizeof p_piece, length - done);
    for (size_t i = 0; i < count; ++i) piece[i] = data[i] != nullptr ? data[i] + done : nullptr;
    generate_pq({piece.data(), count}, p != nullptr ? p_piece : nullptr,
                q != nullptr ? q_piece : nullptr, step);
    if (p != nullptr && std::memcmp(p_piece, p + done, step) != 0) wrong |= 1;
    if (q != nullptr && std::memcmp(q_piece, q + done, step) != 0) wrong |= 2;
    done += step;
  }
  return wrong;
}

}  // namespace volfs::md
