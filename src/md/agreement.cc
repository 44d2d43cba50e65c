// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/md/agreement.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace volfs::md {

std::string disagreement(const ArrayMetadata& a, const ArrayMetadata& b) {
  const Geometry &g = a.geometry, &h = b.geometry;
  if (g.level != h.level)
    return fmt::format("level {}, not {}", level_name(g.level), level_name(h.level));
  if (g.raid_disks != h.raid_disks)
    return fmt::format("{} devices, not {}", g.raid_disks, h.raid_disks);
  if (g.layout != h.layout) return fmt::format("layout {}, not {}", g.layout, h.layout);
  if (g.chunk != h.chunk) return fmt::format("chunks of {} bytes, not {}", g.chunk, h.chunk);
  if (a.member_size != b.member_size)
    return fmt::format("size {}, not {}", a.member_size, b.member_size);
  if (a.ctime.seconds != b.ctime.seconds)
    return fmt::format("creation time {}, not {}", a.ctime.seconds, b.ctime.seconds);
  return {};
}

namespace {

// A clean stop takes the event count back to what it was before: the time tells the younger then.
auto age_of(const MemberMetadata& member) {
  const ArrayMetadata& a = member.array;
  return std::tuple(a.events, a.utime.seconds, a.utime.microseconds, UINT16_MAX - member.role(),
                    UINT32_MAX - member.dev_number);
}

}  // namespace

size_t freshest(std::span<const MemberMetadata* const> members) {
  const auto found =
      std::ranges::max_element(members, {}, [](const MemberMetadata* m) { return age_of(*m); });
  return static_cast<size_t>(found - members.begin());
}

bool written_apart(const MemberMetadata& member, const MemberMetadata& other) {
  const uint32_t disks = member.array.geometry.raid_disks;
  const auto &roles = member.array.roles, &others = other.array.roles;
  const auto is_active = [disks](uint16_t role) { return role < disks; };
  if (!is_active(member.role()) || !is_active(other.role()) || member.recovery_offset) return false;
  if (member.array.version == SuperblockVersion::v0_90)
    return other.role() != member.role() && std::ranges::find(roles, other.role()) == roles.end();
  const size_t both = std::min(roles.size(), others.size());
  for (size_t number = 0; number < both; ++number)
    if (is_active(roles[number]) && is_active(others[number])) return false;
  return true;
}

Standing standing(const MemberMetadata& member, const MemberMetadata& freshest) {
  const ArrayMetadata& a = freshest.array;
  Standing s;
  if (member.dev_number < a.roles.size()) s.role = a.roles[member.dev_number];
  if (s.role < max_role && member.role() == role_spare) s.role = role_spare;
  s.stale = member.array.events + 1 < a.events;
  // With one event between them the last update may not have reached a member that is known.
  const bool certain = s.role >= max_role || member.array.events == a.events;
  s.apart = certain && written_apart(member, freshest);
  if (s.apart) s.role = role_faulty;
  return s;
}

}  // namespace volfs::md
