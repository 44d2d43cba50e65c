// SPDX-License-Identifier: GPL-2.0-or-later
// The persistent exception store of dm-snapshot on disk, version 1. All little-endian.
//
//   chunk 0              header: magic "SnAp", valid, version, chunk size in sectors; rest zero
//   chunk 1 + k*(n+1)    area k: n = chunk size / 16 exceptions {old chunk, new chunk}
//   all other chunks     data
//
// Exceptions are read from area 0 on; the first one whose new chunk is 0 (which would be the
// header) ends them. So an area that fills is followed by another one, empty at first, which
// is zeroed before the full one is written. Free space begins after the highest new chunk.
// Checked against Linux drivers/md/dm-snap-persistent.c and stores written by Linux 6.1 and 7.2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "volfs/endian.h"
#include "volfs/units.h"

namespace volfs::dm {

struct DiskSnapshotHeader {
  Le32 magic;
  Le32 valid;
  Le32 version;
  Le32 chunk_sectors;
};
static_assert(sizeof(DiskSnapshotHeader) == 16);
static_assert(offsetof(DiskSnapshotHeader, chunk_sectors) == 12);

struct DiskException {
  Le64 old_chunk;
  Le64 new_chunk;
};
static_assert(sizeof(DiskException) == 16 && offsetof(DiskException, new_chunk) == 8);

inline constexpr uint32_t snapshot_magic = 0x70416e53;  // "SnAp"
inline constexpr uint32_t snapshot_version = 1;
inline constexpr uint64_t default_chunk_size = 16 * KiB;
// What an int of bytes holds: the kernel's bound. A chunk size is a power of two sectors.
inline constexpr uint64_t max_chunk_size = uint64_t{1} << 30;

// Where things are in a store of a chunk size (bytes).
struct StoreGeometry {
  uint64_t chunk_size = default_chunk_size;

  uint64_t per_area() const { return chunk_size / sizeof(DiskException); }
  uint64_t area_chunk(uint64_t area) const { return 1 + (per_area() + 1) * area; }
  bool is_data(uint64_t chunk) const { return chunk > 0 && (chunk - 1) % (per_area() + 1) != 0; }
  // CHUNK, or the next one if that is an area.
  uint64_t data_from(uint64_t chunk) const { return is_data(chunk) ? chunk : chunk + 1; }
};

}  // namespace volfs::dm
