// SPDX-License-Identifier: GPL-2.0-or-later
#include "names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace volfs::config {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool made_of(std::string_view text, std::string_view others) {
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return is_letter_or_digit(c) || others.find(c) != std::string_view::npos;
  });
}

std::optional<std::string> bad_name(std::string_view name, std::string_view others,
                                    std::string_view others_spaced) {
  if (name.empty()) return "a name";
  if (name.size() > max_name_length) return fmt::format("at most {} bytes", max_name_length);
  if (name.front() == '-') return "a name that does not begin with '-'";
  if (!made_of(name, others)) return fmt::format("letters, digits and {}", others_spaced);
  if (name == "." || name == ".." || name == ".volfs")
    return "a name other than '.', '..' and '.volfs'";
  if (name == "missing") return "a name other than 'missing', which stands for an absent device";
  return std::nullopt;
}

// In a dm name a group and a volume are joined by '-', and their own are doubled.
size_t joined_length(std::string_view group, std::string_view name) {
  const auto dashes =
      std::count(group.begin(), group.end(), '-') + std::count(name.begin(), name.end(), '-');
  return group.size() + name.size() + 1 + static_cast<size_t>(dashes);
}

struct Synonym {
  std::string_view word, key;
};
constexpr std::array<Synonym, 24> synonyms{{{"uid", "owner"},
                                            {"user", "owner"},
                                            {"gid", "group"},
                                            {"permissions", "permission"},
                                            {"pvs", "physical_volumes"},
                                            {"lvs", "logical_volumes"},
                                            {"vgs", "volume_groups"},
                                            {"disks", "images"},
                                            {"devices", "images"},
                                            {"disks", "devices"},
                                            {"members", "devices"},
                                            {"raid_level", "level"},
                                            {"raid-devices", "devices"},
                                            {"spare-devices", "spares"},
                                            {"stripesize", "stripe_size"},
                                            {"file", "path"},
                                            {"ro", "readonly"},
                                            {"read_only", "readonly"},
                                            {"rows", "table"},
                                            {"segtype", "type"},
                                            {"consistency-policy", "consistency"},
                                            {"consistency_policy", "consistency"},
                                            {"version", "volfs"},
                                            {"alloc_policy", "alloc"}}};

}  // namespace

std::optional<std::string> bad_device_name(std::string_view name) {
  return bad_name(name, "#+-.:=@_", "# + - . : = @ _");
}

std::optional<std::string> bad_group_name(std::string_view name) {
  const std::string_view own = own_group_name(name);
  if (auto bad = bad_name(own, "+-._", "+ - . _")) return bad;
  if (own.size() == name.size() || is_lvm_uuid(name.substr(own.size() + 1))) return std::nullopt;
  return "after the '@' the group's uuid in lvm2's form, letters and digits in groups of "
         "6-4-4-4-4-4-6";
}

std::string_view own_group_name(std::string_view name) {
  return name.substr(0, name.find('@'));
}

std::optional<std::string> bad_volume_name(std::string_view group, std::string_view name) {
  group = own_group_name(group);  // what lvm2 calls it by
  if (auto bad = bad_name(name, "+-._", "+ - . _")) return bad;
  for (std::string_view prefix : {"snapshot", "pvmove"})
    if (name.starts_with(prefix))
      return fmt::format("a name that does not begin with '{}', which lvm2 keeps for itself",
                         prefix);
  for (std::string_view part :
       {"_cdata", "_cmeta", "_corig", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog", "_pmspare",
        "_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig"})
    if (name.find(part) != std::string_view::npos)
      return fmt::format("a name without '{}', which lvm2 keeps for itself", part);
  if (joined_length(group, name) > max_name_length)
    return fmt::format("at most {} bytes together with the group's name (each '-' counts twice)",
                       max_name_length);
  return std::nullopt;
}

std::optional<std::string> bad_tag(std::string_view tag) {
  if (tag.empty() || tag.size() > 1024) return "1 to 1024 bytes";
  if (tag.front() == '-') return "a tag that does not begin with '-'";
  if (!made_of(tag, "_+.-/=!:&#")) return "letters, digits and _ + . - / = ! : & #";
  return std::nullopt;
}

size_t edit_distance(std::string_view a, std::string_view b, size_t limit) {
  const size_t longer = std::max(a.size(), b.size()), shorter = std::min(a.size(), b.size());
  if (longer - shorter > limit) return limit + 1;
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return std::min(last[b.size()], limit + 1);
}

std::string_view nearest(std::string_view name, std::span<const std::string_view> names) {
  if (name.size() > max_name_length) return {};
  const size_t limit = name.size() <= 2 ? 1 : std::min<size_t>(3, (name.size() + 1) / 3);
  size_t best = limit + 1;
  std::string_view found;
  for (std::string_view candidate : names) {
    const size_t distance = edit_distance(name, candidate, limit);
    if (distance >= best || distance >= candidate.size()) continue;
    best = distance;
    found = candidate;
  }
  return found;
}

std::string_view nearest_key(std::string_view key, std::span<const std::string_view> keys) {
  for (const Synonym& synonym : synonyms)
    if (synonym.word == key && std::find(keys.begin(), keys.end(), synonym.key) != keys.end())
      return synonym.key;
  return nearest(key, keys);
}

std::optional<Uuid> parse_md_uuid(std::string_view text) {
  Uuid uuid{};
  size_t digits = 0;
  for (char c : text) {
    if ((c == ':' || c == '-' || c == '.') && digits > 0) continue;
    unsigned value = 0;
    if (c >= '0' && c <= '9')
      value = static_cast<unsigned>(c - '0');
    else if (c >= 'a' && c <= 'f')
      value = static_cast<unsigned>(c - 'a' + 10);
    else if (c >= 'A' && c <= 'F')
      value = static_cast<unsigned>(c - 'A' + 10);
    else
      return std::nullopt;
    if (digits >= 32) return std::nullopt;
    uuid[digits / 2] = static_cast<uint8_t>(uuid[digits / 2] << 4 | value);
    ++digits;
  }
  if (digits != 32) return std::nullopt;
  return uuid;
}

bool is_lvm_uuid(std::string_view text) {
  static constexpr std::array<size_t, 7> groups{6, 4, 4, 4, 4, 4, 6};
  size_t i = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (g > 0) {
      if (i >= text.size() || text[i] != '-') return false;
      ++i;
    }
    for (size_t k = 0; k < groups[g]; ++k, ++i)
      if (i >= text.size() || !(is_letter_or_digit(text[i]) || text[i] == '!' || text[i] == '#'))
        return false;
  }
  return i == text.size();
}

std::optional<std::string> bad_map_uuid(std::string_view uuid) {
  constexpr size_t most = 128;
  if (uuid.size() <= most && uuid.find_first_of(" \t\n/") == std::string_view::npos)
    return std::nullopt;
  return fmt::format("at most {} bytes without blanks and '/'", most);
}

}  // namespace volfs::config
