// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/md/bitmap.h"

#include <fmt/format.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "volfs/endian.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint32_t bitmap_magic = 0x6d746962;
constexpr uint32_t state_stale = 1u << 1;
constexpr uint32_t state_write_error = 1u << 2;
constexpr uint32_t max_write_behind = 16383;  // what the kernel's counters can hold

struct DiskBitmap {
  Le32 magic;
  Le32 version;
  uint8_t uuid[16];
  Le64 events;
  Le64 events_cleared;
  Le64 sync_size;  // sectors
  Le32 state;
  Le32 chunksize;
  Le32 daemon_sleep;
  Le32 write_behind;
  Le32 sectors_reserved;
  Le32 nodes;
  uint8_t cluster_name[64];
  uint8_t pad[120];
};
static_assert(sizeof(DiskBitmap) == bitmap_superblock_size);
static_assert(offsetof(DiskBitmap, uuid) == 8 && offsetof(DiskBitmap, events) == 24);
static_assert(offsetof(DiskBitmap, sync_size) == 40 && offsetof(DiskBitmap, state) == 48);
static_assert(offsetof(DiskBitmap, write_behind) == 60 && offsetof(DiskBitmap, nodes) == 68);
static_assert(offsetof(DiskBitmap, cluster_name) == 72 && offsetof(DiskBitmap, pad) == 136);

Status check_fields(const DiskBitmap& disk) {
  if (disk.magic != bitmap_magic)
    return fail(Error::make(ENODATA, fmt::format("no bitmap: magic {:#010x}, expected {:#010x}",
                                                 static_cast<uint32_t>(disk.magic), bitmap_magic)));
  uint32_t version = disk.version;
  if (version == 5)
    return fail(Error::make(ENOTSUP, "bitmap version 5 belongs to a clustered array"));
  if (version != 3 && version != 4)
    return fail(Error::make(ENOTSUP, fmt::format("bitmap version {}, expected 3 or 4", version)));
  uint32_t chunk = disk.chunksize;
  if (chunk < sector_size || !is_power_of_two(chunk))
    return fail_invalid(
        fmt::format("bitmap chunksize {}, expected a power of two of at least 512", chunk));
  uint32_t sleep = disk.daemon_sleep;
  // The kernel keeps it as jiffies in a signed long; mdadm offers seconds up to a day or so.
  if (sleep < 1 || sleep > uint32_t{INT32_MAX} / 1000)
    return fail_invalid(fmt::format("bitmap daemon_sleep {}, expected 1 or more seconds", sleep));
  uint32_t behind = disk.write_behind;
  if (behind > max_write_behind)
    return fail_invalid(
        fmt::format("bitmap write_behind {}, expected at most {}", behind, max_write_behind));
  uint64_t sectors = disk.sync_size;
  if (sectors == 0 || sectors > max_device_size >> sector_shift)
    return fail_invalid(fmt::format("bitmap sync_size of {} sectors is impossible", sectors));
  uint32_t reserved = disk.sectors_reserved;
  BitmapGeometry geometry(sectors << sector_shift, chunk);
  if (reserved != 0 && uint64_t{reserved} << sector_shift < geometry.disk_size())
    return fail_invalid(fmt::format("bitmap sectors_reserved {} is too small for {} bits", reserved,
                                    geometry.bits()));
  return {};
}

}  // namespace

BitmapGeometry::BitmapGeometry(uint64_t sync_size, uint64_t chunk)
    : sync_size_(sync_size),
      bits_(div_round_up(sync_size, chunk)),
      shift_(static_cast<unsigned>(std::countr_zero(chunk))) {}

Result<BitmapSuperblock> decode_bitmap_superblock(std::span<const std::byte> bytes) {
  if (bytes.size() < bitmap_superblock_size)
    return fail_invalid(fmt::format("bitmap superblock cut to {} bytes, expected {}", bytes.size(),
                                    bitmap_superblock_size));
  DiskBitmap disk;
  std::memcpy(&disk, bytes.data(), sizeof disk);
  VOLFS_TRY(check_fields(disk));
  BitmapSuperblock sb;
  std::memcpy(sb.raw.data(), bytes.data(), sb.raw.size());
  sb.version = disk.version;
  std::memcpy(sb.uuid.bytes.data(), disk.uuid, sizeof disk.uuid);
  sb.events = disk.events;
  sb.events_cleared = disk.events_cleared;
  sb.sync_size = disk.sync_size << sector_shift;
  sb.chunk = disk.chunksize;
  uint32_t state = disk.state;
  sb.stale = (state & state_stale) != 0;
  sb.write_error = (state & state_write_error) != 0;
  sb.daemon_sleep = disk.daemon_sleep;
  sb.write_behind = disk.write_behind;
  sb.reserved = uint64_t{disk.sectors_reserved} << sector_shift;
  return sb;
}

std::array<std::byte, bitmap_superblock_size> encode_bitmap_superblock(const BitmapSuperblock& sb) {
  DiskBitmap disk;
  std::memcpy(&disk, sb.raw.data(), sizeof disk);
  disk.magic = bitmap_magic;
  disk.version = sb.version;
  std::memcpy(disk.uuid, sb.uuid.bytes.data(), sizeof disk.uuid);
  disk.events = sb.events;
  disk.events_cleared = sb.events_cleared;
  disk.sync_size = sb.sync_size >> sector_shift;
  uint32_t state = disk.state & ~(state_stale | state_write_error);
  disk.state = state | (sb.stale ? state_stale : 0) | (sb.write_error ? state_write_error : 0);
  disk.chunksize = static_cast<uint32_t>(sb.chunk);
  disk.daemon_sleep = sb.daemon_sleep;
  disk.write_behind = sb.write_behind;
  disk.sectors_reserved = static_cast<uint32_t>(sb.reserved >> sector_shift);
  std::array<std::byte, bitmap_superblock_size> bytes;
  std::memcpy(bytes.data(), &disk, sizeof disk);
  return bytes;
}

}  // namespace volfs::md
