// SPDX-License-Identifier: GPL-2.0-or-later
// From the PVs that were found to volume groups: the newest metadata of each, and which device
// is which of its PVs.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/lvm/model.h"
#include "volfs/lvm/physical_volume.h"

namespace volfs::lvm {

struct FoundGroup {
  VolumeGroup group;
  // The group's name; of several of one name the first by uuid has it, the others are NAME@UUID,
  // and copies of one group NAME@UUID.2 and so on.
  std::string shown_name;
  // For each of the group's pvs the index into the span that was given; nothing if missing.
  std::vector<std::optional<size_t>> pvs;
  // For people: areas that could not be used, old copies, missing and doubled PVs.
  std::vector<std::string> warnings;
  // Why it must not be written, if it must not ("" if it may).
  std::string read_only_reason;
  // Why not even its volumes may be written, as lvm2 would not activate them: PVs that are on
  // several devices each ("" if there are none). They count as missing.
  std::string doubled_reason;
  std::vector<size_t> doubles;  // the devices of those PVs, indices as in pvs

  // For activation_plan(): the PVs' devices as PvInfo names them.
  std::vector<std::string> device_names(std::span<const PvInfo> found) const;
};

struct Assembly {
  std::vector<FoundGroup> groups;
  std::vector<size_t> unused;  // PVs of no group
  std::vector<std::string> warnings;
};

// "NAME@UUID", the uuid with dashes: what a group is called beside another of its name.
std::string full_name(const VolumeGroup& group);
// Whether a group is meant by NAME: its name, or its name and uuid.
bool goes_by(const VolumeGroup& group, std::string_view name);
// The group that NAME means, as it is shown or by name and uuid; null if there is none.
const FoundGroup* find_group(const Assembly& assembly, std::string_view name);

// The result does not depend on the order of FOUND but for the order of groups, and which of the
// copies of one group is the first.
Assembly assemble(std::span<const PvInfo> found);

// The group as an older copy of its metadata describes it (`-o metadata=SEQNO`), on the same
// devices. Read-only.
Result<FoundGroup> assemble_as(std::span<const PvInfo> found, const MetadataCopy& copy);

}  // namespace volfs::lvm
