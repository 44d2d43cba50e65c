// SPDX-License-Identifier: GPL-2.0-or-later
// What does not depend on the version, and the choice by version.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "codec.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

struct VersionName {
  const char* name;
  SuperblockVersion version;
};
constexpr VersionName version_names[] = {
    {"0.90", SuperblockVersion::v0_90}, {"1.0", SuperblockVersion::v1_0},
    {"1.1", SuperblockVersion::v1_1},   {"1.2", SuperblockVersion::v1_2},
    {"0.9", SuperblockVersion::v0_90},  {"0", SuperblockVersion::v0_90},
    {"1", SuperblockVersion::v1_2},     {"default", SuperblockVersion::v1_2},
};

}  // namespace

bool possible_sectors(uint64_t sectors) {
  return sectors <= max_device_size >> sector_shift;
}

Status wrong_field(std::string_view field, uint64_t value, std::string_view expected) {
  return fail_invalid(fmt::format("md superblock: {} is {}, expected {}", field, value, expected));
}

std::string_view version_name(SuperblockVersion version) {
  for (const VersionName& entry : version_names)
    if (entry.version == version) return entry.name;
  return "dm-raid";  // which nobody chooses by its name
}

Result<SuperblockVersion> parse_version(std::string_view name) {
  for (const VersionName& entry : version_names)
    if (entry.name == name) return entry.version;
  return fail_invalid(
      fmt::format("\"{}\" is no md metadata version: expected 0.90, 1.0, 1.1 or 1.2", name));
}

std::optional<uint64_t> superblock_offset(SuperblockVersion version, uint64_t device_size) {
  if (device_size > max_device_size) return std::nullopt;
  if (version == SuperblockVersion::v0_90) {
    if (device_size < 128 * KiB) return std::nullopt;
    return round_down(device_size, 64 * KiB) - 64 * KiB;
  }
  if (version == SuperblockVersion::dm_raid)
    return device_size < superblock_size ? std::nullopt : std::optional<uint64_t>(0);
  if (device_size < 24 * sector_size) return std::nullopt;
  switch (version) {
    case SuperblockVersion::v1_0:
      return round_down(device_size - 8 * KiB, 4 * KiB);
    case SuperblockVersion::v1_1:
      return 0;
    default:
      return 4 * KiB;
  }
}

uint32_t max_devices(SuperblockVersion version) {
  if (version == SuperblockVersion::dm_raid) return most_dm_raid_devices;
  return version == SuperblockVersion::v0_90 ? 27 : max_slots;
}

Uuid ArrayMetadata::bitmap_uuid() const {
  Uuid result = uuid;
  if (version == SuperblockVersion::v0_90)
    for (size_t i = 0; i < 16; i += 4)
      std::reverse(result.bytes.begin() + static_cast<long>(i),
                   result.bytes.begin() + static_cast<long>(i) + 4);
  return result;
}

uint64_t MemberMetadata::bitmap_room() const {
  if (array.version == SuperblockVersion::v0_90) return 60 * KiB;
  if (array.version == SuperblockVersion::dm_raid)
    return metadata_size - std::min(metadata_size, bitmap_position());
  uint64_t start = bitmap_position();
  // What comes next after the bitmap: the superblock, the bad-block log or the data. After a 1.0
  // superblock md counts on the rest of its 4 KiB only.
  uint64_t end = super_offset > start                       ? super_offset
                 : array.version == SuperblockVersion::v1_0 ? super_offset + superblock_size
                                                            : data_offset;
  if (bad_block_log_size != 0 && bad_block_log_position() > start)
    end = std::min(end, bad_block_log_position());
  return end > start ? end - start : 0;
}

bool looks_like_superblock(SuperblockVersion version, std::span<const std::byte> bytes) {
  if (version == SuperblockVersion::dm_raid) return looks_like_dm_raid(bytes);
  return version == SuperblockVersion::v0_90 ? looks_like_v0_90(bytes) : looks_like_v1(bytes);
}

Result<MemberMetadata> decode_superblock(SuperblockVersion version,
                                         std::span<const std::byte> bytes, uint64_t device_size) {
  auto offset = superblock_offset(version, device_size);
  if (!offset)
    return fail_invalid(fmt::format("a device of {} bytes is too small for a {} superblock",
                                    device_size, version_name(version)));
  if (bytes.size() < superblock_size)
    return fail_invalid(
        fmt::format("md superblock cut to {} bytes, expected {}", bytes.size(), superblock_size));
  if (!looks_like_superblock(version, bytes))
    return fail(
        Error::make(ENODATA, fmt::format("no md superblock of version {}", version_name(version))));
  bytes = bytes.first(superblock_size);
  if (version == SuperblockVersion::dm_raid) return decode_dm_raid(bytes, device_size);
  return version == SuperblockVersion::v0_90 ? decode_v0_90(bytes, device_size, *offset)
                                             : decode_v1(version, bytes, device_size, *offset);
}

Result<SuperblockBytes> encode_superblock(const MemberMetadata& member) {
  if (member.array.version == SuperblockVersion::dm_raid) return encode_dm_raid(member);
  return member.array.version == SuperblockVersion::v0_90 ? encode_v0_90(member)
                                                          : encode_v1(member);
}

size_t superblock_write_size(const MemberMetadata& member) {
  if (member.array.version == SuperblockVersion::v0_90 ||
      member.array.version == SuperblockVersion::dm_raid)
    return superblock_size;
  size_t entries = std::max<size_t>(member.roles_room, member.array.roles.size());
  return std::min<size_t>(superblock_size, round_up(256 + 2 * entries, sector_size));
}

}  // namespace volfs::md
