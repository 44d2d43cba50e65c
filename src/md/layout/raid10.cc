// SPDX-License-Identifier: GPL-2.0-or-later
// raid10: near copies lie on neighbouring members at the same height, far copies further down (a
// whole section with "far", the next chunk with "offset") and moved on by the number of near ones.
#include <fmt/format.h>

#include <numeric>

#include "volfs/md/layout.h"
#include "volfs/units.h"

namespace volfs::md {

Result<Raid10Layout> Raid10Layout::make(const Geometry& g, uint64_t member_size) {
  if (g.level != 10) return fail_invalid(level_name(g.level) + " is not raid10");
  VOLFS_TRY(check_geometry(g));
  Raid10Layout layout;
  layout.disks_ = g.raid_disks;
  layout.near_ = g.layout & 255;
  layout.far_ = g.layout >> 8 & 255;
  layout.offset_ = (g.layout & 1u << 16) != 0;
  layout.chunk_shift_ = static_cast<uint32_t>(std::countr_zero(g.chunk));
  switch (g.layout >> 17) {
    case 0:
      layout.far_set_size_ = g.raid_disks;
      break;
    case 1:
      layout.far_set_size_ = g.raid_disks / layout.far_;
      break;
    default:
      layout.far_set_size_ = layout.far_ * layout.near_;
      break;
  }
  // With "offset" a near copy that wraps to slot 0 would land where a far copy lies.
  bool wraps = layout.offset_ && layout.far_ > 1 && g.raid_disks % layout.near_ != 0;
  if (wraps || (layout.far_ > 1 && !layout.far_is_permutation()))
    return fail_invalid(fmt::format(
        "raid10 layout {} on {} members puts two chunks in one place (Linux does): not usable",
        layout_name(10, g.layout), g.raid_disks));
  uint64_t rows = member_size >> layout.chunk_shift_;
  auto spread = checked_mul(rows / layout.far_, g.raid_disks);
  auto chunks = spread ? std::optional(*spread / layout.near_) : std::nullopt;
  if (!chunks || *chunks > max_device_size >> layout.chunk_shift_)
    return fail_invalid("the array is larger than a device can be");
  layout.size_ = *chunks << layout.chunk_shift_;
  uint64_t used_rows = div_round_up(*chunks * layout.copies(), g.raid_disks);
  layout.used_ = used_rows << layout.chunk_shift_;
  layout.stride_ = layout.offset_ ? layout.chunk() : used_rows / layout.far_ << layout.chunk_shift_;
  return layout;
}

// The slot of the next far copy. The last set takes the members that are left over; that its
// first slot is not counted as one of it (">") is Linux's doing and part of the format.
uint32_t Raid10Layout::next_far(uint32_t slot) const {
  uint32_t set = slot / far_set_size_, rest = disks_ % far_set_size_;
  uint32_t last_start = (disks_ / far_set_size_ - 1) * far_set_size_;
  slot += near_;
  if (rest != 0 && slot > last_start)
    return (slot - last_start) % (far_set_size_ + rest) + last_start;
  return slot % far_set_size_ + far_set_size_ * set;
}

bool Raid10Layout::far_is_permutation() const {
  SlotSet seen;
  for (uint32_t slot = 0; slot < disks_; ++slot) {
    uint32_t next = next_far(slot);
    if (next >= disks_ || seen[next]) return false;
    seen[next] = true;
  }
  return true;
}

void Raid10Layout::map(uint64_t offset, Place* out) const {
  uint64_t number = (offset >> chunk_shift_) * near_, within = offset & (chunk() - 1);
  uint64_t row = number / disks_;
  auto slot = static_cast<uint32_t>(number % disks_);
  if (offset_) row *= far_;
  uint64_t at = (row << chunk_shift_) + within, length = chunk() - within;
  for (uint32_t n = 0; n < near_; ++n) {
    uint32_t far_slot = slot;
    uint64_t far_at = at;
    *out++ = {far_slot, far_at, length};
    for (uint32_t f = 1; f < far_; ++f) {
      far_slot = next_far(far_slot);
      far_at += stride_;
      *out++ = {far_slot, far_at, length};
    }
    if (++slot == disks_) {
      slot = 0;
      at += chunk();
    }
  }
}

std::optional<Raid10Layout::Inverse> Raid10Layout::array_offset(uint32_t slot,
                                                                uint64_t offset) const {
  if (slot >= disks_ || offset >= used_) return std::nullopt;
  uint64_t within = offset & (chunk() - 1), row = offset >> chunk_shift_;
  uint32_t far_copy = 0;
  if (offset_) {
    far_copy = static_cast<uint32_t>(row % far_);
    row /= far_;
  } else if (far_ > 1) {
    uint64_t section = offset / stride_;
    if (section >= far_) return std::nullopt;
    far_copy = static_cast<uint32_t>(section);
    row = (offset % stride_) >> chunk_shift_;
  }
  // Undo the moves: next_far is a permutation, so walk its cycle round to what precedes.
  for (uint32_t f = 0; f < far_copy; ++f) {
    uint32_t before = slot;
    for (uint32_t next = next_far(slot); next != slot; next = next_far(next)) before = next;
    slot = before;
  }
  uint64_t number = row * disks_ + slot;
  uint64_t at = (number / near_ << chunk_shift_) + within;
  if (at >= size_) return std::nullopt;
  return Inverse{at, static_cast<uint32_t>(number % near_) * far_ + far_copy};
}

bool Raid10Layout::survives(const SlotSet& missing) const {
  // Where the copies of chunk N lie repeats once N*near_ is a multiple of the members.
  uint32_t period = disks_ / std::gcd(near_, disks_);
  for (uint32_t chunk_number = 0; chunk_number < period; ++chunk_number) {
    bool held = false;
    for (uint32_t n = 0; n < near_ && !held; ++n) {
      uint32_t slot = (chunk_number * near_ + n) % disks_;
      for (uint32_t f = 0; f < far_ && !held; ++f) {
        held = !missing[slot];
        if (f + 1 < far_) slot = next_far(slot);
      }
    }
    if (!held) return false;
  }
  return true;
}

}  // namespace volfs::md
