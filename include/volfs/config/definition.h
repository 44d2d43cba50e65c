// SPDX-License-Identifier: GPL-2.0-or-later
// A definition (volfs.yaml) as types: what the text says, checked for everything that can be
// checked without looking at a disk. Every value remembers its place in the file, so that later
// stages (ranges past the end of an image, names in tables) can name it too.
//
// All sizes and offsets are bytes. Lists keep the order of the file. Plain values without
// pointers: copy, move and read them from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/config/diagnostics.h"
#include "volfs/units.h"

namespace volfs::config {

// A value and where it was written; at.line is 0 if it is the default.
template <class T>
struct Located {
  T value{};
  Position at{};
};
// A value without a default, or whose default depends on what is on the disks.
template <class T>
using Optional = std::optional<Located<T>>;

using Text = Located<std::string>;

// A backing file or block device, or a part of one.
struct Image {
  Text name;                     // nowhere for the file that a snapshot's `cow` describes in place
  Text path;                     // as written; a relative one starts at the definition's directory
  Optional<uint64_t> size;       // what `volfs create` makes a missing file; multiple of 512
  Optional<uint32_t> partition;  // 1..256; excludes size, offset and length
  Located<bool> readonly{false};
  Optional<bool> direct;        // O_DIRECT; absent: as backing decides
  Located<uint64_t> offset{0};  // multiple of 512
  Optional<uint64_t> length;    // multiple of 512, not 0; absent: to the end
  Optional<uint64_t> pad;       // what the file's size is taken for if it is smaller; of 512
};

enum class ArrayLevel { linear, raid0, raid1, raid4, raid5, raid6, raid10 };
enum class ArrayMetadata { v0_90, v1_0, v1_1, v1_2 };
enum class ArrayBitmap { none, internal };
enum class ArrayConsistency { resync, bitmap, ppl };
// "raid5", as definitions write it.
std::string_view to_string(ArrayLevel level);

using Uuid = std::array<uint8_t, 16>;

struct ArrayDevice {
  Text device;           // empty if missing
  bool missing = false;  // the slot exists and has no device; device.at is the word's place
  Located<bool> write_mostly{false};
  Located<bool> failfast{false};
};

struct Array {
  Text name;
  Located<ArrayLevel> level;
  std::vector<ArrayDevice> devices;  // in the order of their slots
  std::vector<ArrayDevice> spares;   // never missing
  Optional<uint64_t> chunk;
  // As md's superblocks number it: raid5 and raid6 algorithms, raid0's 0 (dangerous),
  // 1 (original), 2 (alternate), raid10's near | far << 8 | offset << 16.
  Optional<uint32_t> layout;
  Located<ArrayMetadata> metadata{ArrayMetadata::v1_2};
  Optional<ArrayBitmap> bitmap;
  Optional<uint64_t> bitmap_chunk;
  Optional<ArrayConsistency> consistency;
  Optional<uint32_t> write_behind;  // raid1, writes
  Optional<uint64_t> size;          // used of each device, mdadm --size
  Optional<uint64_t> data_offset;
  Located<bool> assume_clean{false};
  Located<bool> force{false};
  Located<bool> readonly{false};
  Located<bool> hidden{false};
  Optional<std::string> array_name;  // key `name`: in the superblock, at most 32 bytes
  Optional<std::string> homehost;
  Optional<Uuid> uuid;
  Optional<uint64_t> sync_speed_min;  // bytes a second
  Optional<uint64_t> sync_speed_max;
};

enum class Activation { complete, degraded, partial };
enum class Allocation { inherit, normal, contiguous, cling, anywhere };
// As definitions and lvm2 say it.
std::string_view word_of(Activation activation);
std::string_view word_of(Allocation policy);
enum class Permission { read_write, read_only };
enum class MirrorLog { core, disk };

enum class LvType {
  linear,
  striped,
  raid0,
  raid0_meta,
  raid1,
  raid4,
  raid5_la,
  raid5_ra,
  raid5_ls,
  raid5_rs,
  raid5_n,
  raid6_zr,
  raid6_nr,
  raid6_nc,
  raid6_n_6,
  raid6_la_6,
  raid6_ra_6,
  raid6_ls_6,
  raid6_rs_6,
  raid10,
  mirror,
  snapshot,
  error,
  zero,
};
// The segment type's name in lvm2's metadata.
std::string_view to_string(LvType type);

struct LvSize {
  enum class Unit { bytes, extents, percent_free, percent_vg, percent_pvs, percent_origin };
  uint64_t value = 0;
  Unit unit = Unit::bytes;
};

struct LogicalVolume {
  Text name;
  Located<LvSize> size;
  Located<LvType> type{LvType::linear};  // resolved: raid5 is raid5_ls, raid6 is raid6_zr
  // Resolved too. Data stripes, without parity (1 for types that do not stripe), and copies
  // besides the first.
  Located<uint32_t> stripes{1};
  Located<uint64_t> stripe_size{64 * KiB};
  Located<uint32_t> mirrors{0};
  Optional<uint64_t> region_size;
  Located<MirrorLog> mirror_log{MirrorLog::disk};
  Located<bool> nosync{false};
  Text origin;  // of a snapshot: a logical volume of the same group, without the group's name
  Located<uint64_t> chunk_size{4 * KiB};
  std::vector<Text> physical_volumes;  // allocate on these only; empty: on all
  std::vector<Text> tags;
  bool tags_listed = false;  // whether the file says which; if not, they are as on the disks
  Located<Permission> permission{Permission::read_write};
  Located<Allocation> alloc{Allocation::inherit};
  Optional<Activation> activation;  // absent: as the group says
  Located<bool> active{true};
  Located<bool> hidden{false};
  Optional<std::string> uuid;  // lvm2's: 6-4-4-4-4-4-6 characters

