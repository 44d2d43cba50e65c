// SPDX-License-Identifier: GPL-2.0-or-later
// Writes what plan_create decided.
#include <isa-l/crc.h>

#include <algorithm>
#include <cstring>

#include "volfs/endian.h"
#include "volfs/md/array.h"

namespace volfs::md {
namespace {

// What an array begins with has not been made equal, unless its maker says so.
Status write_bitmap(const CreatePlan& plan, const MemberMetadata& member, BlockDevice& device) {
  const BitmapGeometry geometry(*plan.bitmap);
  std::vector<std::byte> bytes(plan.bitmap_disk_size);
  const auto super = encode_bitmap_superblock(*plan.bitmap);
  std::copy(super.begin(), super.end(), bytes.begin());
  std::fill(bytes.begin() + bitmap_superblock_size, bytes.end(),
            std::byte{plan.bits_set ? uint8_t{0xff} : uint8_t{0}});
  return device.write(member.bitmap_position(), bytes, Fua::yes);
}

// A partial parity log without entries (struct ppl_header of the kernel's md_p.h), as mdadm writes
// it.
struct PplHeader {
  uint8_t reserved[512];
  Le32 signature, padding;
  Le64 generation;
  Le32 entries_count, checksum;
  uint8_t entries[4096 - 536];
};
static_assert(sizeof(PplHeader) == 4096 && offsetof(PplHeader, checksum) == 532);

// CRC32C without the closing inversion, which md leaves to the caller.
uint32_t crc32c(const void* bytes, size_t length) {
  return crc32_iscsi(static_cast<unsigned char*>(const_cast<void*>(bytes)),
                     static_cast<int>(length), ~0u);
}

Status write_ppl(const MemberMetadata& member, BlockDevice& device) {
  VOLFS_TRY(device.write_zeroes(member.ppl_position(), member.ppl_size));
  PplHeader header{};
  std::memset(header.reserved, 0xff, sizeof header.reserved);
  header.signature = ~crc32c(member.array.uuid.bytes.data(), member.array.uuid.bytes.size());
  header.checksum = ~crc32c(&header, sizeof header);
  return device.write(member.ppl_position(), std::as_bytes(std::span(&header, 1)), Fua::yes);
}

Status write_member(const CreatePlan& plan, const MemberMetadata& member, BlockDevice& device) {
  if (member.array.has_ppl) VOLFS_TRY(write_ppl(member, device));
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
