// SPDX-License-Identifier: GPL-2.0-or-later
// The checksum of labels, area headers and metadata text: CRC-32 (reflected 0x04c11db7) without
// the final inversion, started from lvm2's own value. Checked against lvm2's lib/misc/crc.c.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace volfs::lvm {

inline constexpr uint32_t initial_crc = 0xf597a6cf;

uint32_t crc(std::span<const std::byte> bytes, uint32_t start = initial_crc);
inline uint32_t crc(std::string_view text, uint32_t start = initial_crc) {
  return crc(std::as_bytes(std::span(text)), start);
}

}  // namespace volfs::lvm
