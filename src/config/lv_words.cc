// SPDX-License-Identifier: GPL-2.0-or-later
// Defaults and limits checked against lvm2 2.03 (lvcreate, lib/config/defaults.h).
#include "lv_words.h"

#include <algorithm>
#include <array>

namespace volfs::config {
namespace {

// Images that raid takes at most, and a striped segment.
constexpr uint32_t most_images = 64;
constexpr uint32_t most_striped = 128;

constexpr std::array<LvRule, 24> lv_rules{{
    {LvType::linear, "linear", 1, 1, 1, 0, 0, 0, false},
    {LvType::striped, "striped", 0, 2, most_striped, 0, 0, 0, false},
    {LvType::raid0, "raid0", 2, 2, most_images, 0, 0, 0, false},
    {LvType::raid0_meta, "raid0_meta", 2, 2, most_images, 0, 0, 0, false},
    {LvType::raid1, "raid1", 1, 1, 1, 0, 1, 9, true},
    {LvType::raid4, "raid4", 2, 2, most_images - 1, 1, 0, 0, true},
    {LvType::raid5_la, "raid5_la", 2, 2, most_images - 1, 1, 0, 0, true},
    {LvType::raid5_ra, "raid5_ra", 2, 2, most_images - 1, 1, 0, 0, true},
    {LvType::raid5_ls, "raid5_ls", 2, 2, most_images - 1, 1, 0, 0, true},
    {LvType::raid5_rs, "raid5_rs", 2, 2, most_images - 1, 1, 0, 0, true},
    {LvType::raid5_n, "raid5_n", 2, 2, most_images - 1, 1, 0, 0, true},
    {LvType::raid6_zr, "raid6_zr", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid6_nr, "raid6_nr", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid6_nc, "raid6_nc", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid6_n_6, "raid6_n_6", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid6_la_6, "raid6_la_6", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid6_ra_6, "raid6_ra_6", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid6_ls_6, "raid6_ls_6", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid6_rs_6, "raid6_rs_6", 3, 3, most_images - 2, 2, 0, 0, true},
    {LvType::raid10, "raid10", 2, 2, most_images / 2, 0, 1, 1, true},
    {LvType::mirror, "mirror", 1, 1, 1, 0, 1, 7, true},
    {LvType::snapshot, "snapshot", 1, 1, most_striped, 0, 0, 0, false},
    {LvType::error, "error", 1, 1, 1, 0, 0, 0, false},
    {LvType::zero, "zero", 1, 1, 1, 0, 0, 0, false},
}};

constexpr std::array<Word<LvType>, 27> type_words{{
    {"linear", LvType::linear},
    {"striped", LvType::striped},
    {"raid0", LvType::raid0},
    {"raid0_meta", LvType::raid0_meta},
    {"raid1", LvType::raid1},
    {"raid4", LvType::raid4},
    {"raid5", LvType::raid5_ls},
    {"raid5_la", LvType::raid5_la},
    {"raid5_ra", LvType::raid5_ra},
    {"raid5_ls", LvType::raid5_ls},
    {"raid5_rs", LvType::raid5_rs},
    {"raid5_n", LvType::raid5_n},
    {"raid6", LvType::raid6_zr},
    {"raid6_zr", LvType::raid6_zr},
    {"raid6_nr", LvType::raid6_nr},
    {"raid6_nc", LvType::raid6_nc},
    {"raid6_n_6", LvType::raid6_n_6},
    {"raid6_la_6", LvType::raid6_la_6},
    {"raid6_ra_6", LvType::raid6_ra_6},
    {"raid6_ls_6", LvType::raid6_ls_6},
    {"raid6_rs_6", LvType::raid6_rs_6},
    {"raid10", LvType::raid10},
    {"raid10_near", LvType::raid10},
    {"mirror", LvType::mirror},
    {"snapshot", LvType::snapshot},
    {"error", LvType::error},
    {"zero", LvType::zero},
}};

std::optional<LvSize> parse_percent(std::string_view text, size_t sign) {
  using Unit = LvSize::Unit;
  static constexpr std::array<Word<Unit>, 4> units{{{"FREE", Unit::percent_free},
                                                    {"VG", Unit::percent_vg},
                                                    {"PVS", Unit::percent_pvs},
                                                    {"ORIGIN", Unit::percent_origin}}};
  const auto number = parse_u64(text.substr(0, sign));
  for (const Word<Unit>& unit : units) {
    if (!same_word(unit.name, text.substr(sign + 1))) continue;
    // A store needs more than its origin, by the room for the exceptions' table.
    const uint64_t most = unit.value == Unit::percent_origin ? 200 : 100;
    if (!number || *number == 0 || *number > most) return std::nullopt;
    return LvSize{*number, unit.value};
  }
  return std::nullopt;
}

}  // namespace

const LvRule& lv_rule(LvType type) {
  return lv_rules[static_cast<size_t>(type)];
}

std::span<const Word<LvType>> lv_type_words() {
  return type_words;
}

bool is_other_lv_type(std::string_view text) {
  static constexpr std::array<std::string_view, 9> others{"thin",       "thin-pool",  "cache",
                                                          "cache-pool", "writecache", "vdo",
                                                          "vdo-pool",   "integrity",  "raid10_far"};
  return std::find(others.begin(), others.end(), text) != others.end();
}

std::optional<LvSize> parse_lv_size(std::string_view text, bool extents) {
  if (const size_t sign = text.find('%'); sign != std::string_view::npos)
    return parse_percent(text, sign);
  if (extents) {
    const auto count = parse_u64(text);
    if (!count || *count == 0 || *count > UINT32_MAX) return std::nullopt;
    return LvSize{*count, LvSize::Unit::extents};
  }
  const auto bytes = parse_size(text);
  if (!bytes || *bytes == 0 || *bytes % sector_size != 0) return std::nullopt;
  return LvSize{*bytes, LvSize::Unit::bytes};
}

std::string_view to_string(LvType type) {
  return lv_rule(type).name;
}

uint32_t LogicalVolume::areas() const {
  const LvRule& rule = lv_rule(type.value);
  return (stripes.value + rule.parity) * (mirrors.value + 1);
}

}  // namespace volfs::config
