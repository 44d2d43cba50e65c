// SPDX-License-Identifier: GPL-2.0-or-later
// What the superblock codecs share among themselves.
#pragma once

#include "volfs/md/superblock.h"

namespace volfs::md {

inline constexpr uint32_t md_magic = 0xa92b4efc;
inline constexpr uint32_t most_dm_raid_devices = 253;

Result<MemberMetadata> decode_v1(SuperblockVersion version, std::span<const std::byte> bytes,
                                 uint64_t device_size, uint64_t super_offset);
Result<SuperblockBytes> encode_v1(const MemberMetadata& member);
bool looks_like_v1(std::span<const std::byte> bytes);

Result<MemberMetadata> decode_v0_90(std::span<const std::byte> bytes, uint64_t device_size,
                                    uint64_t super_offset);
Result<SuperblockBytes> encode_v0_90(const MemberMetadata& member);
bool looks_like_v0_90(std::span<const std::byte> bytes);

Result<MemberMetadata> decode_dm_raid(std::span<const std::byte> bytes, uint64_t device_size);
Result<SuperblockBytes> encode_dm_raid(const MemberMetadata& member);
bool looks_like_dm_raid(std::span<const std::byte> bytes);

// Whether a count of sectors from disk can be a place or size on any device.
bool possible_sectors(uint64_t sectors);

// The error that a field of a superblock has a value that it cannot have.
Status wrong_field(std::string_view field, uint64_t value, std::string_view expected);

}  // namespace volfs::md
