// SPDX-License-Identifier: GPL-2.0-or-later
// Volume groups: what lvm2's metadata on the physical volumes describes, as the tables that lvm2
// would load.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <set>

#include "assembler.h"
#include "volfs/dm/table.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/lvm/plan.h"

namespace volfs::engine {
namespace {

lvm::ActivationMode mode_of(config::Activation activation) {
  switch (activation) {
    case config::Activation::complete:
      return lvm::ActivationMode::complete;
    case config::Activation::degraded:
      return lvm::ActivationMode::degraded;
    case config::Activation::partial:
      return lvm::ActivationMode::partial;
  }
  return lvm::ActivationMode::complete;
}

// What the definition says of single volumes.
void put_volumes(const config::VolumeGroup& group, VolumeGroup::Setup& setup) {
  for (const config::LogicalVolume& volume : group.logical_volumes) {
    if (!volume.active.value) setup.inactive.insert(volume.name.value);
    if (volume.hidden.value) setup.unseen.insert(volume.name.value);
    if (volume.activation)
      setup.own_modes.emplace(volume.name.value, mode_of(volume.activation->value));
  }
}

}  // namespace

void Assembler::build(const config::VolumeGroup& group) {
  std::vector<lvm::PvInfo> found;
  for (const config::PhysicalVolume& pv : group.physical_volumes) {
    BlockDevice* below = device(pv.device);
    if (!below) return;
    auto info = lvm::scan(*below);
    if (!info) {
      report(pv.device.at, info.error().text());
    } else if (!*info) {
      report(pv.device.at, fmt::format("{}: there is no physical volume on it", pv.device.value));
    } else {
      found.push_back(std::move(**info));
      found.back().device = pv.device.value;
    }
  }
  if (options_.metadata_seqno) return build_older(group, found);
  const lvm::Assembly assembly = lvm::assemble(found);
  if (!definition_.scanned)  // else the scan has told them
    for (const std::string& warning : assembly.warnings) warn(warning);
  if (const lvm::FoundGroup* meant = lvm::find_group(assembly, group.name.value))
    return activate(group, *meant, found);
  std::string names;
  for (const lvm::FoundGroup& candidate : assembly.groups)
    names += (names.empty() ? "" : ", ") + candidate.shown_name;
  report(group.name.at, fmt::format("there is no volume group '{}' on its physical volumes{}",
                                    group.name.value, names.empty() ? "" : "; found " + names));
}

// As an older copy of the metadata has it; the first that is found.
void Assembler::build_older(const config::VolumeGroup& group,
                            const std::vector<lvm::PvInfo>& found) {
  std::set<uint32_t> kept;
  for (size_t i = 0; i < found.size(); ++i)
    for (const lvm::MetadataArea& area : found[i].areas) {
      const Node* node = engine_->graph().find(found[i].device);
      const auto copies = lvm::list_copies(*node->device, area);
      if (!copies) continue;
      for (const lvm::MetadataCopy& copy : *copies) {
        const auto older = lvm::assemble_as(found, copy);
        if (!older || !lvm::goes_by(older->group, group.name.value)) continue;
        kept.insert(copy.seqno);
        if (copy.seqno == *options_.metadata_seqno) return activate(group, *older, found);
      }
    }
  report(group.name.at,
         fmt::format("there is no metadata of '{}' with number {} on its physical volumes{}",
                     group.name.value, *options_.metadata_seqno,
                     kept.empty() ? "" : fmt::format("; found {}", fmt::join(kept, ", "))));
}

void Assembler::activate(const config::VolumeGroup& group, const lvm::FoundGroup& found_group,
                         const std::vector<lvm::PvInfo>& found) {
  // Two copies of one group cannot be told apart by what is on their disks.
  for (const auto& other : engine_->volume_groups())
    if (other->model().id == found_group.group.id)
      return report(group.name.at,
                    fmt::format("{}: is the volume group '{}', or a copy of it, which is on the "
                                "mount already",
                                group.name.value, other->name()));
  for (const std::string& warning : found_group.warnings)
    if (!definition_.scanned || warning != found_group.doubled_reason)
      warn(fmt::format("{}: {}", group.name.value, warning));
  VolumeGroup::Setup setup{.name = group.name.value,
                           .model = found_group.group,
                           .pv_devices = found_group.device_names(found),
                           .mode = mode_of(group.activation.value),
                           .wanted_read_only = group.readonly.value,
                           .read_only = engine_->read_only() || group.readonly.value ||
                                        !found_group.doubled_reason.empty(),
                           .unchangeable = found_group.read_only_reason,
                           .doubled = found_group.doubled_reason,
                           .hidden = options_.hidden || definition_.expose.hidden.value,
                           .inactive = {},
                           .unseen = {},
                           .own_modes = {}};
  put_volumes(group, setup);
  engine_->add_group(std::make_shared<VolumeGroup>(*engine_, std::move(setup)));
  VolumeGroup& active = *engine_->volume_groups().back();
  if (auto shown = active.activate(); !shown) report(group.name.at, shown.error().text());
  if (found_group.group.exported())
    warn(fmt::format("{}: not available: {}", group.name.value, lvm::exported_reason));
  for (const Unavailable& each : active.unavailable())
    if (each.reason != lvm::exported_reason)
      warn(fmt::format("{}: not available: {}", each.path, each.reason));
  if (options_.metadata_seqno) return;  // what the definition lists is of another time
  for (const config::LogicalVolume& volume : group.logical_volumes)
    if (!found_group.group.find_lv(volume.name.value))
      report(volume.name.at, fmt::format("{}/{}: there is no such logical volume on the disks",
                                         group.name.value, volume.name.value));
}

}  // namespace volfs::engine
