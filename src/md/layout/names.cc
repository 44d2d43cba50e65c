// SPDX-License-Identifier: GPL-2.0-or-later
// Names of levels and layouts: one table each, first entry of a number is the one printed.
#include <fmt/format.h>

#include <charconv>

#include "volfs/md/layout.h"

namespace volfs::md {
namespace {

struct LevelName {
  const char* name;
  int32_t level;
};
constexpr LevelName level_names[] = {
    {"linear", level_linear},
    {"raid0", 0},
    {"0", 0},
    {"stripe", 0},
    {"raid1", 1},
    {"1", 1},
    {"mirror", 1},
    {"raid4", 4},
    {"4", 4},
    {"raid5", 5},
    {"5", 5},
    {"raid6", 6},
    {"6", 6},
    {"raid10", 10},
    {"10", 10},
    {"multipath", level_multipath},
    {"mp", level_multipath},
    {"faulty", level_faulty},
};

struct LayoutName {
  const char* name;
  uint32_t layout;
};
constexpr LayoutName raid0_names[] = {
    {"original", raid0_layout::original}, {"alternate", raid0_layout::alternate},
    {"dangerous", raid0_layout::unknown}, {"1", raid0_layout::original},
    {"2", raid0_layout::alternate},       {"default", raid0_layout::original},
};
constexpr LayoutName raid5_names[] = {
    {"left-asymmetric", parity_layout::left_asymmetric},
    {"right-asymmetric", parity_layout::right_asymmetric},
    {"left-symmetric", parity_layout::left_symmetric},
    {"right-symmetric", parity_layout::right_symmetric},
    {"parity-first", parity_layout::parity_first},
    {"parity-last", parity_layout::parity_last},
    {"default", parity_layout::left_symmetric},
    {"la", parity_layout::left_asymmetric},
    {"ra", parity_layout::right_asymmetric},
    {"ls", parity_layout::left_symmetric},
    {"rs", parity_layout::right_symmetric},
    {"ddf-zero-restart", parity_layout::right_asymmetric},
    {"ddf-N-restart", parity_layout::left_asymmetric},
    {"ddf-N-continue", parity_layout::left_symmetric},
};
constexpr LayoutName raid6_names[] = {
    {"left-asymmetric", parity_layout::left_asymmetric},
    {"right-asymmetric", parity_layout::right_asymmetric},
    {"left-symmetric", parity_layout::left_symmetric},
    {"right-symmetric", parity_layout::right_symmetric},
    {"parity-first", parity_layout::parity_first},
    {"parity-last", parity_layout::parity_last},
    {"ddf-zero-restart", parity_layout::ddf_zero_restart},
    {"ddf-N-restart", parity_layout::ddf_n_restart},
    {"ddf-N-continue", parity_layout::ddf_n_continue},
    {"left-asymmetric-6", parity_layout::left_asymmetric_6},
    {"right-asymmetric-6", parity_layout::right_asymmetric_6},
    {"left-symmetric-6", parity_layout::left_symmetric_6},
    {"right-symmetric-6", parity_layout::right_symmetric_6},
    {"parity-first-6", parity_layout::parity_first_6},
    {"default", parity_layout::left_symmetric},
    {"la", parity_layout::left_asymmetric},
    {"ra", parity_layout::right_asymmetric},
    {"ls", parity_layout::left_symmetric},
    {"rs", parity_layout::right_symmetric},
};

std::span<const LayoutName> names_of(int32_t level) {
  switch (level) {
    case 0:
      return raid0_names;
    case 5:
      return raid5_names;
    case 6:
      return raid6_names;
    default:
      return {};
  }
}

std::string raid10_name(uint32_t layout) {
  uint32_t near = layout & 255, far = layout >> 8 & 255, sets = layout >> 17;
  if (near == 0 || far == 0 || sets > 2) return fmt::format("{:#x}", layout);
  std::string name;
  if (near > 1 || far == 1) name = fmt::format("n{}", near);
  if (far > 1) name += fmt::format("{}{}", (layout & 1u << 16) != 0 ? 'o' : 'f', far);
  return name + (sets == 2 ? "-sets" : sets == 1 ? "-sets-old" : "");
}

bool take_copies(std::string_view& text, char letter, uint32_t& copies) {
  if (text.empty() || text[0] != letter) return false;
  auto [end, error] = std::from_chars(text.data() + 1, text.data() + text.size(), copies);
  if (error != std::errc{} || copies < 1 || copies > 200) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

Result<uint32_t> parse_raid10(std::string_view name) {
  if (name == "default") return 0x102;
  std::string_view text = name;
  uint32_t near = 1, far = 1, flags = 0;
  bool any = take_copies(text, 'n', near);
  if (take_copies(text, 'f', far)) {
    any = true;
  } else if (take_copies(text, 'o', far)) {
    any = true;
    flags = 1u << 16;
  }
  if (text == "-sets")
    flags |= 2u << 17;
  else if (text == "-sets-old")
    flags |= 1u << 17;
  else if (!text.empty())
    any = false;
  if (!any)
    return fail_invalid(fmt::format(
        "\"{}\" is no raid10 layout: expected n, f or o and a number of copies, as in n2", name));
  return near | far << 8 | flags;
}

}  // namespace

std::string level_name(int32_t level) {
  for (const LevelName& entry : level_names)
    if (entry.level == level) return entry.name;
  return fmt::format("level {}", level);
}

Result<int32_t> parse_level(std::string_view name) {
  for (const LevelName& entry : level_names)
    if (entry.name == name) return entry.level;
  return fail_invalid(
      fmt::format("\"{}\" is no RAID level: expected linear, raid0, raid1, raid4, raid5, raid6 or "
                  "raid10",
                  name));
}

std::string layout_name(int32_t level, uint32_t layout) {
  if (level == 10) return raid10_name(layout);
  for (const LayoutName& entry : names_of(level))
    if (entry.layout == layout) return entry.name;
  return layout == 0 ? "-" : fmt::format("{}", layout);
}

Result<uint32_t> parse_layout(int32_t level, std::string_view name) {
  if (level == 10) return parse_raid10(name);
  std::string expected;
  for (const LayoutName& entry : names_of(level)) {
    if (entry.name == name) return entry.layout;
    expected += fmt::format("{}{}", expected.empty() ? "" : ", ", entry.name);
  }
  if (expected.empty()) {
    if (name == "-" || name == "default") return 0;
    return fail_invalid(fmt::format("{} has no layouts: \"{}\"", level_name(level), name));
  }
  return fail_invalid(fmt::format("\"{}\" is no layout of {}: expected one of {}", name,
                                  level_name(level), expected));
}

uint32_t default_layout(int32_t level) {
  switch (level) {
    case 0:
      return raid0_layout::original;
    case 5:
    case 6:
      return parity_layout::left_symmetric;
    case 10:
      return 0x102;
    default:
      return 0;
  }
}

std::string slots_are(const SlotSet& slots) {
  std::string list;
  for (uint32_t slot = 0; slot < max_slots; ++slot)
    if (slots[slot]) list += fmt::format("{}{}", list.empty() ? "" : ", ", slot);
  return slots.count() == 1 ? fmt::format("slot {} is", list) : fmt::format("slots {} are", list);
}

}  // namespace volfs::md
