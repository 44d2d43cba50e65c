// SPDX-License-Identifier: GPL-2.0-or-later
// Changing LVs: extend, reduce, remove, rename, merge, permissions, tags.
#include <fmt/format.h>

#include <algorithm>

#include "lvm/edit_parts.h"
#include "lvm/segment_type.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

// Where the legs of an LV's last segment end, if they stand on PVs.
std::vector<std::optional<Piece>> ends_of(const Segment& segment, uint32_t leg_extents) {
  std::vector<std::optional<Piece>> out;
  for (const Area& area : segment.areas)
    out.push_back(area.kind == Area::Kind::pv
                      ? std::optional(Piece{area.index, area.extent + leg_extents, 0})
                      : std::nullopt);
  return out;
}

std::vector<uint32_t> pvs_of(const LogicalVolume& lv) {
  std::vector<uint32_t> out;
  for (const Segment& segment : lv.segments)
    for (const Area& area : segment.areas)
      if (area.kind == Area::Kind::pv) out.push_back(area.index);
  return out;
}

Status extend_raid(VolumeGroup& group, uint32_t lv, uint32_t extents, AllocationPolicy allocation,
                   std::span<const uint32_t> pvs) {
  Segment& segment = group.lvs[lv].segments[0];
  const SegmentType* type = segment.known_type();
  const uint32_t before = type->area_length(segment);
  Segment grown = segment;
  grown.count = extents;
  const uint32_t after = type->area_length(grown);
  LegRequest request;
  request.legs = static_cast<unsigned>(segment.areas.size());
  request.extents = after - before;
  request.allocation = allocation;
  for (size_t i = 0; i < segment.areas.size(); i++) {
    const LogicalVolume& image = group.lvs[segment.areas[i].index];
    if (image.segments.empty() || image.segments.back().areas.size() != 1 ||
        image.extents() != before)
      return fail_invalid(fmt::format("its image {} is not simple", image.name));
    request.behind.push_back(ends_of(image.segments.back(), image.segments.back().count)[0]);
    auto own = pvs_of(image);
    if (i < segment.metadata_areas.size())
      for (uint32_t pv : pvs_of(group.lvs[segment.metadata_areas[i].index])) own.push_back(pv);
    request.own_pvs.push_back(std::move(own));
  }
  FreeMap free(group, pvs);
  VOLFS_TRY_ASSIGN(const auto legs, allocate(free, request));
  for (size_t i = 0; i < segment.areas.size(); i++)
    append_linear(group.lvs[segment.areas[i].index], legs[i]);
  segment.count = extents;
  return {};
}

Status extend_plain(VolumeGroup& group, uint32_t lv, uint32_t more, AllocationPolicy allocation,
                    std::span<const uint32_t> pvs) {
  LogicalVolume& described = group.lvs[lv];
  Segment& last = described.segments.back();
  if (last.areas.empty()) {  // error, zero
    last.count += more;
    return {};
  }
  if (last.type != "striped")
    return fail_invalid(fmt::format("LVs of type {} cannot be extended", last.type));
  const auto stripes = static_cast<uint32_t>(last.areas.size());
  LegRequest request;
  request.legs = stripes;
  request.extents = more / stripes;
  request.same_pieces = stripes > 1;
  request.allocation = allocation;
  request.behind = ends_of(last, last.count / stripes);
  if (stripes == 1) request.own_pvs = {pvs_of(described)};
  FreeMap free(group, pvs);
  VOLFS_TRY_ASSIGN(const auto legs, allocate(free, request));
  if (stripes == 1)
    append_linear(described, legs[0]);
  else
    append_striped(described, legs, last.stripe_size);
  return {};
}

// Takes LVs out and lets all indices point to what they pointed to.
void erase_lvs(VolumeGroup& group, const std::vector<uint32_t>& gone) {
  std::vector<uint32_t> moved(group.lvs.size());
  std::vector<LogicalVolume> kept;
  for (uint32_t i = 0; i < group.lvs.size(); i++) {
    moved[i] = static_cast<uint32_t>(kept.size());
    if (std::ranges::find(gone, i) == gone.end()) kept.push_back(std::move(group.lvs[i]));
  }
  for (LogicalVolume& lv : kept)
    for (Segment& segment : lv.segments) {
      for (auto* areas : {&segment.areas, &segment.metadata_areas})
        for (Area& area : *areas)
          if (area.kind == Area::Kind::lv) area.index = moved[area.index];
      for (auto* other : {&segment.log, &segment.origin, &segment.cow})
        if (*other) *other = moved[**other];
      for (uint32_t& other : segment.mentions) other = moved[other];
    }
  group.lvs = std::move(kept);
}

void collect_inner(const VolumeGroup& group, uint32_t lv, std::vector<uint32_t>& out) {
  if (std::ranges::find(out, lv) != out.end()) return;
  out.push_back(lv);
  for (const Segment& segment : group.lvs[lv].segments) {
    for (const auto* areas : {&segment.areas, &segment.metadata_areas})
      for (const Area& area : *areas)
        if (area.kind == Area::Kind::lv) collect_inner(group, area.index, out);
    if (segment.log) collect_inner(group, *segment.log, out);
  }
}

