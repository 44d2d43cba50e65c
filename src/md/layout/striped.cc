// SPDX-License-Identifier: GPL-2.0-or-later
// linear and raid0.
#include <fmt/format.h>

#include <algorithm>

#include "volfs/md/layout.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

// Members rounded down to whole chunks, as the kernel uses them.
Result<std::vector<uint64_t>> rounded(std::span<const uint64_t> sizes, uint64_t chunk) {
  if (sizes.empty() || sizes.size() > max_slots)
    return fail_invalid(fmt::format("{} members, expected 1 to {}", sizes.size(), max_slots));
  std::vector<uint64_t> result;
  uint64_t total = 0;
  for (uint64_t size : sizes) {
    if (chunk != 0) size = round_down(size, chunk);
    auto sum = checked_add(total, size);
    if (!sum || *sum > max_device_size)
      return fail_invalid("the members are together larger than a device can be");
    if (size == 0)
      return fail_invalid(
          fmt::format("member {} is smaller than one chunk of {} bytes", result.size(), chunk));
    total = *sum;
    result.push_back(size);
  }
  return result;
}

}  // namespace

Result<LinearLayout> LinearLayout::make(std::span<const uint64_t> member_sizes, uint64_t rounding) {
  VOLFS_TRY_ASSIGN(auto sizes, rounded(member_sizes, rounding));
  LinearLayout layout;
  uint64_t end = 0;
  for (uint64_t size : sizes) layout.ends_.push_back(end += size);
  return layout;
}

Place LinearLayout::map(uint64_t offset) const {
  auto it = std::upper_bound(ends_.begin(), ends_.end(), offset);
  if (it == ends_.end()) return {};
  uint64_t start = it == ends_.begin() ? 0 : it[-1];
  return {static_cast<uint32_t>(it - ends_.begin()), offset - start, *it - offset};
}

void LinearLayout::for_each_part(uint64_t offset, uint64_t length, const VisitPart& part) const {
  for (uint64_t end = offset + length; offset < end;) {
    const Place place = map(offset);
    const uint64_t piece = std::min(place.length, end - offset);
    part(place.slot, place.offset, piece);
    offset += piece;
  }
}

std::optional<uint64_t> LinearLayout::array_offset(uint32_t slot, uint64_t offset) const {
  if (slot >= ends_.size()) return std::nullopt;
  uint64_t start = slot == 0 ? 0 : ends_[slot - 1];
  if (offset >= ends_[slot] - start) return std::nullopt;
  return start + offset;
}

uint64_t raid0_share(uint64_t member_size, uint64_t chunk) {
  return round_down(member_size, chunk) & ~(chunk - sector_size);
}

Result<Raid0Layout> Raid0Layout::make(std::span<const uint64_t> member_sizes, uint64_t chunk,
                                      uint32_t layout) {
  if (chunk == 0 || chunk % sector_size != 0)
    return fail_invalid(fmt::format("chunk of {} bytes: raid0 needs a multiple of 512", chunk));
  VOLFS_TRY_ASSIGN(auto sizes, rounded(member_sizes, chunk));
  std::vector<uint64_t> ends = sizes;
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  if (ends.size() > 1 && layout != raid0_layout::original && layout != raid0_layout::alternate)
    return fail_invalid(
        "the members differ in size and the superblock does not say how raid0 continues on the "
        "larger ones: choose layout original (Linux before 3.14) or alternate (since)");
  Raid0Layout result;
  result.chunk_ = chunk;
  uint64_t array_start = 0, member_start = 0;
  for (uint64_t member_end : ends) {
    Zone zone{array_start, 0, member_start, member_end, {}, 0};
    for (uint32_t slot = 0; slot < sizes.size(); ++slot)
      if (sizes[slot] >= member_end) zone.slots.push_back(slot);
    zone.end = array_start + (member_end - member_start) * zone.slots.size();
    // The original layout takes the turn of members from the chunk's number in the whole array, the
    // alternate one from its number in the zone.
    if (layout == raid0_layout::original) zone.turn = array_start / chunk % zone.slots.size();
    array_start = zone.end;
    member_start = member_end;
    result.zones_.push_back(std::move(zone));
  }
  for (const uint64_t size : sizes) result.size_ += raid0_share(size, chunk);
  if (result.size_ == 0) return fail_invalid("the members are too small");
  return result;
}

Place Raid0Layout::map(uint64_t offset) const {
  const Zone* zone = zones_.data();
  if (offset >= zone->end) {
    auto it = std::upper_bound(zones_.begin(), zones_.end(), offset,
                               [](uint64_t at, const Zone& z) { return at < z.end; });
    if (it == zones_.end()) return {};
    zone = &*it;
  }
  uint64_t number = (offset - zone->start) / chunk_, within = (offset - zone->start) % chunk_;
  uint64_t width = zone->slots.size();
  return {zone->slots[(number + zone->turn) % width],
          zone->member_start + number / width * chunk_ + within, chunk_ - within};
}

void Raid0Layout::for_each_part(uint64_t offset, uint64_t length, const VisitPart& part) const {
  for (const Zone& zone : zones_) {
    const uint64_t begin = std::max(offset, zone.start), end = std::min(offset + length, zone.end);
    if (begin >= end) continue;
    const uint64_t width = zone.slots.size();
    for (uint64_t turn = 0; turn < width; ++turn) {
      const uint64_t first = dealt_before(begin - zone.start, turn, width, chunk_);
      const uint64_t last = dealt_before(end - zone.start, turn, width, chunk_);
      if (first < last)
        part(zone.slots[(turn + zone.turn) % width], zone.member_start + first, last - first);
    }
  }
}

std::optional<uint64_t> Raid0Layout::array_offset(uint32_t slot, uint64_t offset) const {
  for (const Zone& zone : zones_) {
    if (offset >= zone.member_end) continue;
    auto it = std::lower_bound(zone.slots.begin(), zone.slots.end(), slot);
    if (it == zone.slots.end() || *it != slot) return std::nullopt;
    uint64_t width = zone.slots.size();
    uint64_t index = (static_cast<uint64_t>(it - zone.slots.begin()) + width - zone.turn) % width;
    uint64_t row = (offset - zone.member_start) / chunk_;
    const uint64_t at =
        zone.start + (row * width + index) * chunk_ + (offset - zone.member_start) % chunk_;
    return at < size_ ? std::optional(at) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace volfs::md
