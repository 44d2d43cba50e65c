// SPDX-License-Identifier: GPL-2.0-or-later
// Bytes of labels and area headers.
//
// Label, in one of the first four sectors:
//     0  "LABELONE"   8  its own sector   16  CRC of bytes 20..511   20  offset of the PV header
//     24 "LVM2 001"
// PV header: 32 bytes id, 8 device size, then lists of {offset, size} that end with {0, 0}: data
// areas, metadata areas; then the extension: version, flags, the list of bootloader areas.
// Area header, one sector: CRC of bytes 4..511, magic, version 1, its own start, size of the
// area, then locations {offset, size, CRC of the text, flags}: committed, precommitted.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/endian.h"
#include "volfs/lvm/physical_volume.h"

namespace volfs::lvm {

inline constexpr uint64_t label_sectors = 4;
inline constexpr uint64_t area_header_size = 512;
inline constexpr uint32_t location_ignored = 1;
inline constexpr uint64_t area_alignment = 512;  // where texts begin
// The smallest area lvm2 makes: 8 pages.
inline constexpr uint64_t least_area_size = 32 * 1024;

struct DiskLabelHeader {
  char id[8];
  Le64 sector;
  Le32 checksum;
  Le32 offset;
  char type[8];
};
static_assert(sizeof(DiskLabelHeader) == 32 && offsetof(DiskLabelHeader, offset) == 20);

struct DiskLocation {
  Le64 offset, size;
};
static_assert(sizeof(DiskLocation) == 16);

struct DiskPvHeader {
  char id[32];
  Le64 device_size;
};
static_assert(sizeof(DiskPvHeader) == 40);

struct DiskRingLocation {
  Le64 offset, size;
  Le32 checksum, flags;
};
static_assert(sizeof(DiskRingLocation) == 24);

struct DiskAreaHeader {
  Le32 checksum;
  char magic[16];
  Le32 version;
  Le64 start, size;
  DiskRingLocation locations[2];
};
static_assert(sizeof(DiskAreaHeader) == 88 && offsetof(DiskAreaHeader, locations) == 40);

inline constexpr std::string_view label_magic = "LABELONE";
inline constexpr std::string_view label_type = "LVM2 001";
inline constexpr std::string_view area_magic = "\040LVM2\040x[5A%r0N*>";
static_assert(area_magic.size() == 16);

using Sector = std::array<std::byte, 512>;

// The sector of a label. Fails if its lists do not fit.
Result<Sector> encode_label(const Label& label);
// Null if SECTOR holds no label of ours; an error if it does and what it says is nonsense.
Result<std::optional<Label>> decode_label(const Sector& sector, unsigned number);

Sector encode_area_header(const MetadataArea& area);
// Fills all but the text. What is wrong becomes the area's problem.
void decode_area_header(const Sector& sector, MetadataArea& area);

// Reads and writes of any alignment on devices with any block size. A write reads the rest of
// its first and last block before.
Status read_bytes(BlockDevice& device, uint64_t offset, std::span<std::byte> to);
Status write_bytes(BlockDevice& device, uint64_t offset, std::span<const std::byte> from);

}  // namespace volfs::lvm
