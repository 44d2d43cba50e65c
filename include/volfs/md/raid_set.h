// SPDX-License-Identifier: GPL-2.0-or-later
// Arrays whose shape a table gives and whose members keep their state on devices of their own, in
// dm-raid's superblock and a bitmap behind it: what the dm target `raid` runs. Checked against
// Linux's drivers/md/dm-raid.c and what Linux 7.2 wrote. Sizes and offsets are bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/error.h"
#include "volfs/md/array.h"
#include "volfs/md/layout.h"

namespace volfs::md {

struct RaidSetMember {
  BlockDevice* metadata = nullptr;  // null: it keeps no state
  BlockDevice* data = nullptr;      // null: missing
  bool rebuild = false;             // what it holds does not count
  bool hole = false;                // its devices only stand in for missing ones, as is known
  bool write_mostly = false;
};

struct RaidSet {
  Geometry geometry;
  uint64_t size = 0;  // of the set
  uint64_t data_offset = 0;
  uint64_t region_size = 0;            // what a bit of a new bitmap stands for; 0: by the size
  std::vector<RaidSetMember> members;  // by slot
  bool nosync = false;                 // it counts as in sync, whatever the superblocks say
  bool sync = false;                   // it counts as new, whatever they say
  bool led = false;  // raid1: what may differ is right on the first member, and read there only
};

// Bytes that each member gives. EINVAL if the size cannot be divided so.
Result<uint64_t> raid_set_member_size(const RaidSet& set);

// Starts the set. One whose members bear no superblock is new: it gets them, and is synced. A
// member whose superblock cannot be read is missing; one that the others report as failed, or that
// is to be rebuilt, is recovered. EIO if too few are left, or if parity that was never made would
// have to stand in for one; EINVAL if the superblocks say something else than the table, or if
// some members have none and are not to be rebuilt; ENOTSUP for one that is to be written to and
// keeps no state, or was being reshaped.
Result<std::unique_ptr<Array>> assemble_raid_set(const RaidSet& set, const ArrayOptions& options);

}  // namespace volfs::md
