// SPDX-License-Identifier: GPL-2.0-or-later
// Mirrors whose state is a log of dirty regions and nothing else: what the dm target `mirror` runs.
// The engine sees them as a raid1 with dm-raid's metadata devices, whose bitmap is the log.
// Checked against Linux's drivers/md/dm-raid1.c and dm-log.c, and what Linux 6.1 and lvm2 wrote.
// Sizes and offsets are bytes.
//
// The log on disk, little-endian: the magic number "rRiM", version 2, and 64 bits with the number
// of regions; from byte 1024 on one bit for each region, bit N being bit N%8 of byte 1024 + N/8,
// set if the region is the same on all legs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/error.h"
#include "volfs/md/layout.h"
#include "volfs/md/raid_set.h"
#include "volfs/units.h"

namespace volfs::md {

struct MirrorLeg {
  BlockDevice* device = nullptr;
  uint64_t offset = 0;  // where the mirror begins on it
};

struct MirrorSet {
  uint64_t size = 0;           // of the mirror
  uint64_t region_size = 0;    // a power of two of at least 1 KiB, not more than the size
  BlockDevice* log = nullptr;  // null: the log is in memory, and nothing is in sync at the start
  bool nosync = false;         // of what the log does not say all counts as in sync
  std::vector<MirrorLeg> legs;

  Geometry geometry() const { return {1, 0, static_cast<uint32_t>(legs.size()), 0}; }
  // The region size is not 0.
  uint64_t regions() const { return div_round_up(size, region_size); }
};

inline constexpr uint64_t most_mirror_regions = 1 << 24;

// EINVAL unless region size and number of regions are in range.
Status check_mirror_set(const MirrorSet& set);

// The log of a mirror at work: it keeps the state of the raid set that it describes. The first leg
// is the one that counts where legs differ, and the log cannot say otherwise: so a first leg that
// fails fails the mirror. Another that fails is left out, and is made right after the next start.
class MirrorLog {
 public:
  // Reads the log; one that bears none is new. Unless READ_ONLY it is written, durably. A log that
  // cannot be read counts as one that says that nothing is in sync, as for Linux, if READ_ONLY.
  // EINVAL for one of an unknown version, one that is too small, and as check_mirror_set().
  static Result<std::unique_ptr<MirrorLog>> open(const MirrorSet& set, const std::string& name,
                                                 bool read_only);
  ~MirrorLog();
  MirrorLog(const MirrorLog&) = delete;
  MirrorLog& operator=(const MirrorLog&) = delete;

  // For assemble_raid_set(). Its metadata devices are the log's, and live as long.
  RaidSet raid_set() const;
  // Regions that are the same on all legs and are not being written. Any thread.
  uint64_t clean_regions() const;
  bool log_failed() const;  // it could not be read or written

 private:
  struct State;
  class Metadata;
  explicit MirrorLog(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;
  std::vector<std::unique_ptr<Metadata>> metadata_;  // one a leg
};

// Bytes that a log of so many regions needs.
uint64_t mirror_log_size(uint64_t regions);

}  // namespace volfs::md
