// SPDX-License-Identifier: GPL-2.0-or-later
// md superblocks, versions 0.90, 1.0, 1.1 and 1.2, and dm-raid's: one neutral description that all
// of them decode to and encode from. Pure functions over bytes in memory; nothing here does I/O or
// waits.
//
// Sizes and offsets are bytes, offsets on a member count from the start of its device (unless
// they say otherwise). Errors say which field is wrong, what it holds and what was expected; the
// caller adds the image and the place. Checked against drivers/md/md.c (super_90_*, super_1_*),
// mdadm 4.2's super0.c and super1.c, and superblocks that mdadm 4.2 and Linux 7.2 wrote; dm-raid's
// ("DmRd", at the start of a metadata device of the member) against drivers/md/dm-raid.c and
// Linux 7.2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"
#include "volfs/md/bitmap.h"
#include "volfs/md/layout.h"
#include "volfs/md/uuid.h"

namespace volfs::md {

enum class SuperblockVersion : uint8_t { v0_90, v1_0, v1_1, v1_2, dm_raid };
// Every version of md's own, in the order in which a device is searched.
inline constexpr std::array superblock_versions{SuperblockVersion::v1_2, SuperblockVersion::v1_1,
                                                SuperblockVersion::v1_0, SuperblockVersion::v0_90};

inline constexpr size_t superblock_size = 4096;
using SuperblockBytes = std::array<std::byte, superblock_size>;

// "1.2"; and back ("0.9" and "0.90", "1" and "default" for 1.2).
std::string_view version_name(SuperblockVersion version);
Result<SuperblockVersion> parse_version(std::string_view name);

// Where a device of `device_size` bytes carries its superblock: 0.90 in the last whole 64 KiB
// block, 1.0 at 8 KiB from the end rounded down to 4 KiB, 1.1 at 0, 1.2 at 4096; dm-raid's at 0 of
// the metadata device. Nothing if the device is too small.
std::optional<uint64_t> superblock_offset(SuperblockVersion version, uint64_t device_size);
// Most members, spares included: 27, 1920; dm-raid's 253.
uint32_t max_devices(SuperblockVersion version);

// "No limit" for resync_offset: everything is in sync.
inline constexpr uint64_t all_in_sync = UINT64_MAX;

// Entries of the roles table that are no slot.
inline constexpr uint16_t role_spare = 0xffff, role_faulty = 0xfffe, role_journal = 0xfffd;
inline constexpr uint16_t max_role = 0xff00;

struct Timestamp {
  uint64_t seconds = 0;
  uint32_t microseconds = 0;  // not kept by 0.90
  bool operator==(const Timestamp&) const = default;
};

// A reshape that has begun and was not finished; read, and kept when written back.
struct Reshape {
  uint64_t position = 0;  // array bytes done, seen from the end that it started at
  int32_t new_level = 0;
  int32_t delta_disks = 0;
  uint32_t new_layout = 0;
  uint64_t new_chunk = 0;
  int64_t new_offset = 0;  // added to data_offset for the new layout (this member's)
  bool backwards = false;
  bool operator==(const Reshape&) const = default;
};

// What 0.90 says of each device beside its role. Numbers are of the host that wrote them; for
// devices that are new volfs makes up a minor number, of major 0, which no disk has under Linux.
struct Device90 {
  bool present = false;  // a device is described; else an empty entry
  bool removed = false;  // with role_faulty: a slot that nothing fills
  bool write_mostly = false, failfast = false;
  uint32_t major = 0, minor = 0;
  bool named() const { return major != 0 || minor != 0; }
  bool operator==(const Device90&) const = default;
};

// One that is new, of a random IDENTITY.
Device90 new_device90(const Uuid& identity);

// What is the same on all members of an array (once they agree).
struct ArrayMetadata {
  SuperblockVersion version = SuperblockVersion::v1_2;
  Uuid uuid;
  std::string name;  // at most 32 bytes, "homehost:name" by custom; always empty in 0.90
  Timestamp ctime, utime;
  // level, layout, raid_disks, chunk. raid0 whose superblock records no layout has
  // raid0_layout::unknown, and is written without one.
  Geometry geometry;
  uint64_t member_size = 0;  // used of each member; 0 where members differ (linear, raid0)
  uint64_t events = 0;
  uint64_t resync_offset = all_in_sync;  // member bytes known in sync (raid10: array bytes)
  std::optional<Reshape> reshape;
  bool has_bitmap = false;   // the place is MemberMetadata::bitmap_offset
  bool has_journal = false;  // a raid456 journal device is needed
  bool has_ppl = false;      // partial parity log; the place is MemberMetadata::ppl_*
  bool multiple_ppls = false;
  uint32_t preferred_minor = 0;     // 0.90 only
  uint32_t logical_block_size = 0;  // Linux >= 6.19; 0: not recorded. Linux before refuses others
  std::vector<uint16_t> roles;      // by dev_number: a slot or role_*
  std::vector<Device90> devices90;  // by dev_number; only 0.90

