// SPDX-License-Identifier: GPL-2.0-or-later
// Version 1 superblocks: 256 bytes and two for each device, all little-endian, the same for 1.0,
// 1.1 and 1.2 but for their place.
//
//     0  magic, 1, feature bits, 0     16  array uuid   32  name      64  ctime
//    72  level, layout, size           88  chunk, raid_disks, bitmap or PPL offset
//   100  reshape                      128  this member: data, super and recovery offsets, number
//   168  device uuid, flags, bad-block log
//   192  utime, events, resync offset, checksum, entries of the roles table
//   224  logical block size (Linux 6.19 on), zeroes
//   256  roles table
//
// Checked against super_1_load, super_1_validate and super_1_sync of drivers/md/md.c.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "codec.h"
#include "volfs/endian.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

struct DiskSuper1 {
  Le32 magic, major_version, feature_map, pad0;
  uint8_t set_uuid[16];
  char set_name[32];
  Le64 ctime;
  Le32 level, layout;
  Le64 size;  // sectors
  Le32 chunksize, raid_disks;
  Le32 bitmap_offset;  // signed sectors; with PPL: signed 16-bit offset, 16-bit size
  Le32 new_level;
  Le64 reshape_position;
  Le32 delta_disks, new_layout, new_chunk, new_offset;
  Le64 data_offset, data_size, super_offset, recovery_offset;
  Le32 dev_number, cnt_corrected_read;
  uint8_t device_uuid[16];
  uint8_t devflags, bblog_shift;
  Le16 bblog_size;
  Le32 bblog_offset;  // signed sectors
  Le64 utime, events, resync_offset;
  Le32 sb_csum, max_dev;
  Le32 logical_block_size;
  uint8_t pad3[28];
};
static_assert(sizeof(DiskSuper1) == 256);
static_assert(offsetof(DiskSuper1, set_uuid) == 16 && offsetof(DiskSuper1, set_name) == 32);
static_assert(offsetof(DiskSuper1, ctime) == 64 && offsetof(DiskSuper1, level) == 72);
static_assert(offsetof(DiskSuper1, size) == 80 && offsetof(DiskSuper1, chunksize) == 88);
static_assert(offsetof(DiskSuper1, bitmap_offset) == 96 && offsetof(DiskSuper1, new_level) == 100);
static_assert(offsetof(DiskSuper1, reshape_position) == 104);
static_assert(offsetof(DiskSuper1, new_offset) == 124 && offsetof(DiskSuper1, data_offset) == 128);
static_assert(offsetof(DiskSuper1, dev_number) == 160 && offsetof(DiskSuper1, device_uuid) == 168);
static_assert(offsetof(DiskSuper1, devflags) == 184 && offsetof(DiskSuper1, bblog_offset) == 188);
static_assert(offsetof(DiskSuper1, utime) == 192 && offsetof(DiskSuper1, sb_csum) == 216);
static_assert(offsetof(DiskSuper1, logical_block_size) == 224 && offsetof(DiskSuper1, pad3) == 228);

constexpr size_t roles_at = sizeof(DiskSuper1);
constexpr uint32_t roles_limit = (superblock_size - roles_at) / 2;
static_assert(roles_limit == max_slots);

constexpr uint32_t feature_bitmap = 1;
constexpr uint32_t feature_recovery_offset = 2;
constexpr uint32_t feature_reshape = 4;
constexpr uint32_t feature_bad_blocks = 8;
constexpr uint32_t feature_replacement = 16;
constexpr uint32_t feature_reshape_backwards = 32;
constexpr uint32_t feature_new_offset = 64;
constexpr uint32_t feature_recovery_bitmap = 128;
constexpr uint32_t feature_bitmap_versioned = 256;
constexpr uint32_t feature_journal = 512;
constexpr uint32_t feature_ppl = 1024;
constexpr uint32_t feature_multiple_ppls = 2048;
constexpr uint32_t feature_raid0_layout = 4096;
constexpr uint32_t known_features = 8191 & ~feature_bitmap_versioned;

constexpr uint8_t flag_write_mostly = 1, flag_failfast = 2;
constexpr uint64_t max_sector = ~uint64_t{0};
constexpr unsigned time_seconds_bits = 40;
constexpr uint32_t max_bad_block_sectors = 8;  // the kernel reads one page
constexpr uint8_t max_bad_block_shift = 20;