  // Devices on distinct physical volumes that one segment takes (without a mirror's log).
  uint32_t areas() const;
};

struct PhysicalVolume {
  Text device;
  Optional<std::string> uuid;
  std::vector<Text> tags;
  bool tags_listed = false;
  Located<bool> allocatable{true};
};

struct VolumeGroup {
  Text name;
  std::vector<PhysicalVolume> physical_volumes;
  Located<uint64_t> extent_size{4 * MiB};
  // Whether the file lists logical volumes at all; if not, they are those found on the disks.
  bool volumes_listed = false;
  std::vector<LogicalVolume> logical_volumes;
  std::vector<Text> tags;
  bool tags_listed = false;
  Located<Activation> activation{Activation::degraded};
  Located<Allocation> alloc{Allocation::normal};
  Located<bool> readonly{false};
  Optional<std::string> uuid;
};

struct Snapshot {
  Text name;
  Text origin;
  // Exactly one of the two: a device's name, or a file described in place (path and size).
  Text cow_device;
  std::optional<Image> cow_image;
  Located<uint64_t> chunk_size{16 * KiB};
  Located<bool> persistent{true};
  Located<bool> overflow{false};  // "PO": tell a full store as overflow
  Located<bool> discard_zeroes_cow{false};
  Located<bool> discard_passdown_origin{false};
  Located<bool> readonly{false};
  Located<bool> hidden{false};
};

struct Map {
  Text name;
  // The table's lines as written, comments and blank lines too; at is the line's own place
  // (of a block scalar), so that row N of table() is rows[N].
  std::vector<Text> rows;
  // The devices the table names, as the TableScanner told; empty without one.
  std::vector<Text> devices;
  Optional<std::string> uuid;
  Located<bool> readonly{false};
  Located<bool> hidden{false};

  // The text for the dm table parser: the rows, each with a newline.
  std::string table() const;
};

// A user or group: a number if ID is set, else a name to look up.
struct Account {
  std::string name;
  std::optional<uint32_t> id;
};

struct Expose {
  Located<uint32_t> mode{0660};
  Optional<Account> owner;  // absent: who mounts
  Optional<Account> group;
  Located<bool> hidden{false};  // show hidden devices and lvm2's internal volumes too
};

enum class DeviceKind { image, array, volume_group, snapshot, map };
std::string_view to_string(DeviceKind kind);

// One thing of the definition: definition.arrays[index] if kind is array, and so on.
struct Item {
  DeviceKind kind;
  size_t index;
};

struct Definition {
  std::string file_name;
  bool scanned = false;  // a scan of images has made it, and told what it left out
  Located<bool> readonly{false};
  std::vector<Image> images;
  std::vector<Array> arrays;
  std::vector<VolumeGroup> volume_groups;
  std::vector<Snapshot> snapshots;
  std::vector<Map> maps;
  Expose expose;

  // Everything above, each after all that it builds on. (What maps build on is known only if a
  // TableScanner was given.)
  std::vector<Item> build_order;
};

}  // namespace volfs::config
