// SPDX-License-Identifier: GPL-2.0-or-later
// What becomes of arrays.
#include <fmt/format.h>

#include "apply_planner.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

}  // namespace

void Planner::plan(const config::Array& array) {
  const std::string& name = array.name.value;
  const json* now = find(name);
  if (!now) return plan_assembly(array);
  if (!is(*now, "array", name)) return;
  if (const std::string level = (*now)["array"].value("level", "");
      level != to_string(array.level.value))
    return problem(fmt::format("array {}: is a {} on the mount and a {} in the definition", name,
                               level, to_string(array.level.value)));
  const auto slots = (*now)["array"].value("raid_disks", size_t{0});
  if (slots != array.devices.size())
    return problem(
        fmt::format("array {}: has {} slots on the mount and {} in the definition; "
                    "arrays are not grown or reshaped",
                    name, slots, array.devices.size()));
  std::set<std::string> wanted, there;
  for (const auto* list : {&array.devices, &array.spares})
    for (const config::ArrayDevice& each : *list)
      if (!each.missing) wanted.insert(each.device.value);
  for (const json& member : (*now)["array"]["members"]) there.insert(member.value("device", ""));
  const std::string device = now->value("name", name);
  plan_replacements(array, *now, wanted, there);
  plan_speeds(array, (*now)["array"]);
  for (const std::string& member : wanted)
    if (!there.contains(member))
      step('+', fmt::format("array {}: member {} (what is on it is overwritten)", name, member),
           {{{"request", "array.add"}, {"array", device}, {"device", member}}}, true);
  for (const std::string& member : there)
    if (!wanted.contains(member))
      step('-', fmt::format("array {}: member {}", name, member),
           {{{"request", "array.fail"}, {"array", device}, {"device", member}},
            {{"request", "array.remove"}, {"array", device}, {"device", member}}},
           true);
  for (const config::ArrayDevice& spare : array.spares) known_.insert(spare.device.value);
}

void Planner::plan_replacements(const config::Array& array, const json& now,
                                std::set<std::string>& wanted, std::set<std::string>& there) {
  const std::string device = now.value("name", "");
  std::set<std::string> spares;
  for (const json& member : now["array"]["members"])
    if (member.value("state", "") == "spare") spares.insert(member.value("device", ""));
  for (const json& member : now["array"]["members"]) {
    const std::string old = member.value("device", "");
    const size_t slot = member.value("slot", array.devices.size());
    if (slot >= array.devices.size() || wanted.contains(old) ||
        member.value("state", "") != "in_sync")
      continue;
    const config::ArrayDevice& other = array.devices[slot];
    const std::string& with = other.device.value;
    const bool spare = spares.contains(with);
    if (other.missing || (there.contains(with) && !spare)) continue;
    std::vector<json> requests;
    if (!spare) requests.push_back({{"request", "array.add"}, {"array", device}, {"device", with}});
    requests.push_back(
        {{"request", "array.replace"}, {"array", device}, {"device", old}, {"with", with}});
    requests.push_back({{"request", "array.wait"}, {"array", device}});
    requests.push_back({{"request", "array.remove"}, {"array", device}, {"device", old}});
    const std::string lost =
        spare ? ", a spare" : fmt::format(" (what is on {} is overwritten)", with);
    step('~', fmt::format("array {}: member {} instead of {}{}", array.name.value, with, old, lost),
         std::move(requests), !spare);
    if (!spare) wanted.erase(with);
    there.erase(old);
  }
}

json Planner::speeds(const config::Array& array) {
  json body{{"request", "array.speed"}, {"array", array.name.value}};
  if (array.sync_speed_min) body["min"] = array.sync_speed_min->value;
  if (array.sync_speed_max) body["max"] = array.sync_speed_max->value;
  return body;
}

void Planner::plan_speeds(const config::Array& array, const json& running) {
  const json body = speeds(array);
  const auto wanted = [&](const char* key, const char* now) {
    return body.value(key, running.value(now, uint64_t{0}));
  };
  const uint64_t min = wanted("min", "sync_speed_min"), max = wanted("max", "sync_speed_max");
  if (min == running["sync_speed_min"] && max == running["sync_speed_max"]) return;
  step('~',
       fmt::format("array {}: synced by {} to {} a second", array.name.value, format_size(min),
                   format_size(max)),
       {body});
}

void Planner::plan_assembly(const config::Array& array) {
  json body{{"request", "array.assemble"},
            {"array", array.name.value},
            {"devices", json::array()},
            {"force", array.force.value},
            {"readonly", array.readonly.value}};
  for (const auto* list : {&array.devices, &array.spares})
    for (const config::ArrayDevice& each : *list)
      if (!each.missing) body["devices"].push_back(each.device.value);
  body["activate"] = false;  // the definition says which groups there are
  std::vector<json> requests{body};
  if (array.sync_speed_min || array.sync_speed_max) requests.push_back(speeds(array));
  step('+', fmt::format("array {}: of {} devices", array.name.value, body["devices"].size()),
       std::move(requests));
}

}  // namespace volfs::cli
