// SPDX-License-Identifier: GPL-2.0-or-later
#include "apply_plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include "apply_fixed.h"
#include "apply_planner.h"
#include "volfs/backing/file_identity.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

}  // namespace

bool same_file(const std::string& one, const std::string& other) {
  const auto identity = FileIdentity::at(one);
  return identity ? identity == FileIdentity::at(other) : one == other;
}

std::string absolute(const std::string& directory, const std::string& path) {
  return path.starts_with('/') ? path : directory + "/" + path;
}

Planner::Planner(const config::Definition& definition, const std::string& directory,
                 const json& status, const CheckTable& check)
    : definition_(definition),
      directory_(directory),
      status_(status),
      groups_(status.value("volume_groups", json::array())),
      check_(check) {
  for (const json& device : status["devices"]) {
    running_[device.value("name", "")] = &device;
    order_.push_back(device.value("name", ""));
  }
  read_only_ = status.value("read_only", false);
  for (const config::Snapshot& snapshot : definition.snapshots) {
    origins_.insert(snapshot.origin.value);
    known_.insert(snapshot.name.value);
    known_.insert(snapshot.name.value + "-cow");
    wanted_.insert(snapshot.name.value);
  }
  for (const config::Array& array : definition.arrays) wanted_.insert(array.name.value);
  for (const config::Map& map : definition.maps) wanted_.insert(map.name.value);
}

ApplyPlan Planner::run() {
  for (const config::Item& item : definition_.build_order) {
    switch (item.kind) {
      case config::DeviceKind::image:
        plan(definition_.images[item.index]);
        break;
      case config::DeviceKind::array:
        plan(definition_.arrays[item.index]);
        break;
      case config::DeviceKind::volume_group:
        plan(definition_.volume_groups[item.index]);
        break;
      case config::DeviceKind::snapshot:
        plan(definition_.snapshots[item.index]);
        break;
      case config::DeviceKind::map:
        plan(definition_.maps[item.index]);
        break;
    }
  }
  for (std::string& text : fixed_differences(definition_, status_)) problem(std::move(text));
  std::vector<ApplyStep> kept = std::exchange(plan_.steps, {});
  note_leaving();
  first_ = std::exchange(plan_.steps, {});
  // What is on top goes first.
  for (auto name = order_.rbegin(); name != order_.rend(); ++name) pass(*name);
  std::vector<ApplyStep> after = std::exchange(plan_.steps, std::move(first_));
  std::ranges::move(kept, std::back_inserter(plan_.steps));
  std::ranges::move(after, std::back_inserter(plan_.steps));
  for (ApplyStep& each : last_) plan_last(std::move(each));
  return std::move(plan_);
}

// What takes away from a volume that others stand on: only if they go.
void Planner::plan_last(ApplyStep each) {
  const std::string path = each.requests.front().value("lv", "");
  for (const std::string& user : standing_on(path))
    if (known_.contains(user)) return problem(fmt::format("{}: {} stands on it", each.text, user));
  plan_.steps.push_back(std::move(each));
}

const json* Planner::find(const std::string& name) {
  known_.insert(name);
  const auto it = running_.find(name);
  const auto real = running_.find(name + "-real");
  if (real != running_.end() &&
      (origins_.contains(name) ||
       (it != running_.end() && row_of(*it->second, "snapshot-origin")[3] == name + "-real"))) {
    known_.insert(name + "-real");
    return real->second;
  }
  return it == running_.end() ? nullptr : it->second;
}

bool Planner::is(const json& device, const char* kind, const std::string& name) {
  if (device.value("kind", "") == kind) return true;
  problem(
      fmt::format("{}: is a {} on the mount and {} in the definition; a device cannot "
                  "become another kind",
                  name, device.value("kind", "device"), kind));
  return false;
}