int64_t signed_sectors(uint32_t value) {
  return int64_t{static_cast<int32_t>(value)} * static_cast<int64_t>(sector_size);
}
uint64_t bytes_of(uint64_t sectors) {
  return sectors << sector_shift;
}

Timestamp decode_time(uint64_t value) {
  return {value & ((uint64_t{1} << time_seconds_bits) - 1),
          static_cast<uint32_t>(value >> time_seconds_bits)};
}
uint64_t encode_time(const Timestamp& t) {
  return (t.seconds & ((uint64_t{1} << time_seconds_bits) - 1)) | uint64_t{t.microseconds}
                                                                      << time_seconds_bits;
}

// The sum of all 32-bit words up to the end of the roles table, its own field taken as zero.
uint32_t checksum(std::span<const std::byte> bytes, uint32_t roles) {
  uint64_t sum = 0;
  size_t size = roles_at + size_t{roles} * 2, at = 0;
  for (; at + 4 <= size; at += 4) {
    Le32 word;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    if (at != offsetof(DiskSuper1, sb_csum)) sum += word;
  }
  if (at < size) {
    Le16 half;
    std::memcpy(&half, bytes.data() + at, sizeof half);
    sum += half;
  }
  return static_cast<uint32_t>(sum) + static_cast<uint32_t>(sum >> 32);
}

// What makes the rest worth reading, in the order in which the kernel looks.
Status check_frame(const DiskSuper1& sb, std::span<const std::byte> bytes, uint64_t super_offset) {
  uint32_t roles = sb.max_dev;
  if (roles > roles_limit)
    return wrong_field("max_dev", roles, fmt::format("at most {}", roles_limit));
  uint32_t found = sb.sb_csum, expected = checksum(bytes, roles);
  if (found != expected)
    return fail_invalid(
        fmt::format("md superblock: checksum is {:08x}, expected {:08x}", found, expected));
  uint64_t offset = sb.super_offset;
  if (offset != super_offset >> sector_shift)
    return wrong_field("super_offset", offset,
                       fmt::format("{}, where it was found", super_offset >> sector_shift));
  uint32_t features = sb.feature_map;
  if (features & feature_bitmap_versioned)
    return fail(Error::make(ENOTSUP, "md superblock: feature bit 0x100: the array is clustered"));
  if (uint32_t unknown = features & ~known_features)
    return fail(Error::make(
        ENOTSUP, fmt::format("md superblock: unknown feature bits {:#x}: it needs a newer program",
                             unknown)));
  if (sb.pad0 != 0) return wrong_field("pad0", sb.pad0, "0");
  for (uint8_t byte : sb.pad3)
    if (byte != 0) return wrong_field("padding at byte 228", byte, "0: this may be a new feature");
  return {};
}

Status check_ranges(const DiskSuper1& sb) {
  for (auto [name, value] :
       {std::pair<const char*, uint64_t>{"size", sb.size},
        {"data_offset", sb.data_offset},
        {"data_size", sb.data_size},
        {"reshape_position", sb.feature_map & feature_reshape ? uint64_t{sb.reshape_position} : 0},
        {"recovery_offset", sb.recovery_offset},
        {"resync_offset", sb.resync_offset}})
    if (!possible_sectors(value) && !(value == max_sector && std::string_view(name) != "size" &&
                                      std::string_view(name).starts_with("re")))
      return wrong_field(name, value, "sectors that a device can have");
  uint32_t lbs = sb.logical_block_size;
  if (lbs != 0 && (lbs < sector_size || lbs > 64 * KiB || !is_power_of_two(lbs)))
    return wrong_field("logical_block_size", lbs, "0 or a power of two from 512 to 65536");
  return {};
}

