// SPDX-License-Identifier: GPL-2.0-or-later
// What is said of a geometry as a whole: whether it is possible, how large the array is, what it
// survives.
#include <fmt/format.h>

#include "volfs/md/layout.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint64_t page = 4096;

Status check_parity(const Geometry& g) {
  uint32_t least = g.level == 6 ? 4 : 2;
  if (g.raid_disks < least)
    return fail_invalid(fmt::format("{} needs at least {} members, not {}", level_name(g.level),
                                    least, g.raid_disks));
  if (g.level == 6 && g.raid_disks > 256)
    return fail_invalid(fmt::format("raid6 has at most 256 members, not {}", g.raid_disks));
  bool known = g.layout <= 5;
  if (g.level == 4) known = true;  // md ignores it there
  if (g.level == 6)
    known = known || (g.layout >= 8 && g.layout <= 10) || (g.layout >= 16 && g.layout <= 20);
  if (!known)
    return fail_invalid(fmt::format("layout {} is unknown for {}", g.layout, level_name(g.level)));
  return {};
}

Status check_raid10(const Geometry& g) {
  uint32_t near = g.layout & 255, far = g.layout >> 8 & 255;
  if (near == 0 || far == 0 || g.layout >> 17 > 2)
    return fail_invalid(fmt::format("layout {:#x} is unknown for raid10", g.layout));
  if (near * far < 2 || near * far > g.raid_disks)
    return fail_invalid(
        fmt::format("raid10 layout {} needs 2 or more copies and at least {} members",
                    layout_name(10, g.layout), near * far));
  return {};
}

Status check_chunk(const Geometry& g) {
  switch (g.level) {
    case 4:
    case 5:
    case 6:
    case 10:
      if (g.chunk < page || !is_power_of_two(g.chunk))
        return fail_invalid(
            fmt::format("chunk of {} bytes: {} needs a power of two of at least 4096", g.chunk,
                        level_name(g.level)));
      break;
    case 0:
      if (g.chunk == 0 || g.chunk % sector_size != 0)
        return fail_invalid(
            fmt::format("chunk of {} bytes: raid0 needs a multiple of 512", g.chunk));
      break;
    case level_linear:
      if (g.chunk % sector_size != 0)
        return fail_invalid(
            fmt::format("rounding of {} bytes: linear needs a multiple of 512", g.chunk));
      break;
    default:
      break;
  }
  // On disk a chunk is at most 2^32 sectors; with it every row number and product stays in range.
  if (g.chunk > uint64_t{UINT32_MAX} * sector_size)
    return fail_invalid(fmt::format("chunk of {} bytes is too large", g.chunk));
  return {};
}

}  // namespace

Status check_geometry(const Geometry& g) {
  if (g.raid_disks == 0 || g.raid_disks > max_slots)
    return fail_invalid(fmt::format("{} members, expected 1 to {}", g.raid_disks, max_slots));
  switch (g.level) {
    case level_linear:
    case 0:
    case 1:
      break;
    case 4:
    case 5:
    case 6:
      VOLFS_TRY(check_parity(g));
      break;
    case 10:
      VOLFS_TRY(check_raid10(g));
      break;
    default:
      return fail_invalid(fmt::format(
          "{} is not supported: expected linear, raid0, raid1, raid4, raid5, raid6 or raid10",
          level_name(g.level)));
  }
  if (g.level == 0 && g.layout > raid0_layout::alternate)
    return fail_invalid(fmt::format("layout {} is unknown for raid0", g.layout));
  return check_chunk(g);
}

bool survives(const Geometry& g, const SlotSet& missing) {
  size_t lost = 0;
  for (uint32_t slot = 0; slot < g.raid_disks; ++slot) lost += missing[slot];
  switch (g.level) {
    case 1:
      return lost < g.raid_disks;
    case 4:
    case 5:
      return lost <= 1;
    case 6:
      return lost <= 2;
    case 10: {
      if (lost == 0) return true;
      // Only which slots hold the copies matters; any size with room for the pattern will do.
      uint64_t rows = uint64_t{g.raid_disks} * 2 * (g.layout >> 8 & 255);
      auto layout = Raid10Layout::make(g, g.chunk * rows);
      return layout && layout->survives(missing);
    }
    default:
      return lost == 0;
  }
}

uint64_t array_size(const Geometry& g, uint64_t member_size) {
  switch (g.level) {
    case 1:
      return member_size;
    case 4:
    case 5:
    case 6: {
      auto layout = ParityLayout::make(g);
      return layout ? layout->array_size(member_size) : 0;
    }
    case 10: {
      auto layout = Raid10Layout::make(g, member_size);
      return layout ? layout->size() : 0;
    }
    case 0:
      return g.raid_disks * raid0_share(member_size, g.chunk);
    default:
      return g.raid_disks * (g.chunk != 0 ? round_down(member_size, g.chunk) : member_size);
  }
}

}  // namespace volfs::md
