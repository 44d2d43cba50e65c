// SPDX-License-Identifier: GPL-2.0-or-later
// lvm2's segment types: what each takes and how many devices it needs.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "reader.h"
#include "volfs/config/definition.h"

namespace volfs::config {

struct LvRule {
  LvType type;
  std::string_view name;
  // Data stripes; most 1 means that the type does not stripe. A default of 0 must be given.
  uint32_t default_stripes, least_stripes, most_stripes;
  uint32_t parity;
  // Copies besides the first; most 0 means that the type has none.
  uint32_t default_mirrors, most_mirrors;
  bool has_regions;  // a resync, kept in regions
};

const LvRule& lv_rule(LvType type);
std::span<const Word<LvType>> lv_type_words();
// Whether TEXT is a segment type of lvm2 that volfs does not make.
bool is_other_lv_type(std::string_view text);

// "128MiB", "100%FREE", "50%VG", "10%PVS", "20%ORIGIN"; with EXTENTS a bare number counts
// extents, as after lvcreate -l.
std::optional<LvSize> parse_lv_size(std::string_view text, bool extents);

}  // namespace volfs::config