void decode_array(const DiskSuper1& sb, std::span<const std::byte> bytes, ArrayMetadata& a) {
  uint32_t features = sb.feature_map;
  std::memcpy(a.uuid.bytes.data(), sb.set_uuid, sizeof sb.set_uuid);
  a.name.assign(sb.set_name, strnlen(sb.set_name, sizeof sb.set_name));
  a.ctime = decode_time(sb.ctime);
  a.utime = decode_time(sb.utime);
  a.geometry.level = static_cast<int32_t>(uint32_t{sb.level});
  a.geometry.layout = sb.layout;
  if (a.geometry.level == 0 && !(features & feature_raid0_layout))
    a.geometry.layout = raid0_layout::unknown;
  a.geometry.raid_disks = sb.raid_disks;
  a.geometry.chunk = bytes_of(uint32_t{sb.chunksize});
  a.member_size = bytes_of(sb.size);
  a.events = sb.events;
  a.resync_offset = sb.resync_offset == max_sector ? all_in_sync : bytes_of(sb.resync_offset);
  if (features & feature_reshape)
    a.reshape = Reshape{bytes_of(sb.reshape_position),
                        static_cast<int32_t>(uint32_t{sb.new_level}),
                        static_cast<int32_t>(uint32_t{sb.delta_disks}),
                        sb.new_layout,
                        bytes_of(uint32_t{sb.new_chunk}),
                        features & feature_new_offset ? signed_sectors(sb.new_offset) : 0,
                        (features & feature_reshape_backwards) != 0};
  a.has_bitmap = (features & feature_bitmap) != 0;
  a.has_journal = (features & feature_journal) != 0;
  a.has_ppl = (features & (feature_ppl | feature_multiple_ppls)) != 0;
  a.multiple_ppls = (features & feature_multiple_ppls) != 0;
  a.logical_block_size = sb.logical_block_size;
  a.roles.resize(sb.max_dev);
  for (size_t i = 0; i < a.roles.size(); ++i) {
    Le16 role;
    std::memcpy(&role, bytes.data() + roles_at + 2 * i, sizeof role);
    a.roles[i] = role;
  }
}

void decode_member(const DiskSuper1& sb, MemberMetadata& m) {
  uint32_t features = sb.feature_map;
  m.dev_number = sb.dev_number;
  std::memcpy(m.device_uuid.bytes.data(), sb.device_uuid, sizeof sb.device_uuid);
  m.super_offset = bytes_of(sb.super_offset);
  m.data_offset = bytes_of(sb.data_offset);
  m.data_size = bytes_of(sb.data_size);
  if (features & feature_recovery_offset)
    m.recovery_offset =
        sb.recovery_offset == max_sector ? all_in_sync : bytes_of(sb.recovery_offset);
  m.recovery_by_bitmap = (features & feature_recovery_bitmap) != 0;
  m.replacement = (features & feature_replacement) != 0;
  if (m.array.has_journal && m.role() == role_journal)
    m.journal_tail = bytes_of(sb.recovery_offset);
  m.write_mostly = (sb.devflags & flag_write_mostly) != 0;
  m.failfast = (sb.devflags & flag_failfast) != 0;
  m.corrected_reads = sb.cnt_corrected_read;
  if (m.array.has_bitmap) m.bitmap_offset = signed_sectors(sb.bitmap_offset);
  if (m.array.has_ppl) {
    uint32_t both = sb.bitmap_offset;
    m.ppl_offset = int64_t{static_cast<int16_t>(both & 0xffff)} * static_cast<int64_t>(sector_size);
    m.ppl_size = bytes_of(both >> 16);
  }
  m.bad_block_log_offset = signed_sectors(sb.bblog_offset);
  m.bad_block_log_size = bytes_of(uint16_t{sb.bblog_size});
  m.bad_block_shift = sb.bblog_shift;
  m.bad_blocks = (features & feature_bad_blocks) != 0;
  m.roles_room = sb.max_dev;
}

// Something beside the superblock: it lies on the device, apart from the superblock and the data
// that the array uses.
Status check_area(const MemberMetadata& m, std::string_view what, int64_t offset, uint64_t size,
                  uint64_t device_size) {
  if (offset < 0 && static_cast<uint64_t>(-offset) > m.super_offset)
    return fail_invalid(fmt::format("md superblock: {} lies {} bytes before the device", what,
                                    static_cast<uint64_t>(-offset) - m.super_offset));
  uint64_t start = m.super_offset + static_cast<uint64_t>(offset);
  if (!range_within(start, size, device_size))
    return fail_invalid(fmt::format("md superblock: {} at {}, length {}, lies beyond the device",
                                    what, start, size));
  auto overlaps = [&](uint64_t other, uint64_t length) {
    return start < other + length && other < start + size;
  };
  if (overlaps(m.super_offset, roles_at + 2 * size_t{m.roles_room}))
    return fail_invalid(fmt::format("md superblock: {} at {} lies on the superblock", what, start));
  if (overlaps(m.data_offset, m.array.member_size))
    return fail_invalid(fmt::format("md superblock: {} at {} lies in the data", what, start));
  return {};
}