// Nobody but those that go may use an LV that goes.
Status check_unused(const VolumeGroup& group, const std::vector<uint32_t>& gone) {
  for (uint32_t i = 0; i < group.lvs.size(); i++) {
    if (std::ranges::find(gone, i) != gone.end()) continue;
    for (const Segment& segment : group.lvs[i].segments) {
      std::vector<uint32_t> used = segment.mentions;
      for (const auto* areas : {&segment.areas, &segment.metadata_areas})
        for (const Area& area : *areas)
          if (area.kind == Area::Kind::lv) used.push_back(area.index);
      for (const auto& other : {segment.log, segment.origin, segment.cow})
        if (other) used.push_back(*other);
      for (uint32_t lv : used)
        if (std::ranges::find(gone, lv) != gone.end())
          return fail(Error::make(
              EBUSY, fmt::format("{} is used by {}", group.lvs[lv].name, group.lvs[i].name)));
    }
  }
  return {};
}

std::string place_of(const VolumeGroup& group, uint32_t lv) {
  return group.name + "/" + (lv < group.lvs.size() ? group.lvs[lv].name : "?");
}

Status check_index(const VolumeGroup& group, uint32_t lv) {
  if (lv >= group.lvs.size()) return fail_invalid("there is no such LV");
  return check_changeable(group, lv);
}

}  // namespace

Status extend_volume(VolumeGroup& group, uint32_t lv, uint32_t extents, AllocationPolicy allocation,
                     std::span<const uint32_t> pvs) {
  return edit(group, place_of(group, lv), [&](VolumeGroup& next) -> Status {
    VOLFS_TRY(check_index(next, lv));
    const Segment& last = next.lvs[lv].segments.back();
    const uint32_t have = next.lvs[lv].extents();
    const uint64_t wanted =
        have + round_up(extents > have ? extents - have : 0, data_stripes(last));
    if (extents <= have) return fail_invalid(fmt::format("it has {} extents already", have));
    if (wanted > UINT32_MAX) return fail(Error::make(ENOSPC, "the size is too large"));
    for (uint32_t link : next.snapshots_of(lv))
      if (next.lvs[link].segments[0].merging)
        return fail(Error::make(EBUSY, "a snapshot is being merged into it"));
    const auto link = next.link_of_cow(lv);
    if (link && next.lvs[*link].segments[0].merging)
      return fail(Error::make(EBUSY, "it is being merged"));
    const auto size = static_cast<uint32_t>(wanted);
    if (find_raid_kind(last.type) != nullptr) return extend_raid(next, lv, size, allocation, pvs);
    return extend_plain(next, lv, size - have, allocation, pvs);
  });
}

Result<uint32_t> resized_extents(const VolumeGroup& group, uint32_t lv, const SizeRequest& size,
                                 char sign, std::span<const uint32_t> pvs) {
  if (lv >= group.lvs.size() || group.lvs[lv].segments.empty())
    return fail_invalid("there is no such LV");
  const Segment& last = group.lvs[lv].segments.back();
  VOLFS_TRY_ASSIGN(uint64_t extents, extents_of(group, size, pvs, lv));
  const bool share = size.of == SizeRequest::Of::free || size.of == SizeRequest::Of::group ||
                     size.of == SizeRequest::Of::pvs;
  if (share && !last.areas.empty()) {
    // A share is of what is taken, whole stripes of it.
    if (find_raid_kind(last.type) != nullptr || last.type == "mirror")
      extents = extents / last.areas.size() * data_stripes(last);
    extents = round_down(extents, data_stripes(last));
  }
  const uint64_t have = group.lvs[lv].extents();
  if (sign == '-') {
    if (extents >= have)
      return fail_invalid(fmt::format("it has {} extents, not more than {}", have, extents));
    return static_cast<uint32_t>(have - extents);
  }
  if (sign == '+') extents += have;
  if (extents > UINT32_MAX) return fail(Error::make(ENOSPC, "the size is too large"));
  return static_cast<uint32_t>(extents);
}

Status reduce_volume(VolumeGroup& group, uint32_t lv, uint32_t extents) {
  return edit(group, place_of(group, lv), [&](VolumeGroup& next) -> Status {
    VOLFS_TRY(check_index(next, lv));
    LogicalVolume& described = next.lvs[lv];
    if (extents == 0 || extents >= described.extents())
      return fail_invalid(fmt::format("it has {} extents; to reduce it, give fewer, but not 0",
                                      described.extents()));
    if (!next.snapshots_of(lv).empty())
      return fail(Error::make(EBUSY, "it has snapshots, which need all of it"));
    if (find_raid_kind(described.segments[0].type) == nullptr) return cut(described, extents);
    Segment& segment = described.segments[0];
    if (extents % data_stripes(segment) != 0)
      return fail_invalid(fmt::format("{} extents would cut a stripe; {} would not", extents,
                                      round_up(extents, data_stripes(segment))));
    // Linux has none of those.
    if (extents * next.extent_size < segment.region_size)
      return fail_invalid(fmt::format("a raid cannot be smaller than its region size of {}",
                                      format_size(segment.region_size)));
    segment.count = extents;
    const uint32_t length = segment.known_type()->area_length(segment);
    for (const Area& area : segment.areas)
      VOLFS_TRY(in(next.lvs[area.index].name, cut(next.lvs[area.index], length)));
    return {};
  });
}

