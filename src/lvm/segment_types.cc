// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "lvm/segment_type.h"

namespace volfs::lvm {
namespace {

// lvm2's other types (lib/commands/toolcontext.c, _init_segtypes): recognised, not worked with.
constexpr std::array<std::string_view, 9> not_worked_with = {
    "thin-pool", "thin",     "cache-pool", "cache", "writecache",
    "integrity", "vdo-pool", "vdo",        "free"};

}  // namespace

const SegmentType* find_segment_type(std::string_view name) {
  if (name == "striped" || name == "linear") return &striped_type();
  if (const RaidKind* kind = find_raid_kind(name)) return &raid_type(*kind);
  if (name == "mirror") return &mirror_type();
  if (name == "snapshot") return &snapshot_type();
  if (name == "error") return &error_type();
  if (name == "zero") return &zero_type();
  return nullptr;
}

bool recognised_segment_type(std::string_view name) {
  return std::ranges::find(not_worked_with, name) != not_worked_with.end();
}

const SegmentType* Segment::known_type() const {
  return raw.empty() ? find_segment_type(type) : nullptr;
}

Result<uint32_t> Names::lv(const text::Entry& segment, std::string_view key) const {
  VOLFS_TRY_ASSIGN(const std::string_view name, segment.string(key));
  auto found = lvs.find(name);
  if (found == lvs.end())
    return fail(text::error_at(*segment.find(key), fmt::format("there is no LV '{}'", name)));
  return found->second;
}

Result<std::vector<Area>> Names::areas(const text::Entry& segment, std::string_view name,
                                       uint32_t count) const {
  const text::Entry* list = segment.find(name);
  if (list == nullptr || list->section)
    return fail(text::error_at(segment, fmt::format("the list '{}' is missing", name)));
  if (count == 0 || list->values.size() != size_t{2} * count)
    return fail(
        text::error_at(*list, fmt::format("expected {} pairs of a name and an extent", count)));
  std::vector<Area> out;
  out.reserve(count);
  for (size_t i = 0; i < list->values.size(); i += 2) {
    const text::Value& who = list->values[i];
    const text::Value& where = list->values[i + 1];
    if (who.kind != text::Value::Kind::string || where.kind != text::Value::Kind::integer ||
        where.integer < 0 || where.integer > INT64_C(0xffffffff))
      return fail(text::error_at(*list, "expected pairs of a name and an extent"));
    Area area{Area::Kind::none, 0, static_cast<uint32_t>(where.integer)};
    if (auto pv = pvs.find(who.string); pv != pvs.end()) {
      area.kind = Area::Kind::pv;
      area.index = pv->second;
    } else if (auto found = lvs.find(who.string); found != lvs.end()) {
      area.kind = Area::Kind::lv;
      area.index = found->second;
    } else {
      return fail(text::error_at(*list, fmt::format("there is no PV and no LV '{}'", who.string)));
    }
    out.push_back(area);
  }
  return out;
}

void Lines::words(std::string_view name, const Words& words) {
  std::string list;
  for (const std::string& word : words) {
    if (!list.empty()) list += ", ";
    list += text::quote(word);
  }
  line("{} = [{}]", name, list);
}

void Lines::areas(std::string_view name, const VolumeGroup& group, const std::vector<Area>& areas) {
  blank();
  line("{} = [", name);
  for (size_t i = 0; i < areas.size(); i++) {
    const Area& area = areas[i];
    line("\"{}\", {}{}",
         area.kind == Area::Kind::pv ? group.pvs[area.index].key : group.lvs[area.index].name,
         area.extent, i + 1 == areas.size() ? "" : ",");
  }
  line("]");
}

}  // namespace volfs::lvm
