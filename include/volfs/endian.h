// SPDX-License-Identifier: GPL-2.0-or-later
// Integers with a fixed byte order and no alignment, for on-disk structures: a struct made of
// them has exactly the layout written, on every machine, and may overlay any buffer.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>

namespace volfs {

template <std::unsigned_integral T, std::endian order>
class Ordered {
 public:
  Ordered() = default;
  Ordered(T value) { *this = value; }  // NOLINT: implicit on purpose, it is an integer
  Ordered& operator=(T value) {
    value = swap(value);
    std::memcpy(bytes_, &value, sizeof value);
    return *this;
  }
  operator T() const {  // NOLINT: implicit on purpose
    T value;
    std::memcpy(&value, bytes_, sizeof value);
    return swap(value);
  }

 private:
  static T swap(T value) {
    if constexpr (order == std::endian::native || sizeof(T) == 1) {
      return value;
    } else if constexpr (sizeof(T) == 2) {
      return __builtin_bswap16(value);
    } else if constexpr (sizeof(T) == 4) {
      return __builtin_bswap32(value);
    } else {
      return __builtin_bswap64(value);
    }
  }
  unsigned char bytes_[sizeof(T)];
};

using Le16 = Ordered<uint16_t, std::endian::little>;
using Le32 = Ordered<uint32_t, std::endian::little>;
using Le64 = Ordered<uint64_t, std::endian::little>;
using Be16 = Ordered<uint16_t, std::endian::big>;
using Be32 = Ordered<uint32_t, std::endian::big>;
using Be64 = Ordered<uint64_t, std::endian::big>;
static_assert(sizeof(Le64) == 8 && alignof(Le64) == 1);

}  // namespace volfs
