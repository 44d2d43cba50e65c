// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>

#include "volfs/md/array.h"

namespace volfs::md {

Limits array_limits(const Geometry& g, std::span<BlockDevice* const> members) {
  Limits sum;
  bool first = true;
  for (const BlockDevice* member : members) {
    const Limits below = member->limits();
    sum = first ? below : Limits::stack(sum, below);
    first = false;
  }
  uint64_t data = g.raid_disks;
  if (g.level >= 4 && g.level <= 5) --data;
  if (g.level == 6) data -= 2;
  if (g.level == 10)
    data = std::max<uint64_t>(1, data / ((g.layout & 255) * (g.layout >> 8 & 255)));
  if (g.chunk != 0 && g.level >= 0 && g.chunk <= UINT32_MAX / std::max<uint64_t>(data, 1)) {
    sum.io_min = static_cast<uint32_t>(g.chunk);
    sum.io_opt = static_cast<uint32_t>(g.chunk * data);
  }
  if (g.level >= 4 && g.level <= 6)
    sum.discard_granularity = static_cast<uint32_t>(std::min<uint64_t>(g.chunk * data, UINT32_MAX));
  else if (g.level > 0 && sum.discard_granularity == 0)
    sum.discard_granularity = 4096;
  return sum;
}

}  // namespace volfs::md
