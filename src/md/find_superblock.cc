// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include "volfs/md/array.h"

namespace volfs::md {

Result<std::optional<MemberMetadata>> scan(BlockDevice& device) {
  std::optional<MemberMetadata> best;
  std::optional<Error> damage, unreadable;
  for (const SuperblockVersion version : superblock_versions) {
    const auto offset = superblock_offset(version, round_down(device.size(), sector_size));
    if (!offset || !range_within(*offset, superblock_size, device.size())) continue;
    SuperblockBytes bytes;
    if (auto read = device.read(*offset, bytes); !read) {
      // It may be the place of another version than that of the array.
      if (!unreadable)
        unreadable = std::move(read.error())
                         .in(fmt::format("{}: superblock {} at {}", device.name(),
                                         version_name(version), *offset));
      continue;
    }
    if (!looks_like_superblock(version, bytes)) continue;
    auto found = decode_superblock(version, bytes, round_down(device.size(), sector_size));
    if (!found) {
      if (!damage)
        damage = std::move(found.error())
                     .in(fmt::format("{}: superblock {} at {}", device.name(),
                                     version_name(version), *offset));
      continue;
    }
    // A device may bear an old one beside: the one made last counts, as for mdadm.
    if (!best || found->array.ctime.seconds > best->array.ctime.seconds) best = std::move(*found);
  }
  if (!best && damage) return fail(std::move(*damage));
  if (!best && unreadable) return fail(std::move(*unreadable));
  return best;
}

}  // namespace volfs::md
