// SPDX-License-Identifier: GPL-2.0-or-later
// Version 0.90 superblocks: 1024 words of 32 bits in the byte order of the host that wrote them
// (told by the magic number), 4096 bytes at the start of the last whole 64 KiB of the device.
//
//   word   0  magic, version, array uuid, ctime, level, size in KiB, disks, preferred minor
//         32  utime, state, counts of disks, checksum, events, resync checkpoint, reshape
//         64  layout, chunk
//        128  27 descriptors of 32 words: number, major, minor, role, state
//        992  the descriptor of the device itself
//
// The pairs of words that make 64 bits are swapped as well in the other byte order. A bitmap, if
// the state has its bit, follows at once and has 60 KiB. Checked against super_90_load,
// super_90_validate and super_90_sync of drivers/md/md.c.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "codec.h"
#include "volfs/endian.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint32_t disk_count = 27;

struct DiskDescriptor {
  Le32 number, major, minor, raid_disk, state, reserved[27];
};
struct DiskSuper90 {
  Le32 magic, major_version, minor_version, patch_version, gvalid_words, set_uuid0, ctime, level;
  Le32 size;  // KiB
  Le32 nr_disks, raid_disks, md_minor, not_persistent, set_uuid1, set_uuid2, set_uuid3;
  Le32 constant_reserved[16];
  Le32 utime, state, active_disks, working_disks, failed_disks, spare_disks, sb_csum;
  Le64 events, cp_events;
  Le32 recovery_cp;
  Le64 reshape_position;
  Le32 new_level, delta_disks, new_layout, new_chunk;
  Le32 state_reserved[14];
  Le32 layout, chunk_size, root_pv, root_block, personality_reserved[60];
  DiskDescriptor disks[disk_count];
  DiskDescriptor this_disk;
};
static_assert(sizeof(DiskDescriptor) == 128 && sizeof(DiskSuper90) == superblock_size);
static_assert(offsetof(DiskSuper90, size) == 32 && offsetof(DiskSuper90, set_uuid3) == 60);
static_assert(offsetof(DiskSuper90, utime) == 128 && offsetof(DiskSuper90, sb_csum) == 152);
static_assert(offsetof(DiskSuper90, events) == 156 && offsetof(DiskSuper90, cp_events) == 164);
static_assert(offsetof(DiskSuper90, recovery_cp) == 172);
static_assert(offsetof(DiskSuper90, reshape_position) == 176);
static_assert(offsetof(DiskSuper90, layout) == 256 && offsetof(DiskSuper90, disks) == 512);
static_assert(offsetof(DiskSuper90, this_disk) == 992 * 4);

constexpr uint32_t state_clean = 1u << 0, state_bitmap = 1u << 8;
constexpr uint32_t disk_faulty = 1u << 0, disk_active = 1u << 1, disk_sync = 1u << 2,
                   disk_removed = 1u << 3, disk_write_mostly = 1u << 9, disk_failfast = 1u << 10;

constexpr size_t bitmap_after = 4096;

uint32_t checksum(const DiskSuper90& sb) {
  uint64_t sum = 0;
  const auto* p = reinterpret_cast<const std::byte*>(&sb);
  for (size_t at = 0; at < sizeof sb; at += 4) {
    Le32 word;
    std::memcpy(&word, p + at, sizeof word);
    if (at != offsetof(DiskSuper90, sb_csum)) sum += word;
  }
  return static_cast<uint32_t>(sum) + static_cast<uint32_t>(sum >> 32);
}

// Some machines kept 16 bits of it only, so md compares no more than that.
uint32_t fold(uint32_t sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  return (sum & 0xffff) + (sum >> 16);
}

void swap_words(std::span<std::byte> bytes) {
  for (size_t at = 0; at + 4 <= bytes.size(); at += 4) {
    std::swap(bytes[at], bytes[at + 3]);
    std::swap(bytes[at + 1], bytes[at + 2]);
  }
  for (size_t pair : {offsetof(DiskSuper90, events), offsetof(DiskSuper90, cp_events),
                      offsetof(DiskSuper90, reshape_position)})
    std::swap_ranges(bytes.begin() + static_cast<long>(pair),
                     bytes.begin() + static_cast<long>(pair) + 4,
                     bytes.begin() + static_cast<long>(pair) + 4);
}

