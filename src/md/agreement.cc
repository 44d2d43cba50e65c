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

namespace {

bool is_active(const MemberMetadata& member, uint16_t role) {
  return role < member.array.geometry.raid_disks;
}

// md takes a member that is one event behind: the last update may not have reached it.
bool tolerated(const ArrayMetadata& a, const ArrayMetadata& b) {
  return std::max(a.events, b.events) <= std::min(a.events, b.events) + 1;
}

// 0.90 knows devices by the numbers that Linux had for them when it wrote, the same on all; those
// of volfs stay. Whether A and B mean different devices by NUMBER.
bool name_differently(const ArrayMetadata& a, const ArrayMetadata& b, size_t number) {
  if (a.version != SuperblockVersion::v0_90) return false;
  const Device90 &x = a.devices90[number], &y = b.devices90[number];
  const bool lasting = x.major == 0 && y.major == 0;
  return x.named() && y.named() && (lasting || tolerated(a, b)) &&
         (x.major != y.major || x.minor != y.minor);
}

// Whether OF has its place by the superblock SAYS, too.
bool knows(const MemberMetadata& says, const MemberMetadata& of) {
  const auto& roles = says.array.roles;
  return of.dev_number < roles.size() && roles[of.dev_number] == of.role() &&
         !name_differently(says.array, of.array, of.dev_number);
}

// Whether a device serves in the same place by both.
bool share_device(const MemberMetadata& a, const MemberMetadata& b) {
  const auto &roles = a.array.roles, &others = b.array.roles;
  for (size_t number = 0; number < std::min(roles.size(), others.size()); ++number)
    if (is_active(a, roles[number]) && roles[number] == others[number] &&
        !name_differently(a.array, b.array, number))
      return true;
  return false;
}

}  // namespace

bool written_apart(const MemberMetadata& member, const MemberMetadata& other) {
  if (!is_active(member, member.role())) return false;
  if (!is_active(other, other.role())) return !share_device(member, other);
  // A slot of 0.90 that was given anew: assembly takes who was told later.
  if (member.array.version == SuperblockVersion::v0_90 && member.dev_number == other.dev_number)
    return false;
  if (knows(member, other)) return false;
  if (tolerated(member.array, other.array)) return true;
  return !knows(other, member) && !share_device(member, other);
}

Standing standing(const MemberMetadata& member, const MemberMetadata& freshest) {
  const ArrayMetadata& a = freshest.array;
  Standing s;
  const uint16_t own = member.role();
  if (member.dev_number < a.roles.size()) s.role = a.roles[member.dev_number];
  if (s.role < max_role && own == role_spare) s.role = role_spare;
  s.stale = member.array.events + 1 < a.events;
  s.apart = written_apart(member, freshest);
  // Who serves by its own superblock and not there by the freshest was taken out (of absent ones md
  // says that they are spares): it may hold what nobody else has, and is no spare.
  const bool elsewhere = own < max_role && s.role != own && s.role != role_journal;
  if (s.apart || elsewhere) s.role = role_faulty;
  return s;
}

std::string why_fresher(const MemberMetadata& freshest, const MemberMetadata& other) {
  const ArrayMetadata &a = freshest.array, &b = other.array;
  if (a.events != b.events)
    return fmt::format("its event count is higher, {} and not {}", a.events, b.events);
  if (a.utime.seconds != b.utime.seconds)
    return fmt::format("its event count is the same, {}, and it was updated {} s later", a.events,
                       a.utime.seconds - b.utime.seconds);
  return fmt::format(
      "its event count is the same, {}, it was updated at the same time, and its slot is lower",
      a.events);
}

std::vector<std::string> absent_members(const MemberMetadata& freshest, const SlotSet& empty,
                                        std::span<const GivenMember> given) {
  std::vector<std::string> lines;
  const auto& roles = freshest.array.roles;
  for (size_t number = 0; number < roles.size(); ++number) {
    if (!is_active(freshest, roles[number]) || !empty[roles[number]]) continue;
    const auto found = std::ranges::find_if(
        given, [number](const GivenMember& each) { return each.superblock.dev_number == number; });
    std::string line = fmt::format(
        "slot {} is missing: by the superblocks device {} is there, which is none of those given",
        roles[number], number);
    if (found != given.end()) {
      // 0.90 gives the number of who was replaced to the new device.
      if (freshest.array.version != SuperblockVersion::v0_90 || !found->left_out) continue;
      line += fmt::format(", or {} is an older copy of it", found->name);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace volfs::md
