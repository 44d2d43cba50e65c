// SPDX-License-Identifier: GPL-2.0-or-later
#include "personality.h"

namespace volfs::md {

bool Slot::readable(uint64_t offset, uint64_t length) const {
  if (!present() || offset + length > recovered.load(std::memory_order_acquire)) return false;
  for (const BadBlockRange& range : bad)
    if (range.offset < offset + length && offset < range.offset + range.length) return false;
  return true;
}

SlotSet Members::missing() const {
  SlotSet set;
  for (uint32_t i = 0; i < geometry.raid_disks; ++i) set[i] = !slots[i].in_sync();
  return set;
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