void put_uuid_word(Uuid& uuid, size_t index, uint32_t word) {
  Be32 big = word;
  std::memcpy(uuid.bytes.data() + 4 * index, &big, sizeof big);
}
uint32_t uuid_word(const Uuid& uuid, size_t index) {
  Be32 big;
  std::memcpy(&big, uuid.bytes.data() + 4 * index, sizeof big);
  return big;
}

Status check_frame(const DiskSuper90& sb) {
  uint32_t minor = sb.minor_version;
  if (minor != 90 && minor != 91) return wrong_field("version 0, minor", minor, "90 or 91");
  uint32_t found = sb.sb_csum, expected = checksum(sb);
  if (fold(found) != fold(expected))
    return fail_invalid(
        fmt::format("md superblock: checksum is {:08x}, expected {:08x}", found, expected));
  if (sb.raid_disks == 0 || sb.raid_disks > disk_count)
    return wrong_field("raid_disks", sb.raid_disks, "1 to 27");
  if (sb.nr_disks > disk_count) return wrong_field("nr_disks", sb.nr_disks, "at most 27");
  if (sb.this_disk.number >= disk_count)
    return wrong_field("this_disk.number", sb.this_disk.number, "below 27");
  if (sb.not_persistent != 0) return wrong_field("not_persistent", sb.not_persistent, "0");
  return {};
}

Status decode_device(const DiskSuper90& sb, size_t index, ArrayMetadata& a) {
  const DiskDescriptor& d = sb.disks[index];
  uint32_t state = d.state;
  Device90& device = a.devices90[index];
  device = {.present = state != 0 || d.number != 0 || d.major != 0 || d.minor != 0,
            .removed = (state & disk_removed) != 0,
            .write_mostly = (state & disk_write_mostly) != 0,
            .failfast = (state & disk_failfast) != 0,
            .major = d.major,
            .minor = d.minor};
  // Active but not in sync: during a reshape, a device that is recovered as far as that came.
  bool active = (state & disk_sync) != 0 || (sb.minor_version == 91 && (state & disk_active) != 0);
  if (state & (disk_faulty | disk_removed)) {
    a.roles[index] = role_faulty;
  } else if (active) {
    if (d.raid_disk >= disk_count)
      return wrong_field(fmt::format("role of device {}", index), d.raid_disk, "below 27");
    a.roles[index] = static_cast<uint16_t>(uint32_t{d.raid_disk});
  } else {
    a.roles[index] = role_spare;
  }
  return {};
}

Status decode_array(const DiskSuper90& sb, ArrayMetadata& a) {
  a.version = SuperblockVersion::v0_90;
  put_uuid_word(a.uuid, 0, sb.set_uuid0);
  put_uuid_word(a.uuid, 1, sb.set_uuid1);
  put_uuid_word(a.uuid, 2, sb.set_uuid2);
  put_uuid_word(a.uuid, 3, sb.set_uuid3);
  a.ctime = {sb.ctime, 0};
  a.utime = {sb.utime, 0};
  a.geometry.level = static_cast<int32_t>(uint32_t{sb.level});
  // There is no way to say that a raid0 layout was recorded, so Linux takes none from here.
  a.geometry.layout = a.geometry.level == 0 ? raid0_layout::unknown : uint32_t{sb.layout};
  a.geometry.raid_disks = sb.raid_disks;
  a.geometry.chunk = uint32_t{sb.chunk_size};
  a.member_size = a.geometry.level > 0 ? uint64_t{sb.size} * KiB : 0;
  a.events = sb.events;
  a.preferred_minor = sb.md_minor;
  a.has_bitmap = (sb.state & state_bitmap) != 0;
  if (sb.state & state_clean)
    a.resync_offset = all_in_sync;
  else if (uint64_t{sb.events} == uint64_t{sb.cp_events})
    a.resync_offset = uint64_t{sb.recovery_cp} << sector_shift;
  else
    a.resync_offset = 0;
  if (sb.minor_version == 91) {
    if (!possible_sectors(sb.reshape_position))
      return wrong_field("reshape_position", sb.reshape_position, "sectors that a device can have");
    auto delta = static_cast<int32_t>(uint32_t{sb.delta_disks});
    if (delta > static_cast<int32_t>(disk_count) || delta < -static_cast<int32_t>(disk_count))
      return fail_invalid(
          fmt::format("md superblock: delta_disks is {}, expected at most 27", delta));
    a.reshape = Reshape{uint64_t{sb.reshape_position} << sector_shift,
                        static_cast<int32_t>(uint32_t{sb.new_level}),
                        delta,
                        sb.new_layout,
                        uint32_t{sb.new_chunk},
                        0,
                        delta < 0};
  }
  a.roles.assign(disk_count, role_spare);
  a.devices90.assign(disk_count, {});
  for (size_t i = 0; i < disk_count; ++i) VOLFS_TRY(decode_device(sb, i, a));
  return {};
}

}  // namespace

