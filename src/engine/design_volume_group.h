// SPDX-License-Identifier: GPL-2.0-or-later
// From what a definition says of a volume group, and what its devices hold, to the group that is
// to be. Pure.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"
#include "volfs/lvm/edit.h"

namespace volfs::engine {

// A device that the definition makes a PV, in the definition's order.
struct PvDevice {
  uint64_t size = 0;
  std::optional<lvm::PvInfo> found;  // the PV that it is already
};

struct GroupDesign {
  bool new_group = false;
  std::vector<lvm::PvInfo> pvs;       // of the group, in its order
  std::vector<size_t> devices;        // for each of them the index of its device
  std::vector<size_t> new_pvs;        // indices into pvs: label and areas are to be made
  lvm::VolumeGroup group;             // not committed yet
  std::vector<uint32_t> new_volumes;  // LVs of the definition that were not there

  std::string describe(uint32_t lv) const;  // "vg0/root: linear, 128MiB: disk0 0-31"
};

// Whether a new group can have the name; false: PROBLEMS says why not.
bool may_be_made(const config::VolumeGroup& wanted, config::Diagnostics& problems);

// What is wrong goes to PROBLEMS, with its place; nothing is returned then. With FORCE, PVs of
// other groups are made anew.
std::optional<GroupDesign> design_group(const config::VolumeGroup& wanted,
                                        std::span<const PvDevice> devices, bool force,
                                        const lvm::Provenance& provenance,
                                        config::Diagnostics& problems);

}  // namespace volfs::engine
