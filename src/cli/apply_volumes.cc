// SPDX-License-Identifier: GPL-2.0-or-later
// What becomes of volume groups and their volumes.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "apply_planner.h"
#include "display.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

}  // namespace

void Planner::check_groups() {
  std::set<std::string> groups;
  for (const config::VolumeGroup& group : definition_.volume_groups)
    groups.insert(group.name.value);
  for (const auto& [name, device] : running_) {
    if (device->value("kind", "") != "lv") continue;
    const std::string path = device->value("volume", "");
    const std::string group = path.substr(0, path.find('/'));
    if (!path.empty() && groups.insert(group).second)
      problem(
          fmt::format("volume group {}: is on the mount and not in the definition; a group "
                      "cannot leave a running mount",
                      group));
  }
}

void Planner::plan(const config::VolumeGroup& group) {
  const std::string prefix = group.name.value + "/";
  std::map<std::string, const json*> there;
  for (const auto& [name, device] : running_)
    if (const std::string path = device->value("volume", ""); path.starts_with(prefix))
      there[path] = device;
  std::set<std::string> wanted;
  for (const config::LogicalVolume& volume : group.logical_volumes) {
    const std::string path = prefix + volume.name.value;
    wanted.insert(path);
    const auto now = there.find(path);
    if (now != there.end() && !volume.active.value)
      step('-', fmt::format("lv {}: its file (the volume stays)", path),
           {{{"request", "lv.deactivate"}, {"lv", path}}}, false, path);
    else if (now != there.end())
      plan_resize(path, *now->second, volume, extent_of(group));
    else if (is_on_disk(group, volume) && volume.active.value)
      step('+', fmt::format("lv {}: its file", path), {{{"request", "lv.activate"}, {"lv", path}}});
    else if (!is_on_disk(group, volume) && volume.active.value && !volume.hidden.value)
      step('+', fmt::format("lv {}: {}", path, to_string(volume.type.value)),
           {creation(path, volume)});
  }
  if (!group.volumes_listed) return;
  for (const auto& [path, device] : there)
    if (!wanted.contains(path))
      step('-', fmt::format("lv {} (its data is lost)", path),
           {{{"request", "lv.remove"}, {"lv", path}}}, true, path);
}

const json* Planner::running_group(const config::VolumeGroup& group) const {
  for (const json& each : groups_)
    if (each.value("name", "") == group.name.value) return &each;
  return nullptr;
}

uint64_t Planner::extent_of(const config::VolumeGroup& group) const {
  const json* running = running_group(group);
  return running ? running->value("extent_size", uint64_t{1}) : group.extent_size.value;
}

bool Planner::is_on_disk(const config::VolumeGroup& group,
                         const config::LogicalVolume& volume) const {
  const json* running = running_group(group);
  return running && std::ranges::any_of((*running)["logical_volumes"], [&](const json& each) {
           return each.value("name", "") == volume.name.value;
         });
}

json Planner::creation(const std::string& path, const config::LogicalVolume& volume) {
  using Unit = config::LvSize::Unit;
  json body{{"request", "lv.create"}, {"lv", path}};
  const config::LvSize& size = volume.size.value;
  const std::map<Unit, const char*> shares{{Unit::percent_free, "%FREE"},
                                           {Unit::percent_vg, "%VG"},
                                           {Unit::percent_pvs, "%PVS"},
                                           {Unit::percent_origin, "%ORIGIN"},
                                           {Unit::extents, ""}};
  if (const auto share = shares.find(size.unit); share != shares.end())
    body["extents"] = fmt::format("{}{}", size.value, share->second);
  else
    body["size"] = std::to_string(size.value);
  if (volume.type.value == config::LvType::snapshot) {
    body["origin"] = volume.origin.value;
    body["chunk_size"] = volume.chunk_size.value;
  } else {
    body["type"] = to_string(volume.type.value);
    if (volume.stripes.value > 1) {
      body["stripes"] = volume.stripes.value;
      body["stripe_size"] = volume.stripe_size.value;
    }
    if (volume.mirrors.value > 0) body["mirrors"] = volume.mirrors.value;
    if (volume.region_size) body["region_size"] = volume.region_size->value;
  }
  for (const auto& [key, list] :
       {std::pair{"pvs", &volume.physical_volumes}, std::pair{"tags", &volume.tags}})
    for (const config::Text& each : *list) body[key].push_back(each.value);
  if (volume.permission.value == config::Permission::read_only) body["readonly"] = true;
  return body;
}

void Planner::plan_resize(const std::string& path, const json& now,
                          const config::LogicalVolume& volume, uint64_t extent) {
  config::LvSize size = volume.size.value;
  if (size.unit == config::LvSize::Unit::extents) size = {size.value * extent};
  if (size.unit != config::LvSize::Unit::bytes || volume.type.value == config::LvType::snapshot)
    return;
  const auto before = now.value("size", uint64_t{0});
  const bool grows = before < size.value;
  const bool shrinks = before >= size.value + extent * std::max(1U, volume.stripes.value);
  if (!grows && !shrinks) return;
  ApplyStep step{
      '~',
      fmt::format("lv {}: {} instead of {}", path, short_bytes(static_cast<double>(size.value)),
                  short_bytes(static_cast<double>(before))),
      {{{"request", grows ? "lv.extend" : "lv.reduce"},
        {"lv", path},
        {"size", std::to_string(size.value)}}},
      shrinks,
      shrinks ? path : ""};
  if (shrinks) step.text += " (what is behind the new end is lost)";
  plan_.steps.push_back(std::move(step));
}

}  // namespace volfs::cli
