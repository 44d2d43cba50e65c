// SPDX-License-Identifier: GPL-2.0-or-later
// Volume groups: what lvm2's metadata on the physical volumes describes, as the tables that lvm2
// would load.
#include <fmt/format.h>

#include <map>
#include <set>

#include "assembler.h"
#include "volfs/dm/table.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/lvm/plan.h"

namespace volfs::engine {
namespace {

Health health_of(lvm::VolumeState state) {
  switch (state) {
    case lvm::VolumeState::active:
      return Health::active;
    case lvm::VolumeState::degraded:
      return Health::degraded;
    case lvm::VolumeState::partial:
      return Health::partial;
    case lvm::VolumeState::unavailable:
      break;
  }
  return Health::failed;
}

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

std::string table_text(const lvm::PlannedDevice& device) {
  std::string text;
  for (const lvm::TableRow& row : device.table) text += lvm::to_string(row) + "\n";
  return text;
}

// The logical volumes that the definition wants kept out of sight.
std::set<std::string> inactive_volumes(const config::VolumeGroup& group) {
  std::set<std::string> names;
  for (const config::LogicalVolume& volume : group.logical_volumes)
    if (!volume.active.value) names.insert(volume.name.value);
  return names;
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
  const lvm::Assembly assembly = lvm::assemble(found);
  for (const std::string& warning : assembly.warnings) warn(warning);
  for (const lvm::FoundGroup& candidate : assembly.groups)
    if (candidate.shown_name == group.name.value) return activate(group, candidate, found);
  std::string names;
  for (const lvm::FoundGroup& candidate : assembly.groups)
    names += (names.empty() ? "" : ", ") + candidate.shown_name;
  report(group.name.at, fmt::format("there is no volume group '{}' on its physical volumes{}",
                                    group.name.value, names.empty() ? "" : "; found " + names));
}

void Assembler::activate(const config::VolumeGroup& group, const lvm::FoundGroup& found_group,
                         const std::vector<lvm::PvInfo>& found) {
  for (const std::string& warning : found_group.warnings)
    warn(fmt::format("{}: {}", group.name.value, warning));
  const bool hidden = options_.hidden || definition_.expose.hidden.value;
  const lvm::ActivationPlan plan =
      lvm::activation_plan(found_group.group, found_group.device_names(found),
                           {.mode = mode_of(group.activation.value), .hidden = hidden});
  const bool read_only = engine_->read_only() || group.readonly.value;
  std::map<std::string, std::string> broken;  // devices that could not be built, and why
  for (const lvm::PlannedDevice& planned : plan.devices) {
    auto node = add_map(planned.name, Kind::logical_volume, table_text(planned),
                        read_only || planned.read_only);
    if (!node) {
      broken[planned.name] = node.error().text();
      continue;
    }
    (*node)->uuid = planned.uuid;
    (*node)->internal = true;
    (*node)->read_only_wanted = group.readonly.value || planned.read_only;
  }
  const std::set<std::string> inactive = inactive_volumes(group);
  for (const lvm::PlannedVolume& volume : plan.volumes) {
    if ((!volume.visible && !hidden) || inactive.contains(volume.name)) continue;
    const std::string path = found_group.shown_name + "/" + volume.name;
    Node* node = engine_->graph().find(volume.device);
    if (!node) {
      const auto why = broken.find(volume.device);
      unavailable(path, why == broken.end() ? volume.reason : why->second);
      continue;
    }
    node->internal = false;
    node->health = health_of(volume.state);
    if (volume.state != lvm::VolumeState::active) node->problem = volume.reason;
    engine_->graph().add_alias(path, *node);
    expose(*node, path, group.name.at);
  }
  for (const config::LogicalVolume& volume : group.logical_volumes)
    if (!found_group.group.find_lv(volume.name.value))
      report(volume.name.at, fmt::format("{}/{}: there is no such logical volume on the disks",
                                         group.name.value, volume.name.value));
}

}  // namespace volfs::engine
