// SPDX-License-Identifier: GPL-2.0-or-later
// What becomes of volume groups and their volumes.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "apply_fixed.h"
#include "apply_planner.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

std::string listed(const std::set<std::string>& words) {
  return words.empty() ? "none" : fmt::format("{}", fmt::join(words, ", "));
}

const json* volume_in(const json& group, const std::string& name) {
  for (const json& each : group["logical_volumes"])
    if (each.value("name", "") == name) return &each;
  return nullptr;
}

// The group that a device of a logical volume belongs to, by the uuid that lvm2 gives it.
bool belongs_to(const json& device, const json& group) {
  std::string prefix = "LVM-";
  for (const char c : group.value("uuid", ""))
    if (c != '-') prefix += c;
  return device.value("kind", "") == "lv" && device.value("uuid", "").starts_with(prefix);
}

// Where it may take room.
void put_place(json& body, const config::LogicalVolume& volume) {
  for (const config::Text& pv : volume.physical_volumes) body["pvs"].push_back(pv.value);
  if (volume.alloc.at.given()) body["alloc"] = word_of(volume.alloc.value);
}

}  // namespace

void Planner::plan(const config::VolumeGroup& group) {
  const json* running = running_group(group.name.value);
  if (!running) return plan_coming(group);
  plan_devices(group, *running);
  const size_t first = plan_.steps.size();
  if (group.volumes_listed) plan_lv_removals(group, *running);
  for (const config::LogicalVolume& volume : group.logical_volumes) plan(group, *running, volume);
  // Room is made before it is taken.
  const auto takes = [](const ApplyStep& each) {
    const std::string request = each.requests.front().value("request", "");
    return request == "lv.remove" ? 0 : request == "lv.reduce" ? 1 : request == "lv.create" ? 3 : 2;
  };
  std::ranges::stable_sort(plan_.steps.begin() + static_cast<std::ptrdiff_t>(first),
                           plan_.steps.end(), {}, takes);
}

// Snapshots before their origins; and what else stands on a volume has to go first.
void Planner::plan_lv_removals(const config::VolumeGroup& group, const json& running) {
  std::set<std::string> wanted;
  for (const config::LogicalVolume& volume : group.logical_volumes)
    wanted.insert(volume.name.value);
  for (const bool snapshots : {true, false})
    for (const json& each : running["logical_volumes"]) {
      const std::string name = each.value("name", "");
      if (wanted.contains(name) || each.contains("origin") != snapshots) continue;
      const std::string path = group.name.value + "/" + name;
      ApplyStep removal{'-',
                        fmt::format("lv {} (its data is lost)", path),
                        {{{"request", "lv.remove"}, {"lv", path}}},
                        true,
                        {path}};
      (standing_on(path).empty() ? plan_.steps : last_).push_back(std::move(removal));
    }
}

std::vector<std::string> Planner::standing_on(const std::string& path) const {
  std::vector<std::string> users;
  for (const auto& [name, device] : running_)
    if (device->value("volume", "") == path)
      for (const auto& user : device->value("users", std::vector<std::string>()))
        if (const auto at = running_.find(user);
            at != running_.end() && at->second->value("kind", "") != "lv")
          users.push_back(user);
  return users;
}

void Planner::plan_coming(const config::VolumeGroup& group) {
  const std::string& name = group.name.value;
  for (const config::PhysicalVolume& pv : group.physical_volumes)
    for (const json& each : groups_)
      if (const std::string owner = each.value("name", ""); is_pv_of(pv.device.value, owner))
        return problem(
            fmt::format("volume group {}: {} is a physical volume of {}; only lvm2 renames a group "
                        "(vgrename)",
                        name, pv.device.value, owner));
  json body{{"request", "vg.activate"},
            {"vg", name},
            {"devices", json::array()},
            {"activation", word_of(group.activation.value)}};
  for (const config::PhysicalVolume& pv : group.physical_volumes)
    body["devices"].push_back(pv.device.value);
  if (group.readonly.value) body["readonly"] = true;
  for (const config::LogicalVolume& volume : group.logical_volumes) {
    if (!volume.active.value) body["inactive"].push_back(volume.name.value);
    if (volume.hidden.value) body["hidden"].push_back(volume.name.value);
  }
  std::string text =
      fmt::format("volume group {}: on {} (with the volumes that its devices tell of)", name,
                  fmt::join(body["devices"].get<std::vector<std::string>>(), ", "));
  step('+', std::move(text), {std::move(body)});
}

