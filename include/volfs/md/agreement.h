// SPDX-License-Identifier: GPL-2.0-or-later
// What the superblocks of one array's members say of each other: who is to be believed, and what
// becomes of the others by that. Pure functions; assembly and scan decide by the same.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "volfs/md/superblock.h"

namespace volfs::md {

// What two superblocks of one array say differently and must not (compare_super of mdadm): "level
// raid1, not raid5"; empty if they agree.
std::string disagreement(const ArrayMetadata& a, const ArrayMetadata& b);

// Index of the one to believe: as for md who has most events. Of equal ones who was updated last;
// then who is in a slot, and in the lowest: whatever the order in which they are given. mdadm takes
// the first one that it was given. MEMBERS is not empty.
size_t freshest(std::span<const MemberMetadata* const> members);

struct Standing {
  // By the freshest superblock: a slot or role_*. Spares that were just given a slot are still
  // spares while they do not say so themselves. role_faulty: who was written apart, or serves by
  // its own superblock only.
  uint16_t role = role_spare;
  // It is more than one event behind; one is none: the last update may just not have reached it.
  bool stale = false;
  // It was written without the freshest, and that without it, since they were together: it is left
  // out, as by mdadm, but without regard to force.
  bool apart = false;
};
Standing standing(const MemberMetadata& member, const MemberMetadata& freshest);

// Whether two members are of halves that were each written alone, so that nobody has what was
// written to the one and what to the other: no device serves by both their superblocks, or, where
// md takes who is one event behind, MEMBER does not know OTHER (mdadm ignores it then, of 0.90).
// Numbers of devices alone do not tell: both halves give those that are free to new ones.
bool written_apart(const MemberMetadata& member, const MemberMetadata& other);

// Why FRESHEST is to be believed and not OTHER: "its event count is higher, 5 and not 3".
std::string why_fresher(const MemberMetadata& freshest, const MemberMetadata& other);

// One of the members that are given, and whether it is left out.
struct GivenMember {
  const MemberMetadata& superblock;
  std::string name;
  bool left_out = false;
};
// A line for each of the EMPTY slots that the freshest superblock gives to a device that is not
// there: perhaps one that was added later, and nobody has written down.
std::vector<std::string> absent_members(const MemberMetadata& freshest, const SlotSet& empty,
                                        std::span<const GivenMember> given);

}  // namespace volfs::md
