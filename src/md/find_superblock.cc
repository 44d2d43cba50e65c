// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "volfs/md/array.h"

namespace volfs::md {
namespace {

// Whether OUTER, found on the same device, is of an array whose member is the array that INNER is
// of: where both begin, or both end, at one place, it is seen on INNER's members, too.
bool lies_in(const MemberMetadata& outer, const MemberMetadata& inner) {
  if (outer.array.uuid == inner.array.uuid) return false;
  const uint64_t size = inner.array.member_size != 0 ? inner.array.member_size : inner.data_size;
  if (outer.super_offset < inner.super_offset)  // at the start, and what it describes ends in INNER
    return inner.data_offset == 0 && outer.data_offset + outer.data_size <= size;
  if (outer.array.version != SuperblockVersion::v0_90) return false;  // others say where they are
  const auto place = superblock_offset(outer.array.version, size);
  return place && inner.data_offset + *place == outer.super_offset;
}

}  // namespace

Result<std::optional<MemberMetadata>> scan(BlockDevice& device, const SuperblockChoice& choice) {
  std::vector<MemberMetadata> all;
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
    all.push_back(std::move(*found));
  }
  if (all.empty() && damage) return fail(std::move(*damage));
  if (all.empty() && unreadable) return fail(std::move(*unreadable));
  // It may bear an old one beside: the one made last counts, as for mdadm.
  const auto rank = [&](const MemberMetadata& m) {
    const bool inside =
        std::ranges::any_of(all, [&](const MemberMetadata& other) { return lies_in(m, other); });
    return std::tuple(!inside, choice.uuid == m.array.uuid, choice.version == m.array.version,
                      m.array.ctime.seconds);
  };
  const auto best = std::ranges::max_element(
      all, [&](const MemberMetadata& a, const MemberMetadata& b) { return rank(a) < rank(b); });
  if (best == all.end()) return std::nullopt;
  return std::move(*best);
}

}  // namespace volfs::md