void Planner::plan_devices(const config::VolumeGroup& group, const json& running) {
  const std::string& name = group.name.value;
  std::set<std::string> there, wanted;
  bool misses = false;
  for (const json& pv : running["physical_volumes"]) {
    if (pv["device"].is_string())
      there.insert(pv["device"]);
    else
      misses = true;
  }
  std::vector<std::string> coming;
  for (const config::PhysicalVolume& pv : group.physical_volumes) {
    wanted.insert(pv.device.value);
    if (!there.contains(pv.device.value)) coming.push_back(pv.device.value);
  }
  for (const std::string& device : there)
    if (!wanted.contains(device))
      problem(
          fmt::format("volume group {}: {} is a physical volume of it and not in the "
                      "definition; only lvm2 takes one away (vgreduce)",
                      name, device));
  if (coming.empty()) return;
  const std::string list = fmt::format("{}", fmt::join(coming, ", "));
  if (!misses)
    return problem(
        fmt::format("volume group {}: {} of the definition is no physical volume of "
                    "it; only lvm2 adds one (vgextend)",
                    name, list));
  step('~', fmt::format("volume group {}: with {}, which it misses", name, list),
       {{{"request", "vg.activate"}, {"vg", name}, {"devices", coming}}});
}

void Planner::plan(const config::VolumeGroup& group, const json& running,
                   const config::LogicalVolume& volume) {
  const std::string path = group.name.value + "/" + volume.name.value;
  const json* on_disk = volume_in(running, volume.name.value);
  if (!on_disk) {
    if (volume.hidden.value)
      return problem(
          fmt::format("lv {}: is hidden and not on the disks; `volfs create` makes it, "
                      "which takes a new mount",
                      path));
    if (volume.active.value)
      step('+', fmt::format("lv {}: {}", path, to_string(volume.type.value)),
           {creation(path, volume)});
    else
      problem(
          fmt::format("lv {}: is neither active nor on the disks; `volfs create` makes it, "
                      "which takes a new mount",
                      path));
    return;
  }
  plan_changes(path, *on_disk, volume);
  plan_resize(path, *on_disk, volume, running.value("extent_size", uint64_t{1}));
  plan_file(group, path, *on_disk, volume);
}

bool Planner::is_shown(const std::string& path) const {
  return std::ranges::any_of(
      running_, [&](const auto& each) { return each.second->value("volume", "") == path; });
}

void Planner::plan_file(const config::VolumeGroup& group, const std::string& path, const json& now,
                        const config::LogicalVolume& volume) {
  const bool shown = is_shown(path);
  const bool wanted = volume.active.value;
  if (now.contains("origin")) {
    const std::string origin = now.value("origin", "");
    const bool goes = std::ranges::any_of(group.logical_volumes, [&](const auto& each) {
      return each.name.value == origin && !each.active.value;
    });
    const bool comes = !is_shown(group.name.value + "/" + origin) && wanted;
    if (shown != wanted && !goes && !comes)
      problem(fmt::format("lv {}: a snapshot comes and goes with its origin, {}", path, origin));
    return;
  }
  if (shown && !wanted)
    step('-', fmt::format("lv {}: its file (the volume stays)", path),
         {{{"request", "lv.deactivate"}, {"lv", path}}}, false, path);
  else if (!shown && wanted && !now.value("hidden", false))
    step('+', fmt::format("lv {}: its file", path), {{{"request", "lv.activate"}, {"lv", path}}});
}