Status check_data(const MemberMetadata& m, uint64_t device_size) {
  bool at_end = m.array.version == SuperblockVersion::v1_0;
  uint64_t end = at_end ? m.super_offset : device_size;
  if (!at_end && m.data_offset < m.super_offset + superblock_write_size(m))
    return wrong_field("data_offset", m.data_offset >> sector_shift,
                       "sectors after the superblock");
  if (m.data_size < 10 * sector_size)
    return wrong_field("data_size", m.data_size >> sector_shift, "10 or more sectors");
  // For 1.0 mdadm does not take data_offset from data_size; it matters where all of that is used.
  bool all_used = !at_end || m.array.geometry.level <= 0;
  uint64_t start = all_used ? m.data_offset : 0;
  if (!range_within(start, m.data_size, end))
    return wrong_field("data_size", m.data_size >> sector_shift,
                       fmt::format("at most {} sectors on this device; it has {} bytes less than "
                                   "what is on it had",
                                   end > start ? (end - start) >> sector_shift : 0,
                                   end > start ? m.data_size - (end - start) : m.data_size));
  if (m.role() == role_journal) return {};
  if (m.array.geometry.level > 0 && m.array.member_size == 0) return wrong_field("size", 0, "more");
  if (m.array.member_size > m.data_size || !range_within(m.data_offset, m.array.member_size, end))
    return wrong_field(
        "size", m.array.member_size >> sector_shift,
        fmt::format("at most the {} sectors of data_size", m.data_size >> sector_shift));
  return {};
}

Status check_features(const MemberMetadata& m, uint32_t features) {
  int32_t level = m.array.geometry.level;
  if ((features & feature_raid0_layout) && level != 0)
    return fail_invalid("md superblock: feature bit 0x1000 (raid0 layout) on " + level_name(level));
  if (m.array.has_ppl && (m.array.has_bitmap || m.array.has_journal))
    return fail_invalid("md superblock: feature bits for PPL together with bitmap or journal");
  if ((features & feature_ppl) && (features & feature_multiple_ppls))
    return fail_invalid("md superblock: both feature bits for PPL, 0x400 and 0x800, are set");
  if (m.array.has_ppl && level != 5)
    return fail_invalid("md superblock: feature bits for PPL on " + level_name(level));
  if (m.array.has_bitmap && level <= 0)
    return fail_invalid("md superblock: a bitmap on " + level_name(level));
  return {};
}

Status check_areas(const MemberMetadata& m, uint64_t device_size) {
  if (m.array.has_bitmap)
    VOLFS_TRY(check_area(m, "bitmap", m.bitmap_offset, bitmap_superblock_size, device_size));
  if (m.array.has_ppl) {
    if (m.ppl_size < superblock_size)
      return wrong_field("ppl.size", m.ppl_size >> sector_shift, "8 or more sectors");
    VOLFS_TRY(check_area(m, "PPL", m.ppl_offset, m.ppl_size, device_size));
  }
  if (m.bad_block_log_size > max_bad_block_sectors * sector_size)
    return wrong_field("bblog_size", m.bad_block_log_size >> sector_shift, "at most 8");
  if (m.bad_block_shift > max_bad_block_shift)
    return wrong_field("bblog_shift", m.bad_block_shift,
                       fmt::format("at most {}", max_bad_block_shift));
  if (m.bad_blocks && (m.bad_block_log_offset == 0 || m.bad_block_log_size == 0))
    return fail_invalid("md superblock: bad blocks are said to exist, but no log for them");
  if (m.bad_block_log_size != 0 && m.bad_block_log_offset != 0)
    VOLFS_TRY(
        check_area(m, "bad-block log", m.bad_block_log_offset, m.bad_block_log_size, device_size));
  return {};
}

