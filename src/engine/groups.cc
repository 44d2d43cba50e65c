// SPDX-License-Identifier: GPL-2.0-or-later
// Volume groups that come to and leave a running mount, as vgchange -ay and -an on a host.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "volfs/dm/mapped_device.h"
#include "volfs/engine/engine.h"
#include "volfs/log.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/physical_volume.h"

namespace volfs::engine {
namespace {

// Devices of the mount that may be physical volumes: nothing stands on them.
bool may_hold_pv(const Graph& graph, const Node& node) {
  if (node.internal || node.kind == Kind::logical_volume || node.kind == Kind::snapshot)
    return false;
  const auto* map = dynamic_cast<const dm::MappedDevice*>(node.device.get());
  // One that is suspended would not answer.
  return !(map && map->suspended()) && graph.users(*node.device).empty();
}

// The newest seqno that a PV's own text gives the group.
uint32_t seqno_on(const lvm::PvInfo& pv, const lvm::Id& group) {
  uint32_t newest = 0;
  for (const lvm::MetadataArea& area : pv.areas)
    if (!area.text.empty())
      if (const auto read = lvm::read_group(area.text); read && read->id == group)
        newest = std::max(newest, read->seqno);
  return newest;
}

bool has_device(const lvm::FoundGroup& group, const std::vector<lvm::PvInfo>& found,
                std::string_view device) {
  return std::ranges::any_of(group.pvs,
                             [&](const auto& pv) { return pv && found[*pv].device == device; });
}

}  // namespace

std::vector<std::shared_ptr<VolumeGroup>> Engine::volume_groups() const {
  const std::lock_guard lock(groups_mutex_);
  return groups_;
}

std::vector<Unavailable> Engine::unavailable() const {
  std::vector<Unavailable> all = not_assembled_;
  for (const auto& group : volume_groups())
    for (Unavailable& each : group->unavailable()) all.push_back(std::move(each));
  return all;
}

Result<std::shared_ptr<VolumeGroup>> Engine::volume_group(std::string_view name) const {
  for (auto& group : volume_groups())
    if (group->name() == name) return std::move(group);
  return fail(Error::make(ENOENT, fmt::format("there is no volume group '{}'", name)));
}

void Engine::add_group(std::shared_ptr<VolumeGroup> group) {
  const std::lock_guard lock(groups_mutex_);
  groups_.push_back(std::move(group));
}

Result<std::vector<lvm::PvInfo>> Engine::free_pvs(const std::vector<std::string>& devices,
                                                  std::vector<Graph::Pin>& pins) {
  std::vector<std::string> names = devices;
  if (names.empty())
    for_each_node([&](const Node& node) {
      if (may_hold_pv(graph_, node)) names.push_back(node.name);
    });
  std::set<std::string> taken;
  for (const auto& group : volume_groups())
    for (const std::string& device : group->devices()) taken.insert(device);
  std::vector<lvm::PvInfo> found;
  for (const std::string& name : names) {
    auto pin = graph_.pin(name);
    if (!pin && devices.empty()) continue;  // it has gone meanwhile
    if (!pin) return fail(std::move(pin.error()));
    if (taken.contains((*pin)->name)) continue;
    auto info = lvm::scan((*pin)->shown());
    if (!info && !devices.empty()) return fail(std::move(info.error()).in(name));
    if (!info || !*info) continue;
    found.push_back(std::move(**info));
    found.back().device = (*pin)->name;
    pins.push_back(std::move(*pin));
  }
  return found;
}

// Groups that miss a PV which is among FOUND get it; those PVs are taken out of FOUND.
Status Engine::complete_groups(std::vector<lvm::PvInfo>& found, std::string_view only) {
  Status first;
  for (const auto& group : volume_groups()) {
    if (!only.empty() && group->name() != only) continue;
    const lvm::VolumeGroup model = group->model();
    const std::vector<std::string> devices = group->devices();
    for (uint32_t pv = 0; pv < model.pvs.size(); ++pv) {
      const auto at = std::ranges::find_if(
          found, [&](const lvm::PvInfo& each) { return each.label.id == model.pvs[pv].id; });
      if (at == found.end() || pv >= devices.size()) continue;
      const lvm::PvInfo info = std::move(*at);
      found.erase(at);
      Status added;
      if (!devices[pv].empty())
        added = fail(Error::make(EEXIST, fmt::format("{}: is a copy of the physical volume {}",
                                                     info.device, devices[pv])));
      else if (model.pvs[pv].marked_missing())
        added = fail(Error::make(
            ESTALE, fmt::format("{}: was missing when {} was changed; what is on it may be old "
                                "(vgextend --restoremissing takes it back)",
                                info.device, group->name())));
      else if (seqno_on(info, model.id) > model.seqno)
        added = fail(Error::make(
            ESTALE, fmt::format("{}: has newer metadata of {} than the mount; expected a new mount",
                                info.device, group->name())));
      else
        added = group->add_pv(pv, info.device);
      if (!added && first) first = std::move(added);
    }
  }
  return first;
}

Status Engine::join_group(std::string name, const lvm::FoundGroup& found,
                          const std::vector<lvm::PvInfo>& pvs, const GroupActivation& options) {
  for (const auto& group : volume_groups())
    if (group->model().id == found.group.id)
      return fail(Error::make(EEXIST, fmt::format("{}: is on the mount already", name)));
  if (volume_group(name))
    return fail(Error::make(EEXIST, fmt::format("{}: there is another group of that name", name)));
  for (const std::string& warning : found.warnings) log_warning("{}: {}", name, warning);
  auto group = std::make_shared<VolumeGroup>(
      *this, VolumeGroup::Setup{
                 .name = name,
                 .model = found.group,
                 .pv_devices = found.device_names(pvs),
                 .mode = options.mode,
                 .wanted_read_only = options.read_only,
                 .read_only = read_only_ || options.read_only || !found.doubled_reason.empty(),
                 .unchangeable = found.read_only_reason,
                 .doubled = found.doubled_reason,
                 .hidden = shows_hidden_,
                 .inactive = options.inactive,
                 .unseen = options.hidden,
                 .own_modes = {}});
  if (auto shown = group->activate(); !shown) {
    if (auto left = group->leave(); !left) log_error("{}", left.error().text());
    return shown;
  }
  for (const Unavailable& each : group->unavailable())
    log_warning("{}: not available: {}", each.path, each.reason);
  add_group(std::move(group));
  return {};
}

Status Engine::group_activate(std::string_view name, const GroupActivation& options) {
  const std::lock_guard one(joining_);
  std::vector<Graph::Pin> pins;
  VOLFS_TRY_ASSIGN(auto found, free_pvs(options.devices, pins));
  const auto running = volume_group(name);
  const size_t before = found.size();
  VOLFS_TRY(complete_groups(found, name));
  if (running) {
    if (found.size() != before) return {};
    return fail(Error::make(
        EEXIST, fmt::format("{}: is on the mount already, and no device has a physical volume "
                            "that it misses",
                            name)));
  }
  const lvm::Assembly assembly = lvm::assemble(found);
  if (const lvm::FoundGroup* meant = lvm::find_group(assembly, name))
    return join_group(std::string(name), *meant, found, options);
  return fail(Error::make(
      ENOENT, fmt::format("there is no volume group '{}' on devices that nothing uses", name)));
}

std::vector<std::string> Engine::join_groups_of(std::string_view device) {
  const std::lock_guard one(joining_);
  std::vector<std::string> problems;
  const auto tell = [&](std::string text) {
    log_warning("{}", text);
    problems.push_back(std::move(text));
  };
  std::vector<Graph::Pin> pins;
  auto own = free_pvs({std::string(device)}, pins);
  if (!own) tell(fmt::format("{}: {}", device, own.error().text()));
  if (!own || own->empty()) return problems;
  if (auto completed = complete_groups(*own, ""); !completed) tell(completed.error().text());
  if (own->empty()) return problems;
  const auto found = free_pvs({}, pins);
  if (!found) {
    tell(fmt::format("{}: {}", device, found.error().text()));
    return problems;
  }
  const lvm::Assembly assembly = lvm::assemble(*found);
  for (const lvm::FoundGroup& each : assembly.groups) {
    if (!has_device(each, *found, device)) continue;
    // Whoever is on the mount keeps the name.
    std::string name = volume_group(each.group.name) ? lvm::full_name(each.group) : each.shown_name;
    if (auto joined = join_group(std::move(name), each, *found, {}); !joined)
      tell(joined.error().text());
  }
  return problems;
}

Status Engine::group_deactivate(std::string_view name) {
  const std::lock_guard one(joining_);
  VOLFS_TRY_ASSIGN(const auto group, volume_group(name));
  VOLFS_TRY(group->leave());
  const std::lock_guard lock(groups_mutex_);
  std::erase(groups_, group);
  return {};
}

}  // namespace volfs::engine
