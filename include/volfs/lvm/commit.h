// SPDX-License-Identifier: GPL-2.0-or-later
// Writing: what must be written, in which order, so that after any prefix of it lvm2 and volfs
// find the old or the new state. Nothing here touches a device but carry_out().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/model.h"
#include "volfs/lvm/physical_volume.h"

namespace volfs::lvm {

struct PlannedWrite {
  size_t pv = 0;  // which PV: an index into what was given to the function that planned it
  uint64_t offset = 0;
  std::vector<std::byte> bytes;
};

// Steps are done in order. Within a step the order does not matter; all of a step is on stable
// storage before the next begins.
struct WritePlan {
  std::vector<std::vector<PlannedWrite>> steps;

  void append(WritePlan later);
};

// Who and when, as it is put into texts. Reproducible builds give all of it.
struct Provenance {
  uint64_t time = 0;  // seconds since the epoch
  std::string host = "volfs";
  std::string description;  // "volfs lv create ..."
};
// Now (or SOURCE_DATE_EPOCH, if it is set) and this host's name ("volfs" if SOURCE_DATE_EPOCH is
// set, so that the result does not depend on the host).
Provenance provenance(std::string description);

// Gives GROUP the next seqno and what PROVENANCE says, and plans to write its text to all areas
// of its PVs: first the texts, where nothing points to them yet, then the headers that point to
// them. PVS are the group's PVs in order, freshly scanned; null for one that is missing.
//
// Refused (EINVAL unless noted): a group that must not be written (see its problems), missing
// PVs, an area that holds another group, areas whose newest text is not the one GROUP was made
// from (ESTALE: somebody else changed the group), and a text that is too long for an area
// (ENOSPC).
Result<WritePlan> plan_commit(VolumeGroup& group, std::span<const PvInfo* const> pvs,
                              const Provenance& provenance);

// The device for PV number I.
using DeviceOf = std::function<BlockDevice&(size_t pv)>;
Status carry_out(const WritePlan& plan, const DeviceOf& device);

}  // namespace volfs::lvm
