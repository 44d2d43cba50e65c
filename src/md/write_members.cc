// SPDX-License-Identifier: GPL-2.0-or-later
// Writes what plan_create decided.
#include <algorithm>

#include "volfs/md/array.h"

namespace volfs::md {
namespace {

// All bits are set at first: what an array begins with has not been made equal.
Status write_bitmap(const CreatePlan& plan, const MemberMetadata& member, BlockDevice& device) {
  const BitmapGeometry geometry(*plan.bitmap);
  std::vector<std::byte> bytes(plan.bitmap_disk_size);
  const auto super = encode_bitmap_superblock(*plan.bitmap);
  std::copy(super.begin(), super.end(), bytes.begin());
  std::fill(bytes.begin() + bitmap_superblock_size, bytes.end(), std::byte{0xff});
  return device.write(member.bitmap_position(), bytes, Fua::yes);
}

Status write_member(const CreatePlan& plan, const MemberMetadata& member, BlockDevice& device) {
  if (member.bad_block_log_size != 0)
    VOLFS_TRY(device.write_zeroes(member.bad_block_log_position(), member.bad_block_log_size));
  if (plan.bitmap) VOLFS_TRY(write_bitmap(plan, member, device));
  VOLFS_TRY_ASSIGN(const SuperblockBytes bytes, encode_superblock(member));
  return device.write(member.super_offset, bytes, Fua::yes);
}

}  // namespace

Status write_new_members(const CreatePlan& plan, std::span<BlockDevice* const> devices) {
  for (const CreatedMember& created : plan.members)
    if (created.device >= devices.size() || !devices[created.device])
      return fail_invalid("a device of the plan is not given");
  for (const CreatedMember& created : plan.members) {
    BlockDevice& device = *devices[created.device];
    VOLFS_TRY(in(device.name(), write_member(plan, created.member, device)));
    VOLFS_TRY(device.flush());
  }
  return {};
}

}  // namespace volfs::md
