// SPDX-License-Identifier: GPL-2.0-or-later
// What the superblocks of found members say of their array.
#pragma once

#include <string>
#include <vector>

#include "volfs/engine/scan.h"
#include "volfs/md/array.h"
#include "volfs/md/superblock.h"

namespace volfs::engine {

struct ArrayMember {
  std::string device;
  md::MemberMetadata sb;
};

// The members of one array. Nothing is checked that md::Array::assemble checks.
class ArrayGroup {
 public:
  explicit ArrayGroup(const md::Uuid& uuid) : uuid_(uuid) {}
  void add(ArrayMember member) { members_.push_back(std::move(member)); }

  const md::Uuid& uuid() const { return uuid_; }
  const std::vector<ArrayMember>& members() const { return members_; }
  // Every slot has a member that is in sync.
  bool complete() const;
  // Its file's name, as mdadm would call it in /dev/md: the superblock's name without the host,
  // "md0" for a bare number; of metadata 0.90 its preferred minor number.
  std::string wanted_name() const;
  // Everything but `name` and what only an assembled array can tell. Members that are out of date
  // are not in its definition. With FORCE, of copies of one member one is taken; else all are, and
  // assembly refuses them.
  FoundArray describe(bool force) const;
  // Puts those, and who is faulty or was written apart, into the slots that nobody else fills, the
  // freshest first; false if there are none. To assemble it needs force then.
  bool put_left_out(FoundArray& array) const;
  // Adds the notes, once it is known what STATUS it has, if it is assembled. CUT_OFF: members that
  // are left out because their images are.
  void tell(FoundArray& array, const md::ArrayStatus& status,
            const std::vector<ArrayMember>& cut_off) const;

 private:
  const ArrayMember& freshest() const;
  FoundMember look_at(const ArrayMember& member) const;
  const ArrayMember& member(const std::string& device) const;
  config::Array definition(const std::vector<FoundMember>& members) const;
  void put(config::ArrayDevice& slot, const FoundMember& found) const;
  void leave_out_copies(FoundArray& array) const;
  std::vector<std::string> notes(const std::vector<FoundMember>& members) const;
  void note_halves(const std::vector<FoundMember>& members, std::vector<std::string>& notes) const;

  md::Uuid uuid_;
  std::vector<ArrayMember> members_;
};

}  // namespace volfs::engine