Status check_roles(const MemberMetadata& m) {
  for (size_t i = 0; i < m.array.roles.size(); ++i) {
    uint16_t role = m.array.roles[i];
    // During a reshape that shrinks, slots of the old shape are still there.
    uint32_t slots = m.array.geometry.raid_disks;
    if (m.array.reshape && m.array.reshape->delta_disks < 0)
      slots += static_cast<uint32_t>(-int64_t{m.array.reshape->delta_disks});
    if (role >= slots && role < role_journal)
      return wrong_field(fmt::format("role of device {}", i), role,
                         fmt::format("below {} slots", slots));
  }
  return {};
}

}  // namespace

bool looks_like_v1(std::span<const std::byte> bytes) {
  Le32 word[2];
  if (bytes.size() < sizeof word) return false;
  std::memcpy(word, bytes.data(), sizeof word);
  return word[0] == md_magic && word[1] == 1;
}

Result<MemberMetadata> decode_v1(SuperblockVersion version, std::span<const std::byte> bytes,
                                 uint64_t device_size, uint64_t super_offset) {
  DiskSuper1 sb;
  std::memcpy(&sb, bytes.data(), sizeof sb);
  VOLFS_TRY(check_frame(sb, bytes, super_offset));
  VOLFS_TRY(check_ranges(sb));
  MemberMetadata m;
  m.raw.assign(bytes.begin(), bytes.end());
  m.array.version = version;
  decode_array(sb, bytes, m.array);
  decode_member(sb, m);
  VOLFS_TRY(in("md superblock", check_geometry(m.array.geometry)));
  if (m.array.reshape && (m.array.reshape->delta_disks > int32_t{max_slots} ||
                          m.array.reshape->delta_disks < -int32_t{max_slots}))
    return fail_invalid(fmt::format("md superblock: delta_disks is {}, expected at most {}",
                                    m.array.reshape->delta_disks, max_slots));
  VOLFS_TRY(check_features(m, sb.feature_map));
  VOLFS_TRY(check_data(m, device_size));
  VOLFS_TRY(check_areas(m, device_size));
  VOLFS_TRY(check_roles(m));
  return m;
}

