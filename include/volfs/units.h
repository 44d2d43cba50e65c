// SPDX-License-Identifier: GPL-2.0-or-later
// Sizes and checked arithmetic. Inside the program everything is bytes; sectors of 512 bytes
// exist only in device-mapper table text and on disk, and are converted once, at that edge.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "volfs/error.h"

namespace volfs {

inline constexpr uint64_t sector_size = 512;
inline constexpr unsigned sector_shift = 9;
inline constexpr uint64_t KiB = 1024;
inline constexpr uint64_t MiB = 1024 * KiB;
inline constexpr uint64_t GiB = 1024 * MiB;
inline constexpr uint64_t TiB = 1024 * GiB;

// Largest size of a device: what an off_t can address, in whole sectors.
inline constexpr uint64_t max_device_size = (uint64_t{1} << 63) - sector_size;

// How many devices may stand on each other, from a volume down to its images. A request descends
// through all of them on one stack.
inline constexpr unsigned max_stack_depth = 200;

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}
inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
// Whether [offset, offset+length) lies within [0, size), without overflow.
inline bool range_within(uint64_t offset, uint64_t length, uint64_t size) {
  return length <= size && offset <= size - length;
}

inline bool is_power_of_two(uint64_t n) {
  return std::has_single_bit(n);
}
// ALIGN need not be a power of two, and is not 0. round_up must not overflow.
inline uint64_t round_down(uint64_t n, uint64_t align) {
  return n - n % align;
}
inline uint64_t round_up(uint64_t n, uint64_t align) {
  return round_down(n + align - 1, align);
}
inline uint64_t div_round_up(uint64_t n, uint64_t d) {
  return n / d + (n % d != 0);
}
// Of the first OFFSET bytes, dealt out in chunks of CHUNK to WIDTH devices in turn: how many the
// device INDEX (below WIDTH) gets.
inline uint64_t dealt_before(uint64_t offset, uint64_t index, uint64_t width, uint64_t chunk) {
  const uint64_t row = offset / (chunk * width), rest = offset % (chunk * width);
  const uint64_t before = index * chunk, mine = rest > before ? rest - before : 0;
  return row * chunk + (mine < chunk ? mine : chunk);
}

// Reads a size as definitions write it: a decimal number, alone (bytes) or followed, without
// or with one blank, by KiB/MiB/GiB/TiB/PiB/EiB, K/M/G/T/P/E (binary, as lvm2; either case), B
// or s (sectors). A fraction ("1.5GiB") is allowed if it gives whole bytes. The error says what
// was found and what was expected; it is EINVAL, or ERANGE above max_device_size.
Result<uint64_t> parse_size(std::string_view text);

// Writes a size so that parse_size reads it back: the largest binary unit that divides it.
std::string format_size(uint64_t bytes);
// Writes a size for people, at most two decimals: "1.50GiB".
std::string format_size_rounded(uint64_t bytes);

// Reads an unsigned decimal number that is the whole of TEXT. EINVAL or ERANGE.
Result<uint64_t> parse_u64(std::string_view text);

}  // namespace volfs
