// SPDX-License-Identifier: GPL-2.0-or-later
// Numbers checked against Linux (drivers/md/raid5.h, raid10.c, raid0.h) and mdadm's words.
#include "md_words.h"

#include <fmt/format.h>

#include <array>

namespace volfs::config {
namespace {

constexpr std::array<LevelRule, 7> level_rules{{
    {ArrayLevel::linear, "linear", 2, true, 0, false},
    {ArrayLevel::raid0, "raid0", 2, true, 0, false},
    {ArrayLevel::raid1, "raid1", 2, true, 0, true},
    {ArrayLevel::raid4, "raid4", 2, false, 1, true},
    {ArrayLevel::raid5, "raid5", 2, false, 1, true},
    {ArrayLevel::raid6, "raid6", 4, false, 2, true},
    {ArrayLevel::raid10, "raid10", 2, false, 0, true},
}};

constexpr std::array<Word<ArrayLevel>, 15> all_level_words{{
    {"linear", ArrayLevel::linear},
    {"raid0", ArrayLevel::raid0},
    {"raid1", ArrayLevel::raid1},
    {"raid4", ArrayLevel::raid4},
    {"raid5", ArrayLevel::raid5},
    {"raid6", ArrayLevel::raid6},
    {"raid10", ArrayLevel::raid10},
    {"0", ArrayLevel::raid0},
    {"stripe", ArrayLevel::raid0},
    {"1", ArrayLevel::raid1},
    {"mirror", ArrayLevel::raid1},
    {"4", ArrayLevel::raid4},
    {"5", ArrayLevel::raid5},
    {"6", ArrayLevel::raid6},
    {"10", ArrayLevel::raid10},
}};

constexpr std::array<Word<uint32_t>, 3> raid0_layouts{
    {{"original", 1}, {"alternate", 2}, {"dangerous", 0}}};

// The first six are raid5's too; the numbers agree.
constexpr std::array<Word<uint32_t>, 14> raid6_layouts{{
    {"left-asymmetric", 0},
    {"right-asymmetric", 1},
    {"left-symmetric", 2},
    {"right-symmetric", 3},
    {"parity-first", 4},
    {"parity-last", 5},
    {"ddf-zero-restart", 8},
    {"ddf-N-restart", 9},
    {"ddf-N-continue", 10},
    {"left-asymmetric-6", 16},
    {"right-asymmetric-6", 17},
    {"left-symmetric-6", 18},
    {"right-symmetric-6", 19},
    {"parity-first-6", 20},
}};

constexpr std::array<Word<std::string_view>, 4> short_layouts{{{"la", "left-asymmetric"},
                                                               {"ra", "right-asymmetric"},
                                                               {"ls", "left-symmetric"},
                                                               {"rs", "right-symmetric"}}};

std::expected<uint32_t, std::string> find_layout(std::span<const Word<uint32_t>> words,
                                                 std::string_view text) {
  for (const auto& word : short_layouts)
    if (words.size() >= 6 && same_word(word.name, text)) text = word.value;
  for (const Word<uint32_t>& word : words)
    if (same_word(word.name, text)) return word.value;
  return std::unexpected(join_words(names_of(words)));
}

std::expected<uint32_t, std::string> parse_raid10(size_t devices, std::string_view text) {
  const auto copies = text.empty() ? Result<uint64_t>(fail_invalid("")) : parse_u64(text.substr(1));
  if (copies && *copies >= 2 && *copies <= devices && *copies < 256) {
    const auto n = static_cast<uint32_t>(*copies);
    if (text[0] == 'n') return n | 1 << 8;
    if (text[0] == 'f') return n << 8 | 1;
    if (text[0] == 'o') return n << 8 | 1 | 1 << 16;
  }
  return std::unexpected(
      devices < 3 ? std::string("n2, f2 or o2")
                  : fmt::format("n, f or o (near, far, offset) and the number of copies, 2 to {}",
                                devices));
}

}  // namespace

std::string_view to_string(ArrayLevel level) {
  return level_rule(level).name;
}

const LevelRule& level_rule(ArrayLevel level) {
  return level_rules[static_cast<size_t>(level)];
}

std::span<const Word<ArrayLevel>> level_words() {
  return all_level_words;
}

std::expected<uint32_t, std::string> parse_layout(ArrayLevel level, size_t devices,
                                                  std::string_view text) {
  const std::span<const Word<uint32_t>> parity(raid6_layouts);
  switch (level) {
    case ArrayLevel::raid0:
      return find_layout(raid0_layouts, text);
    case ArrayLevel::raid5:
      if (same_word(text, "default")) return uint32_t{2};
      return find_layout(parity.first(6), text);
    case ArrayLevel::raid6:
      if (same_word(text, "default")) return uint32_t{2};
      return find_layout(parity, text);
    case ArrayLevel::raid10:
      if (same_word(text, "default")) return raid10_default_layout;
      return parse_raid10(devices, text);
    case ArrayLevel::linear:
    case ArrayLevel::raid1:
    case ArrayLevel::raid4:
      break;
  }
  return std::unexpected("'layout' only with level raid0, raid5, raid6 or raid10");
}

Raid10Layout raid10_layout(uint32_t layout) {
  return {layout & 0xFF, (layout >> 8) & 0xFF, (layout >> 16 & 1) != 0};
}

bool raid10_loses(const Raid10Layout& layout, const std::vector<bool>& missing) {
  // The copies of one chunk stand in neighbouring slots, round the end. Near copies begin at
  // multiples of their number; far and offset copies begin anywhere.
  const size_t devices = missing.size();
  const size_t step = layout.near > 1 ? layout.near : 1;
  for (size_t chunk = 0; chunk < devices; ++chunk) {
    bool lost = true;
    for (size_t copy = 0; lost && copy < layout.copies(); ++copy)
      lost = missing[(chunk * step + copy) % devices];
    if (lost) return true;
  }
  return false;
}

}  // namespace volfs::config
