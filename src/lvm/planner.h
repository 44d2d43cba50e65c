// SPDX-License-Identifier: GPL-2.0-or-later
// Builds the devices of an activation plan bottom up.
#pragma once

#include <string>
#include <vector>

#include "lvm/segment_type.h"
#include "volfs/lvm/plan.h"

namespace volfs::lvm {

class Planner {
 public:
  Planner(const VolumeGroup& group, std::span<const std::string> pv_devices,
          const PlanOptions& options);

  ActivationPlan run();

  // For segment types.
  const VolumeGroup& group() const { return group_; }
  // Plans an LV (or a layer of it) and gives its device's name.
  Result<std::string> device(uint32_t lv, std::string_view layer = {});
  // "DEVICE SECTOR" of an area, for linear, striped and mirror rows; a PV that is missing becomes
  // an error device.
  Result<std::string> area(uint32_t lv, unsigned segment_number, unsigned area_number);
  // Whether an LV is a raid that is new and not to be synced.
  bool nosync(uint32_t lv) const { return options_.nosync && options_.nosync(group_.lvs[lv]); }
  // Adds a row of SEGMENT_NUMBER's extents to the device being planned.
  void row(std::string_view type, std::string params, uint64_t length);
  // Counts the running pvmove segments of the device being planned; the number before this one.
  unsigned pvmoves_before() { return building_.back().pvmoves++; }

 private:
  struct Building {
    PlannedDevice device;
    unsigned pvmoves = 0;
  };
  struct Planned {
    bool under_way = false, done = false;
    std::string name;   // of the device
    std::string error;  // why there is none
  };

  std::string name_of(uint32_t lv, std::string_view layer) const;
  Status build(uint32_t lv, std::string_view layer);
  Status build_segments(uint32_t lv);
  // As lvm2: also a PV that is there again, and was missing when the metadata was written. What
  // lies on it is mapped, and does not count.
  bool pv_missing(uint32_t pv) const {
    return pv_devices_[pv].empty() || group_.pvs[pv].marked_missing();
  }
  void mark_partial();
  bool partial_below(uint32_t lv, std::vector<uint8_t>& seen);
  void decide(uint32_t lv, PlannedVolume& volume);
  bool raid_redundant(const Segment& segment) const;
  bool all_data_there(uint32_t lv, unsigned depth) const;
  std::string missing_pvs(uint32_t lv) const;
  void collect_missing(uint32_t lv, std::vector<uint8_t>& seen, std::vector<uint32_t>& pvs) const;

  const VolumeGroup& group_;
  std::span<const std::string> pv_devices_;
  const PlanOptions& options_;
  ActivationPlan plan_;
  std::vector<Building> building_;  // a stack
  std::vector<Planned> planned_;    // three layers an LV: none, real, cow
  std::vector<uint8_t> partial_;
  std::vector<std::vector<uint32_t>> snapshots_;   // links of each LV as origin
  std::vector<std::optional<uint32_t>> cow_link_;  // link of each LV as COW store
};

}  // namespace volfs::lvm
