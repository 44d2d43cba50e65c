// SPDX-License-Identifier: GPL-2.0-or-later
// Writes what plan_create decided.
#include <algorithm>

#include "array_core.h"
#include "personality/partial_parity.h"
#include "ppl_format.h"
#include "volfs/md/array.h"

namespace volfs::md {

Status write_new_bitmap(const BitmapSuperblock& bitmap, bool bits_set, uint64_t size,
                        const MemberMetadata& member, BlockDevice& device) {
  std::vector<std::byte> bytes(size);
  const auto super = encode_bitmap_superblock(bitmap);
  std::copy(super.begin(), super.end(), bytes.begin());
  std::fill(bytes.begin() + bitmap_superblock_size, bytes.end(),
            std::byte{bits_set ? uint8_t{0xff} : uint8_t{0}});
  return device.write(member.bitmap_position(), bytes, Fua::yes);
}

namespace {

Status write_member(const CreatePlan& plan, const MemberMetadata& member, BlockDevice& device) {
  if (member.array.has_ppl)
    VOLFS_TRY(empty_ppl(device, member.ppl_position(), member.ppl_size,
                        ppl_signature(member.array.uuid)));
  if (member.bad_block_log_size != 0)
    VOLFS_TRY(device.write_zeroes(member.bad_block_log_position(), member.bad_block_log_size));
  // What an array begins with has not been made equal, unless its maker says so.
  if (plan.bitmap)
    VOLFS_TRY(write_new_bitmap(*plan.bitmap, plan.bits_set, plan.bitmap_disk_size, member, device));
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