Device90 new_device90(const Uuid& identity) {
  constexpr uint32_t minor_mask = (1 << 20) - 1;
  return {.minor = uuid_word(identity, 0) & minor_mask};
}

bool looks_like_v0_90(std::span<const std::byte> bytes) {
  if (bytes.size() < 8) return false;
  Le32 little[2];
  Be32 big[2];
  std::memcpy(little, bytes.data(), sizeof little);
  std::memcpy(big, bytes.data(), sizeof big);
  return (little[0] == md_magic && little[1] == 0) || (big[0] == md_magic && big[1] == 0);
}

Result<MemberMetadata> decode_v0_90(std::span<const std::byte> bytes, uint64_t device_size,
                                    uint64_t super_offset) {
  MemberMetadata m;
  m.raw.assign(bytes.begin(), bytes.end());
  DiskSuper90 sb;
  std::memcpy(&sb, m.raw.data(), sizeof sb);
  m.big_endian = sb.magic != md_magic;
  if (m.big_endian) {
    swap_words(m.raw);
    std::memcpy(&sb, m.raw.data(), sizeof sb);
  }
  VOLFS_TRY(check_frame(sb));
  VOLFS_TRY(decode_array(sb, m.array));
  VOLFS_TRY(in("md superblock", check_geometry(m.array.geometry)));
  if (m.array.geometry.level > 0 && m.array.member_size == 0)
    return fail_invalid("md superblock: size is 0, expected more");
  if (m.array.member_size > super_offset)
    return fail_invalid(
        fmt::format("md superblock: size is {} KiB, expected at most {} on a device of {} bytes",
                    m.array.member_size / KiB, super_offset / KiB, device_size));
  m.dev_number = sb.this_disk.number;
  m.super_offset = super_offset;
  m.data_size = super_offset;
  const Device90& self = m.array.devices90[m.dev_number];
  m.write_mostly = self.write_mostly;
  m.failfast = self.failfast;
  if (m.array.reshape && m.role() < disk_count && !(sb.disks[m.dev_number].state & disk_sync))
    m.recovery_offset = 0;
  m.bitmap_offset = m.array.has_bitmap ? int64_t{bitmap_after} : 0;
  m.roles_room = disk_count;
  return m;
}

