// SPDX-License-Identifier: GPL-2.0-or-later
// A volume group as its metadata text describes it: a plain value that can be copied, edited and
// written again. What volfs does not know (entries, whole segments, flags) is kept as text and
// written where it was. Sizes and offsets are bytes, extents are counted in extents.
// Field names and their order on disk were checked against lvm2 2.03.16
// (lib/format_text/import_vsn1.c, export.c) and metadata it wrote.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"
#include "volfs/lvm/id.h"
#include "volfs/lvm/text.h"

namespace volfs::lvm {

class SegmentType;
struct VolumeGroup;

using Words = std::vector<std::string>;
bool has(const Words& words, std::string_view word);
void drop(Words& words, std::string_view word);

struct PhysicalVolume {
  std::string key;  // the name segments use for it: "pv0"
  Id id;
  std::string device_hint;  // where lvm2 saw it last
  std::string device_id_type, device_id;
  Words status, flags, tags;
  uint64_t device_size = 0;  // 0: not told
  uint64_t data_start = 0;   // where extent 0 begins
  uint32_t extent_count = 0;
  uint64_t bootloader_start = 0, bootloader_size = 0;
  std::vector<std::string> unknown;

  bool allocatable() const { return has(status, "ALLOCATABLE"); }
  // lvm2 wrote metadata without this PV; what is on it may be old.
  bool marked_missing() const { return has(status, "MISSING") || has(flags, "MISSING"); }
};

// A run of extents on a PV, or of another LV's.
struct Area {
  enum class Kind : uint8_t { none, pv, lv };
  Kind kind = Kind::none;
  uint32_t index = 0;  // into pvs or lvs
  uint32_t extent = 0;
  friend bool operator==(const Area&, const Area&) = default;
};

struct Segment {
  uint32_t start = 0;
  uint32_t count = 0;
  uint32_t reshape_count = 0;
  std::string type;  // as in the text without flags: "striped" (linear too), "raid5_ls", ...
  Words type_flags;  // "RESHAPE" of "raid5_ls+RESHAPE"
  Words tags;
  std::vector<Area> areas;           // stripes, legs, images
  std::vector<Area> metadata_areas;  // RAID: one for each image, or none
  uint64_t stripe_size = 0;
  uint64_t region_size = 0;
  uint64_t chunk_size = 0;  // snapshot
  uint32_t data_copies = 0;
  uint32_t write_behind = 0;
  uint32_t min_recovery_rate = 0, max_recovery_rate = 0;  // KiB/s a device
  std::optional<uint32_t> data_offset;
  std::optional<uint32_t> extents_moved;  // a pvmove
  std::optional<uint32_t> log;            // mirror: the LV with its log
  std::optional<uint32_t> origin, cow;    // snapshot
  bool merging = false;
  std::vector<std::string> unknown;
  // Of a type that is not worked with: all its entries, the LVs they name, and why.
  std::string raw;
  std::vector<uint32_t> mentions;
  std::string unsupported;

  const SegmentType* known_type() const;  // null if there is none
};

struct LogicalVolume {
  std::string name;
  Id id;
  Words status, flags, tags;
  std::optional<uint64_t> creation_time;
  std::string creation_host;
  std::string lock_args, allocation_policy, profile;
  std::optional<int64_t> read_ahead;  // -1: none
  std::optional<int64_t> major, minor;
  std::vector<Segment> segments;
  std::vector<std::string> unknown;
  // What is wrong with it, if anything; then nothing of it is used. A section that could not be
  // read is kept as text.
  std::string problem;
  std::string raw;

