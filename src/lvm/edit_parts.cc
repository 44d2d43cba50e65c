// SPDX-License-Identifier: GPL-2.0-or-later
#include "lvm/edit_parts.h"

#include <algorithm>
#include <array>

#include "lvm/segment_type.h"

namespace volfs::lvm {

uint32_t add_lv(VolumeGroup& group, std::string name, const IdSource& ids,
                const Provenance& provenance, bool visible, bool writable) {
  LogicalVolume lv;
  lv.name = std::move(name);
  lv.id = ids();
  lv.status = {"READ"};
  if (writable) lv.status.emplace_back("WRITE");
  if (visible) lv.status.emplace_back("VISIBLE");
  lv.creation_time = provenance.time;
  lv.creation_host = provenance.host;
  group.lvs.push_back(std::move(lv));
  return static_cast<uint32_t>(group.lvs.size() - 1);
}

Status check_new_name(const VolumeGroup& group, std::string_view name) {
  VOLFS_TRY(check_volume_name(name));
  if (group.find_lv(name)) return fail(Error::make(EEXIST, fmt::format("there is an LV {}", name)));
  // The kernel's device names have 127 characters.
  if (dm_name(group.name, name).size() > 127 - 16)
    return fail_invalid(fmt::format("the name {} is too long in {}", name, group.name));
  return {};
}

Status check_changeable(const VolumeGroup& group, uint32_t lv) {
  const LogicalVolume& described = group.lvs[lv];
  if (!described.problem.empty()) return fail_invalid(described.problem);
  if (!group.visible(lv)) return fail_invalid("it is an inner LV of another");
  if (has(described.status, "PVMOVE") || has(described.status, "LOCKED"))
    return fail(Error::make(EBUSY, "it is being moved (pvmove)"));
  for (const Segment& segment : described.segments)
    if (segment.known_type() == nullptr) return fail_invalid(segment.unsupported);
  for (const LogicalVolume& other : group.lvs)
    for (const Segment& segment : other.segments)
      if (std::ranges::find(segment.mentions, lv) != segment.mentions.end())
        return fail_invalid(
            fmt::format("it is used by {}, whose {}", other.name, segment.unsupported));
  return {};
}

void append_linear(LogicalVolume& lv, const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) {
    if (!lv.segments.empty()) {
      Segment& last = lv.segments.back();
      const bool adjacent = last.type == "striped" && last.areas.size() == 1 &&
                            last.areas[0].kind == Area::Kind::pv &&
                            last.areas[0].index == piece.pv &&
                            last.areas[0].extent + last.count == piece.extent &&
                            last.unknown.empty() && last.tags.empty();
      if (adjacent) {
        last.count += piece.count;
        continue;
      }
    }
    Segment segment;
    segment.type = "striped";
    segment.start = lv.extents();
    segment.count = piece.count;
    segment.areas = {{Area::Kind::pv, piece.pv, piece.extent}};
    lv.segments.push_back(std::move(segment));
  }
}

void append_striped(LogicalVolume& lv, const std::vector<std::vector<Piece>>& legs,
                    uint64_t stripe_size) {
  const auto stripes = static_cast<uint32_t>(legs.size());
  for (size_t i = 0; i < legs[0].size(); i++) {
    Segment segment;
    segment.type = "striped";
    segment.stripe_size = stripe_size;
    segment.start = lv.extents();
    segment.count = legs[0][i].count * stripes;
    bool adjacent = !lv.segments.empty() && lv.segments.back().areas.size() == stripes &&
                    lv.segments.back().stripe_size == stripe_size &&
                    lv.segments.back().unknown.empty();
    for (uint32_t leg = 0; leg < stripes; leg++) {
      const Piece& piece = legs[leg][i];
      segment.areas.push_back({Area::Kind::pv, piece.pv, piece.extent});
      if (adjacent) {
        const Segment& last = lv.segments.back();
        const Area& area = last.areas[leg];
        adjacent = area.kind == Area::Kind::pv && area.index == piece.pv &&
                   area.extent + last.count / stripes == piece.extent;
      }
    }
    if (adjacent)
      lv.segments.back().count += segment.count;
    else
      lv.segments.push_back(std::move(segment));
  }
}

Status cut(LogicalVolume& lv, uint32_t extents) {
  while (!lv.segments.empty() && lv.segments.back().start >= extents) lv.segments.pop_back();
  if (lv.segments.empty()) return fail_invalid("nothing would be left");
  Segment& last = lv.segments.back();
  const uint32_t keep = extents - last.start;
  if (keep == last.count) return {};
  if (!last.areas.empty() && keep % last.areas.size() != 0)
    return fail_invalid(fmt::format("{} extents would cut a stripe; {} would not", extents,
                                    last.start + round_up(keep, last.areas.size())));
  last.count = keep;
  return {};
}

void set_status(Words& status, std::string_view word, bool wanted) {
  static constexpr std::array<std::string_view, 9> order = {"READ",      "WRITE",   "FIXED_MINOR",
                                                            "VISIBLE",   "PVMOVE",  "LOCKED",
                                                            "NOTSYNCED", "REBUILD", "WRITEMOSTLY"};
  drop(status, word);
  if (!wanted) return;
  const auto rank = std::ranges::find(order, word);
  auto at = std::ranges::find_if(
      status, [&](const std::string& have) { return std::ranges::find(order, have) > rank; });
  status.emplace(at, word);
}

}  // namespace volfs::lvm
