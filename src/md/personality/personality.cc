// SPDX-License-Identifier: GPL-2.0-or-later
#include "personality.h"

#include <algorithm>
#include <cerrno>
#include <mutex>

namespace volfs::md {

bool Slot::readable(uint64_t offset, uint64_t length) const {
  if (!present() || offset + length > recovered.load(std::memory_order_acquire)) return false;
  return !bad.any() || !bad.overlap(offset, length);
}

bool BadRanges::overlap(uint64_t offset, uint64_t length) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(ranges_.begin(), ranges_.end(), [&](const BadBlockRange& r) {
    return r.offset < offset + length && offset < r.offset + r.length;
  });
}

uint64_t BadRanges::same_until(uint64_t offset, uint64_t end) const {
  const std::lock_guard lock(mutex_);
  for (const BadBlockRange& r : ranges_)
    for (const uint64_t edge : {r.offset, r.offset + r.length})
      if (edge > offset && edge < end) return edge;
  return end;
}

bool BadRanges::remove(uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  std::vector<BadBlockRange> left;
  const uint64_t end = offset + length;
  bool changed = false;
  for (const BadBlockRange& r : ranges_) {
    const uint64_t r_end = r.offset + r.length;
    if (r_end <= offset || r.offset >= end) {
      left.push_back(r);
      continue;
    }
    changed = true;
    if (r.offset < offset) left.push_back({r.offset, offset - r.offset});
    if (r_end > end) left.push_back({end, r_end - end});
  }
  ranges_ = std::move(left);
  any_.store(!ranges_.empty(), std::memory_order_release);
  return changed;
}

bool BadRanges::add(uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  BadBlockRange whole{offset, length};
  for (const BadBlockRange& r : ranges_)
    if (r.offset <= offset && offset + length <= r.offset + r.length) return false;
  std::erase_if(ranges_, [&](const BadBlockRange& r) {
    const uint64_t end = whole.offset + whole.length;
    if (r.offset > end || r.offset + r.length < whole.offset) return false;
    const uint64_t begin = std::min(r.offset, whole.offset);
    whole = {begin, std::max(end, r.offset + r.length) - begin};
    return true;
  });
  const auto after = std::find_if(ranges_.begin(), ranges_.end(),
                                  [&](const BadBlockRange& r) { return r.offset > whole.offset; });
  ranges_.insert(after, whole);
  any_.store(true, std::memory_order_release);
  return true;
}

std::vector<BadBlockRange> BadRanges::list() const {
  const std::lock_guard lock(mutex_);
  return ranges_;
}

void BadRanges::assign(std::vector<BadBlockRange> ranges) {
  const std::lock_guard lock(mutex_);
  std::sort(ranges.begin(), ranges.end(),
            [](const auto& a, const auto& b) { return a.offset < b.offset; });
  ranges_ = std::move(ranges);
  any_.store(!ranges_.empty(), std::memory_order_release);
}

uint64_t Members::same_run(uint64_t offset, uint64_t length) const {
  uint64_t end = offset + length;
  for (const Slot& slot : slots)
    if (slot.bad.any()) end = slot.bad.same_until(offset, end);
  if (torn.any()) end = torn.same_until(offset, end);
  return end - offset;
}

namespace {

// As raid5.c.
bool only_parity(const Geometry& g, uint32_t slot) {
  if (g.level < 4 || g.level > 6) return false;
  const uint32_t parities = g.level == 6 ? 2 : 1, last = g.raid_disks - 1;
  switch (g.layout) {
    case parity_layout::parity_first:
      return slot < parities;
    case parity_layout::parity_last:
      return slot + parities > last;
    case parity_layout::parity_first_6:
      return slot == 0 || slot == last;
    case parity_layout::left_asymmetric_6:
    case parity_layout::right_asymmetric_6:
    case parity_layout::left_symmetric_6:
    case parity_layout::right_symmetric_6:
      return slot == last;
    default:
      return false;
  }
}

}  // namespace

SlotSet Members::lacking_data() const {
  SlotSet set = missing();
  for (uint32_t slot = 0; slot < disks(); ++slot)
    if (slots[slot].present() && only_parity(geometry, slot)) set[slot] = false;
  return set;
}

SlotSet Members::missing() const {
  SlotSet set;
  for (uint32_t i = 0; i < geometry.raid_disks; ++i) set[i] = !slots[i].in_sync();
  return set;
}

Status Personality::zero_member(uint32_t index, uint64_t offset, uint64_t length, Unmap unmap) {
  Slot& slot = m_.slots[index];
  if (!slot.present()) return {};
  const Status status = slot.device->write_zeroes(slot.data_offset + offset, length, unmap);
  if (status)
    m_.host->made_good(index, offset, length);
  else if (no_room(status.error().code()))
    return status;
  else if (!m_.host->fail_member(index, status.error()))
    return fail_sys(EIO, "");
  return {};
}

Result<std::unique_ptr<Personality>> make_personality(Members& members) {
  struct Entry {
    int32_t level;
    Result<std::unique_ptr<Personality>> (*make)(Members&);
  };
  constexpr Entry entries[] = {
      {level_linear, make_linear}, {0, make_raid0},   {1, make_raid1},   {4, make_raid456},
      {5, make_raid456},           {6, make_raid456}, {10, make_raid10},
  };
  for (const Entry& entry : entries)
    if (entry.level == members.geometry.level) return entry.make(members);
  return fail_invalid(level_name(members.geometry.level) + " is not supported");
}

}  // namespace volfs::md