  // The uuid as this array's bitmap records it: 0.90 stores it in another byte order there.
  Uuid bitmap_uuid() const;
};

// What one superblock says: of the array, and of the member that carries it.
struct MemberMetadata {
  ArrayMetadata array;

  uint32_t dev_number = 0;  // index into roles; not the slot
  Uuid device_uuid;         // nil in 0.90
  uint64_t super_offset = 0;
  uint64_t data_offset = 0;  // 0 in 0.90
  uint64_t data_size = 0;    // from data_offset on, that can be used for data
  // Up to here the member is recovered (from data_offset on); nothing: it is in sync, or a spare.
  std::optional<uint64_t> recovery_offset;
  bool recovery_by_bitmap = false;  // recovery_offset is to be read as guided by the bitmap
  bool replacement = false;         // replaces the active member with the same role
  uint64_t journal_tail = 0;        // where has_journal and the role is role_journal
  bool write_mostly = false;
  bool failfast = false;
  uint32_t corrected_reads = 0;
  // Relative to super_offset; may be negative in 1.0.
  int64_t bitmap_offset = 0;
  int64_t ppl_offset = 0;
  uint64_t ppl_size = 0;
  // The bad-block log: room for it if size is not 0; `bad_blocks` says that it has entries.
  int64_t bad_block_log_offset = 0;  // relative to super_offset
  uint64_t bad_block_log_size = 0;
  uint8_t bad_block_shift = 0;  // entries count in 512 << this
  bool bad_blocks = false;
  // 1.x: entries of the roles table on disk (max_dev), at least roles.size().
  uint32_t roles_room = 0;
  // 0.90: it was found in big-endian byte order, in which it is written again.
  bool big_endian = false;
  uint64_t metadata_size = 0;  // dm-raid's: of the metadata device
  // The bytes it was decoded from; where no meaning is known they are kept on encode.
  std::vector<std::byte> raw;

