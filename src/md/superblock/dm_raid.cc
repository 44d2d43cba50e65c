// SPDX-License-Identifier: GPL-2.0-or-later
// dm-raid's superblock: struct dm_raid_superblock of Linux's drivers/md/dm-raid.c. A member's
// number is its slot, and of the others it says only who has failed.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "codec.h"
#include "volfs/endian.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint32_t dm_raid_magic = 0x64526d44;  // "DmRd"
constexpr uint32_t feature_v190 = 1;            // the fields from `flags` on are there
constexpr uint32_t flag_reshaping = 1;
constexpr uint64_t no_limit = UINT64_MAX;  // of sectors
constexpr uint64_t bitmap_place = 4096;

struct DiskDmRaid {
  Le32 magic, compat_features, num_devices, array_position;
  Le64 events, failed_devices, disk_recovery_offset, array_resync_offset;
  Le32 level, layout, stripe_sectors;
  Le32 flags;
  Le64 reshape_position;
  Le32 new_level, new_layout, new_stripe_sectors, delta_disks;
  Le64 array_sectors, data_offset, new_data_offset, sectors;
  Le64 extended_failed_devices[3];
  Le32 incompat_features;
};
static_assert(sizeof(DiskDmRaid) == 148 && offsetof(DiskDmRaid, events) == 16 &&
              offsetof(DiskDmRaid, level) == 48 && offsetof(DiskDmRaid, flags) == 60 &&
              offsetof(DiskDmRaid, array_sectors) == 88 &&
              offsetof(DiskDmRaid, incompat_features) == 144);

Status wrong_dm_raid_field(std::string_view field, uint64_t value, std::string_view expected) {
  return fail_invalid(
      fmt::format("dm-raid superblock: {} is {}, expected {}", field, value, expected));
}

Status check_sectors(std::string_view field, uint64_t sectors) {
  if (possible_sectors(sectors)) return {};
  return wrong_dm_raid_field(field, sectors, "a number of sectors that a device can have");
}

Status check_dm_raid(const DiskDmRaid& disk) {
  const uint32_t features = disk.compat_features, others = disk.incompat_features;
  if ((features & ~feature_v190) != 0 || ((features & feature_v190) != 0 && others != 0))
    return fail(Error::make(
        ENOTSUP, fmt::format("dm-raid superblock: compat_features {:#x} and incompat_features "
                             "{:#x}, of which only {:#x} and 0 are known",
                             features, others, feature_v190)));
  const uint32_t devices = disk.num_devices, position = disk.array_position;
  if (devices == 0 || devices > most_dm_raid_devices)
    return wrong_dm_raid_field("num_devices", devices,
                               fmt::format("1 to {}", most_dm_raid_devices));
  if (position >= devices)
    return wrong_dm_raid_field("array_position", position, fmt::format("less than {}", devices));
  for (const auto& [field, sectors] :
       {std::pair("disk_recovery_offset", uint64_t{disk.disk_recovery_offset}),
        std::pair("array_resync_offset", uint64_t{disk.array_resync_offset})})
    if (sectors != no_limit) VOLFS_TRY(check_sectors(field, sectors));
  if ((features & feature_v190) == 0) return {};
  VOLFS_TRY(check_sectors("array_sectors", disk.array_sectors));
  VOLFS_TRY(check_sectors("data_offset", disk.data_offset));
  return check_sectors("sectors", disk.sectors);
}

uint64_t bytes_or_all(uint64_t sectors) {
  return sectors == no_limit ? all_in_sync : sectors * sector_size;
}

uint64_t sectors_or_all(uint64_t bytes) {
  return bytes == all_in_sync ? no_limit : bytes / sector_size;
}

Reshape reshape_of(const DiskDmRaid& disk) {
  Reshape reshape;
  reshape.position = uint64_t{disk.reshape_position} * sector_size;
  reshape.new_level = static_cast<int32_t>(uint32_t{disk.new_level});
  reshape.delta_disks = static_cast<int32_t>(uint32_t{disk.delta_disks});
  reshape.new_layout = disk.new_layout;
  reshape.new_chunk = uint64_t{disk.new_stripe_sectors} * sector_size;
  return reshape;
}

}  // namespace

