// SPDX-License-Identifier: GPL-2.0-or-later
// The bad-block log of version 1: 64-bit little-endian entries, the first sector << 10 and the
// length (1 to 512), both in units of 512 << shift; all ones ends the list. Checked against
// super_1_load and super_1_sync of drivers/md/md.c.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "volfs/endian.h"
#include "volfs/md/superblock.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint64_t end_of_list = ~uint64_t{0};
constexpr uint64_t longest_entry = 512;  // what the kernel's own list holds in one entry
constexpr unsigned length_bits = 10;

}  // namespace

Result<std::vector<BadBlockRange>> decode_bad_blocks(const MemberMetadata& member,
                                                     std::span<const std::byte> bytes) {
  std::vector<BadBlockRange> ranges;
  if (!member.bad_blocks) return ranges;
  if (bytes.size() < member.bad_block_log_size)
    return fail_invalid(fmt::format("bad-block log cut to {} bytes, expected {}", bytes.size(),
                                    member.bad_block_log_size));
  const unsigned shift = sector_shift + member.bad_block_shift;
  for (size_t at = 0; at + 8 <= member.bad_block_log_size; at += 8) {
    Le64 entry;
    std::memcpy(&entry, bytes.data() + at, sizeof entry);
    uint64_t value = entry;
    if (value == end_of_list) break;
    uint64_t start = value >> length_bits, length = value & ((1u << length_bits) - 1);
    if (length == 0) continue;
    if (start > max_device_size >> shift || length > (max_device_size >> shift) - start)
      return fail_invalid(
          fmt::format("bad-block log: entry {} ({:#x}) lies beyond any device", at / 8, value));
    ranges.push_back({start << shift, length << shift});
  }
  return ranges;
}

Result<std::vector<std::byte>> encode_bad_blocks(const MemberMetadata& member,
                                                 std::span<const BadBlockRange> ranges) {
  std::vector<std::byte> bytes(member.bad_block_log_size, std::byte{0xff});
  const unsigned shift = sector_shift + member.bad_block_shift;
  size_t at = 0;
  for (const BadBlockRange& range : ranges) {
    if ((range.offset | range.length) & ((uint64_t{1} << shift) - 1))
      return fail_invalid(fmt::format("bad blocks at {}, length {}: not in whole units of {}",
                                      range.offset, range.length, uint64_t{1} << shift));
    uint64_t start = range.offset >> shift, left = range.length >> shift;
    while (left != 0) {
      if (at + 8 > bytes.size()) return fail(Error::make(ENOSPC, "the bad-block log is full"));
      uint64_t length = std::min(left, longest_entry);
      Le64 entry = start << length_bits | length;
      std::memcpy(bytes.data() + at, &entry, sizeof entry);
      at += 8;
      start += length;
      left -= length;
    }
  }
  return bytes;
}

}  // namespace volfs::md