  uint32_t extents() const;
  bool writable() const { return has(status, "WRITE") || has(flags, "WRITE_LOCKED"); }
  // A "snapshot0": no volume, but what ties a COW store to its origin.
  bool is_snapshot_link() const;
};

// What stands around the group in its text.
struct TextHeader {
  std::string generator;  // "LVM2 version 2.03.16(2) (2022-05-18)"
  std::string generated;  // the date behind it
  std::string description;
  std::string creation_host, creation_host_comment, creation_host_system_id;
  uint64_t creation_time = 0;
  std::string creation_time_comment;
};

// The snapshot links of a group, for whoever asks about many of its volumes: found all at once.
struct SnapshotLinks {
  explicit SnapshotLinks(const VolumeGroup& group);
  std::vector<std::vector<uint32_t>> of_origin;  // by LV, as snapshots_of()
  std::vector<std::optional<uint32_t>> of_cow;   // by LV, as link_of_cow()
};

struct VolumeGroup {
  std::string name;
  Id id;
  uint32_t seqno = 0;
  std::string format = "lvm2";
  Words status, flags, tags;
  std::string system_id, lock_type, lock_args, allocation_policy, profile;
  uint64_t extent_size = 0;
  uint32_t max_lv = 0, max_pv = 0;
  uint32_t metadata_copies = 0;
  std::vector<PhysicalVolume> pvs;
  std::vector<LogicalVolume> lvs;
  std::string historical;  // the section of removed LVs, as text
  std::vector<std::string> unknown;
  TextHeader header;
  // What is wrong with the group as a whole; it is then read but never written.
  Words problems;

  bool exported() const { return has(status, "EXPORTED"); }
  std::optional<uint32_t> find_lv(std::string_view lv_name) const;
  std::optional<uint32_t> find_pv(std::string_view key) const;
  std::optional<uint32_t> find_pv(const Id& pv_id) const;

  // The snapshot links of an origin (indices into lvs), in the order of the text.
  std::vector<uint32_t> snapshots_of(uint32_t origin) const;
  // The link whose COW store this LV is.
  std::optional<uint32_t> link_of_cow(uint32_t cow) const;
  // As lvm2 counts: snapshots follow their origin, links and inner LVs are not visible.
  bool visible(uint32_t lv) const;
  bool visible(uint32_t lv, const SnapshotLinks& links) const;
  uint64_t size_of(uint32_t lv) const;  // bytes, of its own segments
};

// Stripes that hold data, without parity and further copies; 1 if it is not striped.
uint32_t data_stripes(const Segment& segment);
// What a volume is made of, in lvcreate's words. Of several segments the first counts.
struct VolumeShape {
  std::string type;      // lvm2's, "linear" and "snapshot" among them; "" without segments
  uint32_t stripes = 1;  // of data
  uint32_t mirrors = 0;  // copies besides the first
  uint64_t stripe_size = 0, region_size = 0;  // 0: has none
  std::string origin;                         // of a snapshot
  uint64_t chunk_size = 0;
};
VolumeShape shape_of(const VolumeGroup& group, uint32_t lv);
VolumeShape shape_of(const VolumeGroup& group, uint32_t lv, const SnapshotLinks& links);
// The PVs that an LV lies on, itself and all that it is made of (a snapshot's origin is not).
std::set<uint32_t> pvs_below(const VolumeGroup& group, uint32_t lv);

// Reads the group of a metadata text, and checks all it says: extents in range and used once,
// segments without gaps, no LV made of itself. What is wrong with one LV becomes its problem;
// an error is a text that describes no group at all.
Result<VolumeGroup> read_group(const text::Document& document);
Result<VolumeGroup> read_group(std::string_view text);

// The checks of read_group again, after edits. Sets the problems.
void validate(VolumeGroup& group);

// The text as lvm2 writes it to a metadata area, without the closing NUL.
std::string write_group(const VolumeGroup& group);
// The same as vgcfgbackup writes it: indented, with comments, the header first. Dates are UTC.
std::string backup_text(const VolumeGroup& group);

// Whether lvm2 accepts it as the name of a new VG or LV. The error says why not.
Status check_group_name(std::string_view name);
Status check_volume_name(std::string_view name);

// "vg-lv", hyphens doubled, and "-layer" if there is one: the device-mapper name.
std::string dm_name(std::string_view group, std::string_view volume, std::string_view layer = {});

// "Thu Nov 26 05:22:26 2026", UTC.
std::string date_text(uint64_t seconds);

}  // namespace volfs::lvm
