// SPDX-License-Identifier: GPL-2.0-or-later
// mdadm's words for levels and layouts, with md's numbers, and what each level allows.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "reader.h"
#include "volfs/config/definition.h"

namespace volfs::config {

struct LevelRule {
  ArrayLevel level;
  std::string_view name;
  size_t least_devices;  // slots, missing ones too
  bool one_with_force;   // a single device is allowed if forced, as mdadm
  size_t may_miss;       // of the slots; raid1 all but one; raid10 by its layout
  bool has_redundancy;   // spares, a bitmap, a resync
};

const LevelRule& level_rule(ArrayLevel level);
std::span<const Word<ArrayLevel>> level_words();

// md's number for the layout TEXT of LEVEL over DEVICES slots; the error says what was expected.
std::expected<uint32_t, std::string> parse_layout(ArrayLevel level, size_t devices,
                                                  std::string_view text);

// raid10's layout number taken apart.
struct Raid10Layout {
  uint32_t near, far;
  bool offset;
  uint32_t copies() const { return near * far; }
};
Raid10Layout raid10_layout(uint32_t layout);
inline constexpr uint32_t raid10_default_layout = 0x102;

// Whether raid10 of this layout loses data when the slots in MISSING are absent.
bool raid10_loses(const Raid10Layout& layout, const std::vector<bool>& missing);

}  // namespace volfs::config