void Planner::plan(const config::Image& image) {
  const std::string path = absolute(directory_, image.path.value);
  const json* now = find(image.name.value);
  if (!now) {
    for (const auto& [name, device] : running_) {
      const json given = device->value("given", json::object());
      if (device->value("kind", "") == "image" && same_file(given.value("path", ""), path) &&
          given.value("partition", 0U) == (image.partition ? image.partition->value : 0) &&
          given.value("offset", uint64_t{0}) == image.offset.value)
        return problem(fmt::format("image {}: {} is image {} on the mount; a device keeps its name",
                                   image.name.value, path, name));
    }
    if (access(path.c_str(), F_OK) != 0)
      return problem(fmt::format("image {}: {}: {}", image.name.value, path, std::strerror(errno)));
    json body{{"request", "mount.add_image"}, {"image", image.name.value}, {"path", path}};
    if (image.readonly.value) body["readonly"] = true;
    if (image.direct && image.direct->value) body["direct"] = true;
    if (image.partition) body["partition"] = image.partition->value;
    if (image.offset.value > 0) body["offset"] = image.offset.value;
    if (image.length) body["length"] = image.length->value;
    if (image.pad) body["pad"] = image.pad->value;
    body["activate"] = false;  // the definition says which groups there are
    step('+', fmt::format("image {}: {}", image.name.value, path), {std::move(body)});
    return;
  }
  if (!is(*now, "image", image.name.value)) return;
  const std::string before =
      now->contains("given") ? (*now)["given"].value("path", "") : now->value("path", "");
  if (!same_file(before, path))
    problem(fmt::format("image {}: is {} on the mount; remove it or mount anew to make it {}",
                        image.name.value, before, path));
}

void Planner::pass(const std::string& name) {
  const auto at = running_.find(name);
  if (at == running_.end() || !passed_.insert(name).second) return;
  bool holds = false;  // whether something stays on it, if only until that has another table
  const auto above = [&](const std::string& user) {
    pass(user);
    holds |= holding_.contains(user);
  };
  for (const auto& user : at->second->value("users", std::vector<std::string>())) above(user);
  // A group has all its devices, whether volumes lie on them or not.
  for (const auto& [group, leaving] : leaving_)
    if (is_pv_of(name, group))
      for (const auto& [each, device] : running_)
        if (device->value("kind", "") == "lv") above(each);
  std::vector<ApplyStep> earlier = std::exchange(plan_.steps, {});
  plan_removal(name, holds);
  if (holds) holding_.insert(name);
  std::vector<ApplyStep>& into = holds ? earlier : first_;
  std::ranges::move(plan_.steps, std::back_inserter(into));
  plan_.steps = std::move(earlier);
}

void Planner::plan_removal(const std::string& name, bool& holds) {
  const json& device = *running_.at(name);
  const std::string kind = device.value("kind", "");
  if (kind == "lv") return plan_leaving(device, holds);
  if (known_.contains(name)) {
    holds = true;
    return;
  }
  if (device.value("internal", false)) return;
  // The store that a snapshot has to itself goes with it.
  if (constexpr std::string_view store = "-cow"; kind == "image" && name.ends_with(store)) {
    const auto owner = running_.find(name.substr(0, name.size() - store.size()));
    if (owner != running_.end() && owner->second->value("kind", "") == "snapshot") return;
  }
  if (kind == "map")
    step('-', "map " + name, {{{"request", "map.remove"}, {"map", name}}}, false,
         device.value("volume", ""));
  else if (kind == "array")
    step('-', "array " + name, {{{"request", "array.stop"}, {"array", name}}}, false,
         device.value("volume", ""));
  else if (kind == "image")
    step('-', "image " + name, {{{"request", "mount.remove_image"}, {"image", name}}});
  else if (kind == "snapshot")
    step('-', fmt::format("snapshot {} (what it keeps is lost)", name),
         {{{"request", "snapshot.remove"}, {"snapshot", name}}}, true, device.value("volume", ""));
}

ApplyPlan plan_apply(const config::Definition& definition, const std::string& directory,
                     const json& status, const CheckTable& check) {
  return Planner(definition, directory, status, check).run();
}

}  // namespace volfs::cli