bool looks_like_dm_raid(std::span<const std::byte> bytes) {
  Le32 magic;
  if (bytes.size() < sizeof magic) return false;
  std::memcpy(&magic, bytes.data(), sizeof magic);
  return magic == dm_raid_magic;
}

Result<MemberMetadata> decode_dm_raid(std::span<const std::byte> bytes, uint64_t device_size) {
  DiskDmRaid disk;
  std::memcpy(&disk, bytes.data(), sizeof disk);
  VOLFS_TRY(check_dm_raid(disk));
  MemberMetadata member;
  ArrayMetadata& array = member.array;
  array.version = SuperblockVersion::dm_raid;
  array.geometry.level = static_cast<int32_t>(uint32_t{disk.level});
  array.geometry.layout = disk.layout;
  array.geometry.raid_disks = disk.num_devices;
  array.geometry.chunk = uint64_t{disk.stripe_sectors} * sector_size;
  array.events = disk.events;
  array.resync_offset = bytes_or_all(disk.array_resync_offset);
  array.has_bitmap = true;
  const bool extended = (uint32_t{disk.compat_features} & feature_v190) != 0;
  uint64_t failed[4] = {disk.failed_devices, 0, 0, 0};
  for (size_t i = 0; extended && i < 3; ++i) failed[i + 1] = disk.extended_failed_devices[i];
  for (uint32_t i = 0; i < array.geometry.raid_disks; ++i)
    array.roles.push_back((failed[i / 64] >> (i % 64) & 1) != 0 ? role_faulty
                                                                : static_cast<uint16_t>(i));
  member.dev_number = disk.array_position;
  if (disk.disk_recovery_offset != no_limit)
    member.recovery_offset = disk.disk_recovery_offset * sector_size;
  member.bitmap_offset = bitmap_place;
  member.metadata_size = device_size;
  if (!extended) return member;
  array.member_size = member.data_size = disk.sectors * sector_size;
  member.data_offset = disk.data_offset * sector_size;
  if ((uint32_t{disk.flags} & flag_reshaping) != 0) array.reshape = reshape_of(disk);
  return member;
}

// What Linux writes; beyond the structure all is zero.
Result<SuperblockBytes> encode_dm_raid(const MemberMetadata& member) {
  const ArrayMetadata& array = member.array;
  const Geometry& g = array.geometry;
  if (g.raid_disks == 0 || g.raid_disks > most_dm_raid_devices)
    return fail_invalid(fmt::format("{} devices: a dm-raid superblock has room for 1 to {}",
                                    g.raid_disks, most_dm_raid_devices));
  if (array.reshape) return fail(Error::make(ENOTSUP, "a reshape cannot be written down"));
  DiskDmRaid disk{};
  disk.magic = dm_raid_magic;
  disk.compat_features = feature_v190;
  disk.num_devices = g.raid_disks;
  disk.array_position = member.dev_number;
  disk.events = array.events;
  uint64_t failed[4] = {};
  for (uint32_t i = 0; i < g.raid_disks; ++i)
    if (i >= array.roles.size() || array.roles[i] >= max_role)
      failed[i / 64] |= uint64_t{1} << (i % 64);
  disk.failed_devices = failed[0];
  for (size_t i = 0; i < 3; ++i) disk.extended_failed_devices[i] = failed[i + 1];
  disk.disk_recovery_offset = sectors_or_all(member.recovery_offset.value_or(all_in_sync));
  disk.array_resync_offset = sectors_or_all(array.resync_offset);
  disk.level = disk.new_level = static_cast<uint32_t>(g.level);
  disk.layout = disk.new_layout = g.layout;
  disk.stripe_sectors = disk.new_stripe_sectors = static_cast<uint32_t>(g.chunk / sector_size);
  disk.reshape_position = no_limit;
  disk.array_sectors = array_size(g, array.member_size) / sector_size;
  disk.data_offset = disk.new_data_offset = member.data_offset / sector_size;
  disk.sectors = array.member_size / sector_size;
  SuperblockBytes bytes{};
  std::memcpy(bytes.data(), &disk, sizeof disk);
  return bytes;
}

}  // namespace volfs::md