namespace {

Status check_expressible(const MemberMetadata& m) {
  const ArrayMetadata& a = m.array;
  if (a.roles.size() > disk_count || a.geometry.raid_disks > disk_count ||
      m.dev_number >= disk_count)
    return fail_invalid("version 0.90 metadata has room for 27 devices only");
  if (a.member_size / KiB > UINT32_MAX)
    return fail_invalid(fmt::format(
        "version 0.90 metadata cannot express {} bytes a member: at most 4 TiB", a.member_size));
  if (a.geometry.chunk > UINT32_MAX || (a.reshape && a.reshape->new_chunk > UINT32_MAX))
    return fail_invalid("version 0.90 metadata cannot express so large a chunk");
  if (m.data_offset != 0 || a.has_journal || a.has_ppl || m.bad_blocks || m.replacement)
    return fail_invalid(
        "version 0.90 metadata has no data offset, journal, PPL, bad blocks or replacement");
  return {};
}

struct Counts {
  uint32_t all = 0, active = 0, spare = 0, failed = 0;
};

void encode_device(const MemberMetadata& m, size_t index, DiskDescriptor& d, Counts& counts) {
  const ArrayMetadata& a = m.array;
  uint16_t role = index < a.roles.size() ? a.roles[index] : role_spare;
  Device90 device = index < a.devices90.size() ? a.devices90[index] : Device90{};
  if (index == m.dev_number) {
    device.present = true;
    device.write_mostly = m.write_mostly;
    device.failfast = m.failfast;
  }
  if (role < disk_count) device.present = true;
  uint32_t state = 0;
  if (role < disk_count) {
    bool behind = index == m.dev_number && m.recovery_offset && a.reshape;
    state = disk_active | (behind ? 0 : disk_sync);
    ++counts.active;
  } else if (role == role_faulty) {
    state = disk_faulty | (device.removed ? disk_removed : 0);
    counts.failed += device.removed;  // the kernel counts empty slots, not devices that failed
  } else if (device.present) {
    ++counts.spare;
  }
  if (device.present && !device.removed) ++counts.all;
  // A slot that nothing describes yet, as in a superblock that mdadm made and md never wrote.
  if (!device.present && role == role_spare && index < a.geometry.raid_disks) {
    ++counts.failed;
    ++counts.all;
  }
  if (device.write_mostly) state |= disk_write_mostly;
  if (device.failfast) state |= disk_failfast;
  bool used = device.present || role == role_faulty;
  d.number = used ? static_cast<uint32_t>(index) : 0;
  d.major = device.major;
  d.minor = device.minor;
  d.raid_disk = role < disk_count ? role : used ? static_cast<uint32_t>(index) : 0;
  d.state = state;
}

void encode_array(const ArrayMetadata& a, DiskSuper90& sb) {
  sb.magic = md_magic;
  sb.major_version = 0;
  sb.minor_version = a.reshape ? 91 : 90;
  sb.set_uuid0 = uuid_word(a.uuid, 0);
  sb.set_uuid1 = uuid_word(a.uuid, 1);
  sb.set_uuid2 = uuid_word(a.uuid, 2);
  sb.set_uuid3 = uuid_word(a.uuid, 3);
  sb.ctime = static_cast<uint32_t>(a.ctime.seconds);
  sb.utime = static_cast<uint32_t>(a.utime.seconds);
  sb.level = static_cast<uint32_t>(a.geometry.level);
  if (a.geometry.level != 0) sb.layout = a.geometry.layout;
  sb.raid_disks = a.geometry.raid_disks;
  sb.chunk_size = static_cast<uint32_t>(a.geometry.chunk);
  if (a.geometry.level > 0) sb.size = static_cast<uint32_t>(a.member_size / KiB);
  sb.md_minor = a.preferred_minor;
  sb.not_persistent = 0;
  sb.events = a.events;
  uint32_t state = sb.state & ~(state_clean | state_bitmap);
  if (a.has_bitmap) state |= state_bitmap;
  if (a.resync_offset == all_in_sync) state |= state_clean;
  sb.state = state;
  // A checkpoint holds as long as the events agree; beyond 2 TiB it cannot be said.
  uint64_t checkpoint = a.resync_offset >> sector_shift;
  bool in_sync = a.resync_offset == all_in_sync;
  bool counts = in_sync || (a.resync_offset != 0 && checkpoint <= UINT32_MAX);
  sb.recovery_cp = in_sync ? UINT32_MAX : counts ? static_cast<uint32_t>(checkpoint) : 0;
  sb.cp_events = counts ? a.events : 0;
  if (!a.reshape) return;
  sb.reshape_position = a.reshape->position >> sector_shift;
  sb.new_level = static_cast<uint32_t>(a.reshape->new_level);
  sb.delta_disks = static_cast<uint32_t>(a.reshape->delta_disks);
  sb.new_layout = a.reshape->new_layout;
  sb.new_chunk = static_cast<uint32_t>(a.reshape->new_chunk);
}

}  // namespace

Result<SuperblockBytes> encode_v0_90(const MemberMetadata& m) {
  VOLFS_TRY(check_expressible(m));
  SuperblockBytes bytes{};
  if (m.raw.size() == bytes.size()) std::copy(m.raw.begin(), m.raw.end(), bytes.begin());
  DiskSuper90 sb;
  std::memcpy(&sb, bytes.data(), sizeof sb);
  encode_array(m.array, sb);
  Counts counts;
  for (size_t i = 0; i < disk_count; ++i) encode_device(m, i, sb.disks[i], counts);
  sb.nr_disks = counts.all;
  sb.active_disks = counts.active;
  sb.working_disks = counts.active + counts.spare;
  sb.failed_disks = counts.failed;
  sb.spare_disks = counts.spare;
  sb.this_disk = sb.disks[m.dev_number];
  sb.sb_csum = checksum(sb);
  std::memcpy(bytes.data(), &sb, sizeof sb);
  if (m.big_endian) swap_words(bytes);
  return bytes;
}

}  // namespace volfs::md
