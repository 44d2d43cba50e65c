// SPDX-License-Identifier: GPL-2.0-or-later
// Questions about a model, and the rules for names.
#include "volfs/lvm/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>

namespace volfs::lvm {
namespace {

constexpr size_t max_name = 127;

Status check_name(std::string_view name, std::string_view what) {
  auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-' || c == '+';
  };
  const std::string shown(name.substr(0, max_name));
  if (name.empty() || name.size() > max_name)
    return fail_invalid(
        fmt::format("'{}' is no {} name: 1 to {} characters are", shown, what, max_name));
  if (name.front() == '-' || name == "." || name == ".." || !std::ranges::all_of(name, allowed))
    return fail_invalid(fmt::format(
        "'{}' is no {} name: letters, digits and + _ . - are allowed, and no - in front", shown,
        what));
  return {};
}

// Of a snapshot, by its link.
bool is_seen(const VolumeGroup& group, uint32_t link) {
  const Segment& segment = group.lvs[link].segments[0];
  const LogicalVolume& origin = group.lvs[*segment.origin];
  if (origin.name.ends_with("_vorigin")) return true;
  return !segment.merging && has(origin.status, "VISIBLE");
}

void append_doubling_hyphens(std::string& out, std::string_view name) {
  for (char c : name) {
    if (c == '-') out += '-';
    out += c;
  }
}

}  // namespace

Status check_group_name(std::string_view name) {
  return check_name(name, "volume group");
}

Status check_volume_name(std::string_view name) {
  VOLFS_TRY(check_name(name, "logical volume"));
  // Checked against lvm2's lib/misc/lvm-string.c.
  constexpr std::array<std::string_view, 2> prefixes = {"pvmove", "snapshot"};
  constexpr std::array<std::string_view, 23> inner = {
      "_cdata",  "_cmeta", "_corig", "_cpool",     "_cvol",   "_wcorig",  "_mimage",  "_mlog",
      "_rimage", "_rmeta", "_tdata", "_tmeta",     "_vdata",  "_vorigin", "_pmspare", "_imeta",
      "_iorig",  "_tpool", "_vpool", "_mimagetmp", "_cdata_", "_cmeta_",  "_rimage_"};
  for (std::string_view prefix : prefixes)
    if (name.starts_with(prefix))
      return fail_invalid(fmt::format(
          "'{}' is no logical volume name: names that begin with {} are reserved", name, prefix));
  for (std::string_view part : inner)
    if (name.find(part) != name.npos)
      return fail_invalid(
          fmt::format("'{}' is no logical volume name: names with {} are reserved", name, part));
  return {};
}

std::string dm_name(std::string_view group, std::string_view volume, std::string_view layer) {
  std::string out;
  append_doubling_hyphens(out, group);
  out += '-';
  append_doubling_hyphens(out, volume);
  if (!layer.empty()) {
    if (!layer.starts_with('_')) out += '-';
    append_doubling_hyphens(out, layer);
  }
  return out;
}

std::string date_text(uint64_t seconds) {
  const auto time = static_cast<time_t>(seconds);
  std::tm parts{};
  char buffer[64];
  // strftime would speak the user's language.
  // NOLINTNEXTLINE(bugprone-unsafe-functions): the buffer has room for more than the 26 bytes.
  if (::gmtime_r(&time, &parts) == nullptr || ::asctime_r(&parts, buffer) == nullptr) return {};
  std::string out = buffer;
  while (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

uint32_t LogicalVolume::extents() const {
  return segments.empty() ? 0 : segments.back().start + segments.back().count;
}

bool LogicalVolume::is_snapshot_link() const {
  return segments.size() == 1 && segments[0].origin && segments[0].cow;
}

std::optional<uint32_t> VolumeGroup::find_lv(std::string_view lv_name) const {
  for (uint32_t i = 0; i < lvs.size(); i++)
    if (lvs[i].name == lv_name) return i;
  return std::nullopt;
}

std::optional<uint32_t> VolumeGroup::find_pv(std::string_view key) const {
  for (uint32_t i = 0; i < pvs.size(); i++)
    if (pvs[i].key == key) return i;
  return std::nullopt;
}

std::optional<uint32_t> VolumeGroup::find_pv(const Id& pv_id) const {
  for (uint32_t i = 0; i < pvs.size(); i++)
    if (pvs[i].id == pv_id) return i;
  return std::nullopt;
}

std::vector<uint32_t> VolumeGroup::snapshots_of(uint32_t origin) const {
  std::vector<uint32_t> out;
  for (uint32_t i = 0; i < lvs.size(); i++)
    if (lvs[i].is_snapshot_link() && lvs[i].segments[0].origin == origin) out.push_back(i);
  return out;
}

std::optional<uint32_t> VolumeGroup::link_of_cow(uint32_t cow) const {
  for (uint32_t i = 0; i < lvs.size(); i++)
    if (lvs[i].is_snapshot_link() && lvs[i].segments[0].cow == cow) return i;
  return std::nullopt;
}

bool VolumeGroup::visible(uint32_t lv) const {
  if (lvs[lv].is_snapshot_link()) return false;
  // Nearly no LV without the flag is a COW store, and none with it.
  if (has(lvs[lv].status, "VISIBLE")) return true;
  const auto link = link_of_cow(lv);
  return link && is_seen(*this, *link);
}

bool VolumeGroup::visible(uint32_t lv, const SnapshotLinks& links) const {
  if (lvs[lv].is_snapshot_link()) return false;
  if (has(lvs[lv].status, "VISIBLE")) return true;
  return links.of_cow[lv] && is_seen(*this, *links.of_cow[lv]);
}

SnapshotLinks::SnapshotLinks(const VolumeGroup& group)
    : of_origin(group.lvs.size()), of_cow(group.lvs.size()) {
  for (uint32_t i = 0; i < group.lvs.size(); i++) {
    if (!group.lvs[i].is_snapshot_link()) continue;
    const Segment& segment = group.lvs[i].segments[0];
    of_origin[*segment.origin].push_back(i);
    if (auto& link = of_cow[*segment.cow]; !link) link = i;
  }
}

uint64_t VolumeGroup::size_of(uint32_t lv) const {
  return lvs[lv].extents() * extent_size;
}

}  // namespace volfs::lvm
