// SPDX-License-Identifier: GPL-2.0-or-later
// md's write-intent bitmap on disk: a 256-byte superblock (little-endian), then one bit for
// each chunk of the range that resync covers, bit N being bit N%8 of byte 256 + N/8. Checked
// against drivers/md/md-bitmap.c and bitmaps written by mdadm 4.2 and Linux 7.2.
//
// Sizes and offsets are bytes. Pure functions; nothing here does I/O.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "volfs/error.h"
#include "volfs/md/uuid.h"

namespace volfs::md {

inline constexpr size_t bitmap_superblock_size = 256;

// Version 3 kept the bits in the byte order of the host; it is read as little-endian. Version 5
// (clustered) and later ones (lockless) are refused.
struct BitmapSuperblock {
  uint32_t version = 4;
  Uuid uuid;                    // the array's
  uint64_t events = 0;          // the array's when the bitmap was last written
  uint64_t events_cleared = 0;  // the array's when a bit was last cleared with all members there
  uint64_t sync_size = 0;       // bytes the bits cover: a member's size, for raid10 the array's
  uint64_t chunk = 0;           // bytes a bit stands for, a power of two
  bool stale = false;           // the bits mean nothing: everything may differ
  bool write_error = false;
  uint32_t daemon_sleep = 5;  // seconds between two sweeps that clear bits
  uint32_t write_behind = 0;  // outstanding writes allowed to write-mostly members; 0 is none
  uint64_t reserved = 0;      // bytes kept for the whole bitmap; 0: not recorded
  std::array<std::byte, bitmap_superblock_size> raw{};  // as read: kept where we know no meaning
};

// `bytes` holds at least bitmap_superblock_size. The error (EINVAL; ENOTSUP for versions we do
// not do) says which field is wrong; the caller adds image and offset.
Result<BitmapSuperblock> decode_bitmap_superblock(std::span<const std::byte> bytes);
std::array<std::byte, bitmap_superblock_size> encode_bitmap_superblock(const BitmapSuperblock& sb);

// How bits, bytes on disk and the data belong together.
class BitmapGeometry {
 public:
  // chunk is a power of two of at least 512; sync_size is not 0.
  BitmapGeometry(uint64_t sync_size, uint64_t chunk);
  explicit BitmapGeometry(const BitmapSuperblock& sb) : BitmapGeometry(sb.sync_size, sb.chunk) {}

  uint64_t chunk() const { return uint64_t{1} << shift_; }
  uint64_t bits() const { return bits_; }
  // Bytes on disk, superblock included, not rounded.
  uint64_t disk_size() const { return bitmap_superblock_size + (bits_ + 7) / 8; }
  uint64_t bit_of(uint64_t offset) const { return offset >> shift_; }
  // Data a bit stands for: [start_of(bit), end_of(bit)), the last one cut at sync_size.
  uint64_t start_of(uint64_t bit) const { return bit << shift_; }
  uint64_t end_of(uint64_t bit) const {
    uint64_t end = (bit + 1) << shift_;
    return end < sync_size_ ? end : sync_size_;
  }
  // From the start of the bitmap's superblock.
  static uint64_t byte_of(uint64_t bit) { return bitmap_superblock_size + bit / 8; }
  static unsigned mask_of(uint64_t bit) { return 1u << (bit % 8); }

 private:
  uint64_t sync_size_, bits_;
  unsigned shift_;
};

}  // namespace volfs::md