  // The slot of this member, or role_spare, role_faulty, role_journal.
  uint16_t role() const {
    return dev_number < array.roles.size() ? array.roles[dev_number] : role_spare;
  }
  uint64_t bitmap_position() const { return super_offset + static_cast<uint64_t>(bitmap_offset); }
  uint64_t ppl_position() const { return super_offset + static_cast<uint64_t>(ppl_offset); }
  uint64_t bad_block_log_position() const {
    return super_offset + static_cast<uint64_t>(bad_block_log_offset);
  }
  // Bytes from bitmap_position() on that no other structure uses, so that a bitmap may fill them.
  uint64_t bitmap_room() const;
};

// Whether the bytes begin as a superblock of this version (magic and major version only).
bool looks_like_superblock(SuperblockVersion version, std::span<const std::byte> bytes);

// `bytes`: superblock_size bytes read at superblock_offset(version, device_size). EINVAL for
// what is wrong; ENOTSUP, naming the bits, for features we (or Linux) do not know; ENODATA if the
// magic number is not there at all.
Result<MemberMetadata> decode_superblock(SuperblockVersion version,
                                         std::span<const std::byte> bytes, uint64_t device_size);

// The bytes to write at member.super_offset; only the first superblock_write_size() need be.
// EINVAL if the version cannot express it (too many devices, sizes beyond 0.90).
Result<SuperblockBytes> encode_superblock(const MemberMetadata& member);
size_t superblock_write_size(const MemberMetadata& member);

// ---- bad-block log (1.x) ------------------------------------------------------------------
struct BadBlockRange {
  uint64_t offset = 0;  // from the start of the device, data_offset included
  uint64_t length = 0;
  bool operator==(const BadBlockRange&) const = default;
};
// `bytes`: bad_block_log_size bytes read at bad_block_log_position(). Empty unless bad_blocks.
Result<std::vector<BadBlockRange>> decode_bad_blocks(const MemberMetadata& member,
                                                     std::span<const std::byte> bytes);
// bad_block_log_size bytes for the log. Ranges are in whole units of 512 << bad_block_shift; they
// are split at what an entry can say. ENOSPC if they do not fit.
Result<std::vector<std::byte>> encode_bad_blocks(const MemberMetadata& member,
                                                 std::span<const BadBlockRange> ranges);

// ---- making arrays ------------------------------------------------------------------------
// What `mdadm --create` decides, as a pure function.
struct CreateDevice {
  uint64_t size = 0;
  bool missing = false;  // a slot left empty; size is ignored
  bool write_mostly = false;
  bool failfast = false;
  uint64_t device_data_offset = 0;  // 0: the array's
};

enum class BitmapChoice : uint8_t { automatic, internal, none };

struct CreateOptions {
  int32_t level = 1;
  SuperblockVersion version = SuperblockVersion::v1_2;
  std::optional<uint32_t> layout;
  uint64_t chunk = 0;  // 0: 512 KiB where the level has chunks
  uint32_t raid_disks = 0;
  std::vector<CreateDevice> devices;              // raid_disks of them, then spares
  uint64_t size = 0;                              // used of each member; 0: what the smallest has
  std::string name;                               // without the host
  std::string homehost;                           // empty: the name stands alone
  BitmapChoice bitmap = BitmapChoice::automatic;  // automatic: above 100 GiB a member
  uint64_t bitmap_chunk = 0;                      // 0: at least 64 MiB
  uint32_t write_behind = 0;
  bool assume_clean = false;
  bool ppl = false;  // raid5 consistency policy ppl
  bool bad_block_log = true;
  bool force = false;              // raid4/5/6: no spare in the place of the last member
  uint64_t data_offset = 0;        // 0: by the size of the devices
  Uuid uuid;                       // the caller's random
  std::vector<Uuid> device_uuids;  // one a device, random; of 0.90 for Device90::minor
  uint64_t now = 0;                // seconds since 1970
  uint32_t preferred_minor = 0;    // 0.90, and the name when none is given
};

// One member to write: bitmap (if any) at member.bitmap_position(), the PPL area zeroed with its
// header at member.ppl_position(), last the superblock at member.super_offset.
struct CreatedMember {
  size_t device = 0;  // index into CreateOptions::devices
  MemberMetadata member;
};
struct CreatePlan {
  std::vector<CreatedMember> members;
  std::optional<BitmapSuperblock> bitmap;  // the same on all
  bool bits_set = true;                    // all of them at first; none of what is assumed clean
  uint64_t bitmap_disk_size = 0;           // bytes to write from bitmap_position() on
  uint64_t array_size = 0;
};
// EINVAL with what mdadm would object to; ENOSPC for devices that are too small.
Result<CreatePlan> plan_create(const CreateOptions& options);

}  // namespace volfs::md