namespace {

uint32_t features_of(const MemberMetadata& m) {
  const ArrayMetadata& a = m.array;
  uint32_t f = 0;
  if (a.has_bitmap) f |= feature_bitmap;
  if (m.recovery_offset) f |= feature_recovery_offset;
  if (m.recovery_by_bitmap) f |= feature_recovery_bitmap;
  if (m.replacement) f |= feature_replacement;
  if (m.bad_blocks) f |= feature_bad_blocks;
  if (a.reshape) {
    f |= feature_reshape;
    if (a.reshape->backwards) f |= feature_reshape_backwards;
    if (a.reshape->new_offset != 0) f |= feature_new_offset;
  }
  if (a.has_journal) f |= feature_journal;
  if (a.has_ppl) f |= a.multiple_ppls ? feature_multiple_ppls : feature_ppl;
  if (a.geometry.level == 0 && a.geometry.layout != raid0_layout::unknown)
    f |= feature_raid0_layout;
  return f;
}

uint32_t sectors32(int64_t bytes) {
  return static_cast<uint32_t>(bytes / static_cast<int64_t>(sector_size));
}

void encode_array(const ArrayMetadata& a, bool fresh, DiskSuper1& sb) {
  std::memcpy(sb.set_uuid, a.uuid.bytes.data(), sizeof sb.set_uuid);
  std::memset(sb.set_name, 0, sizeof sb.set_name);
  std::memcpy(sb.set_name, a.name.data(), a.name.size());
  sb.ctime = encode_time(a.ctime);
  sb.utime = encode_time(a.utime);
  sb.level = static_cast<uint32_t>(a.geometry.level);
  if (a.geometry.level != 0 || a.geometry.layout != raid0_layout::unknown)
    sb.layout = a.geometry.layout;
  else if (fresh)
    sb.layout = raid0_layout::original;  // what mdadm writes, without the feature bit
  sb.raid_disks = a.geometry.raid_disks;
  sb.chunksize = static_cast<uint32_t>(a.geometry.chunk >> sector_shift);
  sb.size = a.member_size >> sector_shift;
  sb.events = a.events;
  sb.resync_offset = a.resync_offset == all_in_sync ? max_sector : a.resync_offset >> sector_shift;
  if (a.reshape) {
    sb.reshape_position = a.reshape->position >> sector_shift;
    sb.new_level = static_cast<uint32_t>(a.reshape->new_level);
    sb.delta_disks = static_cast<uint32_t>(a.reshape->delta_disks);
    sb.new_layout = a.reshape->new_layout;
    sb.new_chunk = static_cast<uint32_t>(a.reshape->new_chunk >> sector_shift);
    sb.new_offset = sectors32(a.reshape->new_offset);
  }
  // Linux before 6.19 refuses anything but 0 here, and 512 says no more than 0 does.
  sb.logical_block_size = a.logical_block_size > sector_size ? a.logical_block_size : 0;
}

void encode_member(const MemberMetadata& m, DiskSuper1& sb) {
  sb.feature_map = features_of(m);
  sb.pad0 = 0;
  std::memset(sb.pad3, 0, sizeof sb.pad3);
  sb.dev_number = m.dev_number;
  std::memcpy(sb.device_uuid, m.device_uuid.bytes.data(), sizeof sb.device_uuid);
  sb.super_offset = m.super_offset >> sector_shift;
  sb.data_offset = m.data_offset >> sector_shift;
  sb.data_size = m.data_size >> sector_shift;
  sb.recovery_offset = m.recovery_offset && *m.recovery_offset == all_in_sync ? max_sector
                       : m.recovery_offset ? *m.recovery_offset >> sector_shift
                                           : m.journal_tail >> sector_shift;
  auto flags = static_cast<uint8_t>(sb.devflags & ~(flag_write_mostly | flag_failfast));
  if (m.write_mostly) flags |= flag_write_mostly;
  if (m.failfast) flags |= flag_failfast;
  sb.devflags = flags;
  sb.cnt_corrected_read = m.corrected_reads;
  if (m.array.has_bitmap)
    sb.bitmap_offset = sectors32(m.bitmap_offset);
  else if (m.array.has_ppl)
    sb.bitmap_offset = (sectors32(m.ppl_offset) & 0xffff) |
                       static_cast<uint32_t>(m.ppl_size >> sector_shift) << 16;
  sb.bblog_shift = m.bad_block_shift;
  sb.bblog_size = static_cast<uint16_t>(m.bad_block_log_size >> sector_shift);
  sb.bblog_offset = sectors32(m.bad_block_log_offset);
}

}  // namespace

Result<SuperblockBytes> encode_v1(const MemberMetadata& m) {
  const ArrayMetadata& a = m.array;
  size_t entries = std::max<size_t>(m.roles_room, a.roles.size());
  if (entries > roles_limit)
    return fail_invalid(
        fmt::format("{} devices, but version 1 metadata has room for {}", entries, roles_limit));
  if (a.name.size() > sizeof DiskSuper1{}.set_name)
    return fail_invalid(fmt::format("array name \"{}\" is longer than 32 bytes", a.name));
  if (m.ppl_size >> sector_shift > UINT16_MAX)
    return fail_invalid(fmt::format("a PPL of {} bytes is too large", m.ppl_size));
  SuperblockBytes bytes{};
  bool fresh = m.raw.size() != bytes.size();
  if (!fresh) std::copy(m.raw.begin(), m.raw.end(), bytes.begin());
  DiskSuper1 sb;
  std::memcpy(&sb, bytes.data(), sizeof sb);
  sb.magic = md_magic;
  sb.major_version = 1;
  encode_array(a, fresh, sb);
  encode_member(m, sb);
  sb.max_dev = static_cast<uint32_t>(entries);
  for (size_t i = 0; i < entries; ++i) {
    Le16 role = i < a.roles.size() ? a.roles[i] : role_spare;
    std::memcpy(bytes.data() + roles_at + 2 * i, &role, sizeof role);
  }
  std::memcpy(bytes.data(), &sb, sizeof sb);
  sb.sb_csum = checksum(bytes, sb.max_dev);
  std::memcpy(bytes.data(), &sb, sizeof sb);
  return bytes;
}

}  // namespace volfs::md
