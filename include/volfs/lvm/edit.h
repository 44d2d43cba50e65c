// SPDX-License-Identifier: GPL-2.0-or-later
// Making and changing volume groups. Every function changes a model only (or makes one) and
// leaves it as it was if it fails; plan_commit() then says what to write. Defaults are those of
// lvm2 2.03.16.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "volfs/error.h"
#include "volfs/lvm/commit.h"
#include "volfs/lvm/id.h"
#include "volfs/lvm/model.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/units.h"

namespace volfs::lvm {

struct PvParameters {
  std::string device;  // its name, for the hint in the metadata and for messages
  uint64_t device_size = 0;
  Id id;
  uint64_t data_alignment = MiB;
  uint64_t metadata_size = 1020 * KiB;
  unsigned metadata_copies = 1;  // areas: 0, 1 (at the start) or 2 (at the end, too)
  unsigned label_sector = 1;
};

// The label and empty areas of a new PV. ENOSPC if the device is too small.
Result<PvInfo> make_pv(const PvParameters& parameters);
// Wipes the first sectors and the areas' beginnings, then writes headers and at last the label.
// PV is the number its writes carry.
Result<WritePlan> plan_pv(const PvInfo& pv, size_t number);

struct GroupParameters {
  std::string name;
  Id id;
  uint64_t extent_size = 4 * MiB;  // a power of two, or a multiple of 128 KiB
  uint32_t max_lv = 0, max_pv = 0;
  Words tags;
  std::string allocation_policy;  // "" is normal
};
// The model of a new group on PVS; its first commit gives it seqno 1. Marks the PVs' labels as in
// use: plan their writing (plan_pv) before the commit.
Result<VolumeGroup> make_group(const GroupParameters& parameters, std::span<PvInfo> pvs);

// How large: bytes (rounded up to extents), or a share of something.
struct SizeRequest {
  enum class Of : uint8_t { bytes, extents, free, group, pvs, origin, volume };
  Of of = Of::bytes;
  uint64_t amount = 0;  // bytes, extents or percent
};
// "128MiB", "100%FREE", "50%VG", "10%PVS", "20%ORIGIN", "150%LV". Plain numbers are bytes.
Result<SizeRequest> parse_size_request(std::string_view text);

enum class AllocationPolicy : uint8_t {
  normal,      // what is free, legs on distinct PVs
  contiguous,  // each leg in one piece, next to what there is
  anywhere,    // legs may share a PV
};

struct VolumeParameters {
  std::string name;
  Id id;                        // empty: from the source of ids
  std::string type = "linear";  // linear, striped, error, zero, or a RAID name of lvm2
  SizeRequest size;
  unsigned stripes = 0;  // of data; 0: the type's default
  unsigned mirrors = 1;  // raid1: copies besides the first
  uint64_t stripe_size = 64 * KiB;
  uint64_t region_size = 2 * MiB;
  bool nosync = false;  // of a raid: it counts as in sync from the first, whatever is on the disks
  AllocationPolicy allocation = AllocationPolicy::normal;
  std::string allocation_policy;  // what the metadata records; "": the group's
  std::vector<uint32_t> pvs;      // indices into the group's pvs it may use; none: all allocatable
  bool read_only = false;
  Words tags;
};

// Gives the index of the new LV. Its images and the like come with it.
Result<uint32_t> create_volume(VolumeGroup& group, const VolumeParameters& parameters,
                               const IdSource& ids, const Provenance& provenance);

struct SnapshotParameters {
  std::string name;
  Id id;  // empty: from the source of ids
  std::string origin;
  SizeRequest size;
  uint64_t chunk_size = 4 * KiB;
  AllocationPolicy allocation = AllocationPolicy::normal;
  std::string allocation_policy;
  std::vector<uint32_t> pvs;
  bool read_only = false;
  Words tags;
};
// The index of the LV that is the snapshot's volume and, inside, its COW store.
Result<uint32_t> create_snapshot(VolumeGroup& group, const SnapshotParameters& parameters,
                                 const IdSource& ids, const Provenance& provenance);

// To a size of EXTENTS in all (rounded up to whole stripes). A snapshot's is that of its store.
Status extend_volume(VolumeGroup& group, uint32_t lv, uint32_t extents,
                     AllocationPolicy allocation = AllocationPolicy::normal,
                     std::span<const uint32_t> pvs = {});
Status reduce_volume(VolumeGroup& group, uint32_t lv, uint32_t extents);
// The extents that an LV is to have: SIGN '+' or '-' for more or fewer by SIZE, 0 for SIZE in all.
Result<uint32_t> resized_extents(const VolumeGroup& group, uint32_t lv, const SizeRequest& size,
                                 char sign, std::span<const uint32_t> pvs = {});
// The extents a request means for an LV of this group. LV: what %ORIGIN and %LV are shares of.
Result<uint32_t> extents_of(const VolumeGroup& group, const SizeRequest& size,
                            std::span<const uint32_t> pvs = {}, std::optional<uint32_t> lv = {});

// Removes an LV with its inner LVs; an origin only with its snapshots.
Status remove_volume(VolumeGroup& group, uint32_t lv, bool with_snapshots = false);
Status rename_volume(VolumeGroup& group, uint32_t lv, std::string_view name);
// Marks a snapshot as merging into its origin, or ends that (the snapshot is then removed).
Status start_merge(VolumeGroup& group, uint32_t snapshot);
Status finish_merge(VolumeGroup& group, uint32_t snapshot);
Status set_writable(VolumeGroup& group, uint32_t lv, bool writable);
Status add_tag(Words& tags, std::string_view tag);

// What a new LV needs zeroed before its first use: RAID metadata, the head of a COW store, and
// the first 4 KiB of a volume (so that no old signature shows).
struct ZeroRange {
  uint32_t pv = 0;
  uint64_t offset = 0, length = 0;  // on the PV's device
};
std::vector<ZeroRange> ranges_to_zero(const VolumeGroup& group, uint32_t lv);
// Of those the ones of RAID metadata.
std::vector<ZeroRange> raid_metadata_of(const VolumeGroup& group, uint32_t lv);

// Extents of PVs that no LV uses.
uint64_t free_extents(const VolumeGroup& group, std::span<const uint32_t> pvs = {});

}  // namespace volfs::lvm
