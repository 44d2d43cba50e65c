// SPDX-License-Identifier: GPL-2.0-or-later
#include "lvm/crc.h"

#include <array>

namespace volfs::lvm {
namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320u : 0u);
    table[i] = value;
  }
  return table;
}
constexpr auto table = make_table();

}  // namespace

uint32_t crc(std::span<const std::byte> bytes, uint32_t start) {
  uint32_t value = start;
  for (std::byte byte : bytes)
    value = (value >> 8) ^ table[(value ^ std::to_integer<uint32_t>(byte)) & 0xff];
  return value;
}

}  // namespace volfs::lvm