void Planner::plan_changes(const std::string& path, const json& now,
                           const config::LogicalVolume& volume) {
  json body{{"request", "lv.change"}, {"lv", path}};
  std::string text;
  const auto there = now["tags"].get<std::set<std::string>>();
  const auto wanted = volume.tags_listed ? texts_of(volume.tags) : there;
  for (const std::string& tag : wanted)
    if (!there.contains(tag)) body["add_tags"].push_back(tag);
  for (const std::string& tag : there)
    if (!wanted.contains(tag)) body["remove_tags"].push_back(tag);
  if (wanted != there) text = fmt::format("tags {} instead of {}", listed(wanted), listed(there));
  // What a definition does not say is as it is found.
  const bool writable = volume.permission.value == config::Permission::read_write;
  if (volume.permission.at.given() && writable != now["writable"]) {
    body["permission"] = writable ? "rw" : "r";
    text += fmt::format("{}{}", text.empty() ? "" : ", ", writable ? "writable" : "read-only");
  }
  if (!text.empty()) step('~', fmt::format("lv {}: {}", path, text), {std::move(body)});
}

const json* Planner::running_group(const std::string& name) const {
  for (const json& each : groups_)
    if (each.value("name", "") == name) return &each;
  return nullptr;
}

void Planner::note_leaving() {
  std::set<std::string> wanted;
  for (const config::VolumeGroup& group : definition_.volume_groups)
    wanted.insert(group.name.value);
  for (const json& group : groups_) {
    const std::string name = group.value("name", "");
    if (wanted.contains(name)) continue;
    const auto devices = static_cast<size_t>(std::ranges::count_if(
        running_, [&](const auto& each) { return belongs_to(*each.second, group); }));
    if (devices > 0)
      leaving_[name] = {devices, false};
    else
      leave(name);
  }
}

bool Planner::is_pv_of(const std::string& device, const std::string& group) const {
  const json* running = running_group(group);
  return running && std::ranges::any_of((*running)["physical_volumes"],
                                        [&](const json& pv) { return pv["device"] == device; });
}

void Planner::plan_leaving(const json& device, bool& holds) {
  for (auto& [name, leaving] : leaving_) {
    const json* const group = running_group(name);
    if (!group || !belongs_to(device, *group)) continue;
    holds = leaving.holds |= holds;
    if (--leaving.left == 0) leave(name);
    return;
  }
  holds = true;
}

void Planner::leave(const std::string& group) {
  step('-', fmt::format("volume group {}: its files (the volumes stay)", group),
       {{{"request", "vg.deactivate"}, {"vg", group}}});
  for (const auto& [name, device] : running_)
    if (const std::string path = device->value("volume", ""); path.starts_with(group + "/"))
      plan_.steps.back().volumes.push_back(path);
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
  for (const config::Text& tag : volume.tags) body["tags"].push_back(tag.value);
  if (volume.permission.value == config::Permission::read_only) body["readonly"] = true;
  if (volume.nosync.value) body["nosync"] = true;
  put_place(body, volume);
  return body;
}

void Planner::plan_resize(const std::string& path, const json& now,
                          const config::LogicalVolume& volume, uint64_t extent) {
  config::LvSize size = volume.size.value;
  if (size.unit == config::LvSize::Unit::extents) size = {size.value * extent};
  if (size.unit != config::LvSize::Unit::bytes) return;
  // Whole stripes, as where a volume is made.
  const uint64_t step_size = extent * std::max(uint64_t{1}, now.value("stripes", uint64_t{1}));
  size.value = round_up(size.value, step_size);
  const uint64_t before = now.value("extents", uint64_t{0}) * extent;
  const bool grows = before < size.value;
  const bool shrinks = before > size.value;
  if (!grows && !shrinks) return;
  std::string text =
      fmt::format("lv {}: {} instead of {}", path, format_size(size.value), format_size(before));
  if (shrinks && volume.type.value == config::LvType::snapshot)
    return problem(text + ": the store of a snapshot does not become smaller");
  if (shrinks) text += " (what is behind the new end is lost)";
  json body{{"request", grows ? "lv.extend" : "lv.reduce"},
            {"lv", path},
            {"size", std::to_string(size.value)}};
  if (grows) put_place(body, volume);
  step('~', std::move(text), {std::move(body)}, shrinks, shrinks ? path : "");
  if (!shrinks || standing_on(path).empty()) return;
  last_.push_back(std::move(plan_.steps.back()));
  plan_.steps.pop_back();
}

}  // namespace volfs::cli
