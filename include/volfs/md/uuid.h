// SPDX-License-Identifier: GPL-2.0-or-later
// The 128-bit names of arrays and members. Bytes are in the order that version 1 superblocks
// store and mdadm prints: "01234567:89abcdef:01234567:89abcdef" starts with byte 0x01.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "volfs/error.h"

namespace volfs::md {

struct Uuid {
  std::array<uint8_t, 16> bytes{};
  auto operator<=>(const Uuid&) const = default;
  bool is_nil() const { return bytes == std::array<uint8_t, 16>{}; }
};

// As mdadm prints it: four groups of eight hex digits with colons.
std::string format_uuid(const Uuid& uuid);
// A new one.
Uuid random_uuid();
// 32 hex digits; colons, dashes, dots and blanks between them are skipped.
Result<Uuid> parse_uuid(std::string_view text);

}  // namespace volfs::md