Status remove_volume(VolumeGroup& group, uint32_t lv, bool with_snapshots) {
  return edit(group, place_of(group, lv), [&](VolumeGroup& next) -> Status {
    VOLFS_TRY(check_index(next, lv));
    std::vector<uint32_t> gone;
    collect_inner(next, lv, gone);
    if (const auto link = next.link_of_cow(lv)) {
      gone.push_back(*link);
      // A virtual origin goes with its last snapshot.
      const uint32_t origin = *next.lvs[*link].segments[0].origin;
      if (next.lvs[origin].name.ends_with("_vorigin") && next.snapshots_of(origin).size() == 1)
        gone.push_back(origin);
    }
    const auto snapshots = next.snapshots_of(lv);
    if (!snapshots.empty() && !with_snapshots)
      return fail(Error::make(EBUSY, snapshots.size() == 1
                                         ? "it has a snapshot"
                                         : fmt::format("it has {} snapshots", snapshots.size())));
    for (uint32_t link : snapshots) {
      gone.push_back(link);
      collect_inner(next, *next.lvs[link].segments[0].cow, gone);
    }
    VOLFS_TRY(check_unused(next, gone));
    erase_lvs(next, gone);
    return {};
  });
}

Status rename_volume(VolumeGroup& group, uint32_t lv, std::string_view name) {
  return edit(group, place_of(group, lv), [&](VolumeGroup& next) -> Status {
    VOLFS_TRY(check_index(next, lv));
    VOLFS_TRY(check_new_name(next, name));
    const std::string old = next.lvs[lv].name;
    std::vector<uint32_t> inner;
    collect_inner(next, lv, inner);
    if (const auto link = next.link_of_cow(lv)) {
      const uint32_t origin = *next.lvs[*link].segments[0].origin;
      if (next.lvs[origin].name == old + "_vorigin") inner.push_back(origin);
    }
    for (uint32_t index : inner) {
      LogicalVolume& part = next.lvs[index];
      if (index == lv)
        part.name = name;
      else if (part.name.starts_with(old + "_"))
        part.name = std::string(name) + part.name.substr(old.size());
    }
    return {};
  });
}

Status start_merge(VolumeGroup& group, uint32_t snapshot) {
  return edit(group, place_of(group, snapshot), [&](VolumeGroup& next) -> Status {
    VOLFS_TRY(check_index(next, snapshot));
    const auto link = next.link_of_cow(snapshot);
    if (!link) return fail_invalid("it is no snapshot");
    Segment& segment = next.lvs[*link].segments[0];
    for (uint32_t other : next.snapshots_of(*segment.origin))
      if (next.lvs[other].segments[0].merging)
        return fail(Error::make(EBUSY, "a snapshot is already being merged into the origin"));
    // It may have grown since: what is behind the snapshot's end stays as it is.
    if (segment.count > next.lvs[*segment.origin].extents())
      return fail_invalid("the origin is smaller than the snapshot");
    segment.merging = true;
    return {};
  });
}

Status finish_merge(VolumeGroup& group, uint32_t snapshot) {
  return edit(group, place_of(group, snapshot), [&](VolumeGroup& next) -> Status {
    const auto link =
        snapshot < next.lvs.size() ? next.link_of_cow(snapshot) : std::optional<uint32_t>();
    if (!link || !next.lvs[*link].segments[0].merging) return fail_invalid("it is not merging");
    std::vector<uint32_t> gone = {*link};
    collect_inner(next, snapshot, gone);
    VOLFS_TRY(check_unused(next, gone));
    erase_lvs(next, gone);
    return {};
  });
}

Status set_writable(VolumeGroup& group, uint32_t lv, bool writable) {
  return edit(group, place_of(group, lv), [&](VolumeGroup& next) -> Status {
    VOLFS_TRY(check_index(next, lv));
    set_status(next.lvs[lv].status, "WRITE", writable);
    return {};
  });
}

Status add_tag(Words& tags, std::string_view tag) {
  // As lvm2's validate_tag.
  constexpr std::string_view extra = "_+.-/=!:&#";
  auto allowed = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           extra.find(c) != extra.npos;
  };
  if (tag.empty() || tag.size() > 1024 || tag.front() == '-' || !std::ranges::all_of(tag, allowed))
    return fail_invalid(fmt::format("'{}' is no tag: letters, digits and {} are allowed",
                                    tag.substr(0, 64), extra));
  if (!has(tags, tag)) tags.emplace_back(tag);
  return {};
}

}  // namespace volfs::lvm
