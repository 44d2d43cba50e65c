// SPDX-License-Identifier: GPL-2.0-or-later
// Free extents of a group and how new LVs take them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "volfs/lvm/edit.h"

namespace volfs::lvm {

// What is free on each PV: runs in ascending order.
class FreeMap {
 public:
  struct Run {
    uint32_t start = 0, length = 0;
  };

  // Only PVs in ALLOWED count (none: all that are allocatable).
  FreeMap(const VolumeGroup& group, std::span<const uint32_t> allowed);

  uint64_t total() const;
  size_t pv_count() const { return runs_.size(); }
  const std::vector<Run>& runs(uint32_t pv) const { return runs_[pv]; }
  // How many extents are free from EXTENT on.
  uint32_t free_at(uint32_t pv, uint32_t extent) const;
  // They are free.
  void take(uint32_t pv, uint32_t extent, uint32_t count);

 private:
  std::vector<std::vector<Run>> runs_;
};

// A piece of one leg.
struct Piece {
  uint32_t pv = 0, extent = 0, count = 0;
};

struct LegRequest {
  unsigned legs = 1;
  uint32_t extents = 0;      // of each leg
  bool same_pieces = false;  // all legs are cut at the same places (stripes)
  AllocationPolicy allocation = AllocationPolicy::normal;
  // For growing: where each leg ends now (the extent behind), and the PVs it is on.
  std::vector<std::optional<Piece>> behind;
  std::vector<std::vector<uint32_t>> own_pvs;
};

// For each leg its pieces. ENOSPC tells what was lacking. Takes them from FREE.
Result<std::vector<std::vector<Piece>>> allocate(FreeMap& free, const LegRequest& request);

}  // namespace volfs::lvm
