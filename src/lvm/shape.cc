// SPDX-License-Identifier: GPL-2.0-or-later
// What volumes are made of, in lvcreate's words.
#include <algorithm>

#include "lvm/segment_type.h"
#include "volfs/lvm/model.h"

namespace volfs::lvm {

uint32_t data_stripes(const Segment& segment) {
  if (segment.areas.empty()) return 1;
  const RaidKind* raid = find_raid_kind(segment.type);
  const auto areas = static_cast<uint32_t>(segment.areas.size());
  if (raid == nullptr) return segment.type == "striped" ? areas : 1;
  if (raid->target == "raid1") return 1;
  if (raid->target == "raid10") return areas / std::max(segment.data_copies, 2u);
  return areas - raid->parity;
}

namespace {

VolumeShape shape_with(const VolumeGroup& group, uint32_t lv, std::optional<uint32_t> link) {
  VolumeShape shape;
  if (group.lvs[lv].segments.empty()) return shape;
  const Segment& first = group.lvs[lv].segments.front();
  const auto areas = static_cast<uint32_t>(first.areas.size());
  shape.type = first.type == "striped" && areas < 2 ? "linear" : first.type;
  shape.stripes = data_stripes(first);
  if (shape.stripes > 1) shape.stripe_size = first.stripe_size;
  shape.region_size = first.region_size;
  const RaidKind* raid = find_raid_kind(first.type);
  if (first.type == "mirror" || (raid != nullptr && raid->target == "raid1"))
    shape.mirrors = std::max(areas, 1u) - 1;
  else if (raid != nullptr && raid->target == "raid10")
    shape.mirrors = std::max(first.data_copies, 2u) - 1;
  if (link) {
    const Segment& snapshot = group.lvs[*link].segments.front();
    shape.type = "snapshot";
    shape.origin = group.lvs[*snapshot.origin].name;
    shape.chunk_size = snapshot.chunk_size;
  }
  return shape;
}

}  // namespace

VolumeShape shape_of(const VolumeGroup& group, uint32_t lv) {
  return shape_with(group, lv, group.link_of_cow(lv));
}

VolumeShape shape_of(const VolumeGroup& group, uint32_t lv, const SnapshotLinks& links) {
  return shape_with(group, lv, links.of_cow[lv]);
}

std::set<uint32_t> pvs_below(const VolumeGroup& group, uint32_t lv) {
  std::set<uint32_t> pvs, seen;
  std::vector<uint32_t> left{lv};
  while (!left.empty()) {
    const uint32_t next = left.back();
    left.pop_back();
    if (!seen.insert(next).second) continue;
    for (const Segment& segment : group.lvs[next].segments) {
      for (const auto* areas : {&segment.areas, &segment.metadata_areas})
        for (const Area& area : *areas) {
          if (area.kind == Area::Kind::pv) pvs.insert(area.index);
          if (area.kind == Area::Kind::lv) left.push_back(area.index);
        }
      if (segment.log) left.push_back(*segment.log);
      left.insert(left.end(), segment.mentions.begin(), segment.mentions.end());
    }
  }
  return pvs;
}

}  // namespace volfs::lvm
