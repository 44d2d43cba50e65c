// SPDX-License-Identifier: GPL-2.0-or-later
// What becomes of arrays.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>

#include "apply_planner.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

// What becomes of the members of a running array. Which device is in which slot is of no account,
// only who serves, who is a spare and who is neither; the definition's order pairs those who go
// with those who come in their place.
class MemberPlan {
 public:
  MemberPlan(const config::Array& array, const json& device)
      : array_(array), name_(device.value("name", "")), devices_(array.devices) {
    for (const config::ArrayDevice& each : devices_)
      if (!each.missing) active_.insert(each.device.value);
    for (const config::ArrayDevice& each : array.spares)
      if (!each.missing) spares_.insert(each.device.value);
    for (const json& each : device["array"]["members"]) {
      const std::string member = each.value("device", ""), state = each.value("state", "");
      state_[member] = state;
      const size_t slot = each.value("slot", devices_.size());
      if (state == "faulty" || slot >= devices_.size()) continue;
      (each.value("replacement", false) ? replacing_ : serving_)[slot] = member;
    }
  }

  ApplyPlan run() {
    pair();
    for (const auto& [slot, with] : pairs_) replace(slot, with);
    for (const std::set<std::string>* wanted : {&active_, &spares_})
      for (const std::string& member : *wanted) bring(member);
    for (const auto& [member, state] : state_) take_out(member);
    return std::move(plan_);
  }

 private:
  bool serves(const std::string& device) const {
    return std::ranges::any_of(serving_, [&](const auto& each) { return each.second == device; });
  }
  bool wanted(const std::string& device) const {
    return active_.contains(device) || spares_.contains(device);
  }
  bool is(const std::string& device, const char* state) const {
    const auto at = state_.find(device);
    return at != state_.end() && at->second == state;
  }
  json request(const char* which, const std::string& device) const {
    return {{"request", which}, {"array", name_}, {"device", device}};
  }
  void step(char mark, const std::string& text, std::vector<json> requests, bool overwrites) {
    plan_.steps.push_back({mark,
                           fmt::format("array {}: member {}", array_.name.value, text),
                           std::move(requests),
                           overwrites,
                           {}});
  }

  // Slots whose member is to go, or to be a spare, with who is to serve there: who replaces it
  // already, who has its place in the definition, or whoever is left.
  void pair() {
    std::map<size_t, std::string> leaving;
    for (const auto& [slot, member] : serving_)
      if (!active_.contains(member) && !devices_[slot].missing &&
          (is(member, "in_sync") || spares_.contains(member)))
        leaving[slot] = member;
    std::set<std::string> free = active_;
    for (const auto& [slot, member] : serving_) free.erase(member);
    for (const auto& [slot, member] : replacing_) {
      if (free.contains(member) && leaving.contains(slot)) take(slot, member, leaving);
      if (free.erase(member) > 0 && !pairs_.contains(slot))
        plan_.problems.push_back(fmt::format(
            "array {}: {} is just replacing {}, and the definition has both: apply it again when "
            "that is done",
            array_.name.value, member, serving_[slot]));
    }
    for (const bool own : {true, false})
      for (size_t slot = 0; slot < devices_.size(); ++slot) {
        const std::string& member = devices_[slot].device.value;
        if (devices_[slot].missing || !free.contains(member)) continue;
        if (own && !leaving.contains(slot)) continue;
        if (!own && (leaving.empty() || !serving_.contains(slot))) continue;
        take(own ? slot : leaving.begin()->first, member, leaving);
        free.erase(member);
      }
  }
  void take(size_t slot, const std::string& with, std::map<size_t, std::string>& leaving) {
    pairs_[slot] = with;
    leaving.erase(slot);
  }

  // The member serves until the other has all it has; so it does where that has begun already.
  void replace(size_t slot, const std::string& with) {
    const std::string old = serving_[slot];
    const auto by = replacing_.find(slot);
    const bool begun = by != replacing_.end() && by->second == with;
    const bool spare = is(with, "spare");
    std::vector<json> requests;
    std::string text = fmt::format("{} instead of {}", with, old);
    if (begun) {
      text += ", which it is replacing already";
    } else {
      requests = coming(with);
      if (!is(old, "in_sync")) requests.push_back({{"request", "array.wait"}, {"array", name_}});
      requests.push_back(request("array.replace", old));
      requests.back()["with"] = with;
      if (by != replacing_.end()) take_out(by->second, requests);
      text += spare ? ", a spare" : fmt::format(" (what is on {} is overwritten)", with);
    }
    requests.push_back({{"request", "array.wait"}, {"array", name_}});
    requests.push_back(request("array.remove", old));
    if (spares_.contains(old)) {
      requests.push_back(request("array.add", old));
      text += fmt::format("; {} becomes a spare", old);
    }
    step('~', text, std::move(requests), !begun && !spare);
    done_.insert({old, with});
  }

  // What makes a spare of it.
  std::vector<json> coming(const std::string& member) const {
    std::vector<json> requests;
    if (is(member, "faulty")) requests.push_back(request("array.remove", member));
    if (!state_.contains(member) || is(member, "faulty"))
      requests.push_back(request("array.add", member));
    return requests;
  }

  void bring(const std::string& member) {
    std::vector<json> requests = coming(member);
    if (requests.empty() || !done_.insert(member).second) return;
    if (is(member, "faulty"))
      step('~', member + " anew, which has failed (what is on it is overwritten)",
           std::move(requests), true);
    else
      step('+', member + " (what is on it is overwritten)", std::move(requests), true);
  }

  void take_out(const std::string& member, std::vector<json>& requests) {
    requests.push_back(request("array.fail", member));
    requests.push_back(request("array.remove", member));
    if (wanted(member)) requests.push_back(request("array.add", member));
    done_.insert(member);
  }
  void take_out(const std::string& member) {
    if (wanted(member) || done_.contains(member)) return;
    std::vector<json> requests;
    take_out(member, requests);
    step('-', member, std::move(requests), true);
  }

  const config::Array& array_;
  const std::string name_;
  const std::vector<config::ArrayDevice>& devices_;
  std::set<std::string> active_, spares_;
  std::map<std::string, std::string> state_;           // by device
  std::map<size_t, std::string> serving_, replacing_;  // by slot
  std::map<size_t, std::string> pairs_;                // who is to serve there
  std::set<std::string> done_;
  ApplyPlan plan_;
};

}  // namespace

void Planner::plan(const config::Array& array) {
  const std::string& name = array.name.value;
  const json* now = find(name);
  if (!now) return plan_assembly(array);
  if (!is(*now, "array", name)) return;
  const config::ArrayLevel level = array.level.value;
  if (const std::string found = (*now)["array"].value("level", ""); found != to_string(level))
    return problem(fmt::format("array {}: is a {} on the mount and a {} in the definition", name,
                               found, to_string(level)));
  const auto slots = (*now)["array"].value("raid_disks", size_t{0});
  if (slots != array.devices.size())
    return problem(
        fmt::format("array {}: has {} slots on the mount and {} in the definition; "
                    "arrays are not grown or reshaped",
                    name, slots, array.devices.size()));
  ApplyPlan members = MemberPlan(array, *now).run();
  if (!members.steps.empty() && now->value("read_only", false))
    problem(fmt::format("array {}: is read-only: its members stay as they are", name));
  if (!members.steps.empty() &&
      (level == config::ArrayLevel::raid0 || level == config::ArrayLevel::linear))
    problem(fmt::format("array {}: a {} has no members that come and go", name, to_string(level)));
  std::ranges::move(members.problems, std::back_inserter(plan_.problems));
  plan_speeds(array, (*now)["array"]);
  std::ranges::move(members.steps, std::back_inserter(plan_.steps));
  for (const config::ArrayDevice& spare : array.spares) known_.insert(spare.device.value);
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
  if (min > max)
    return problem(
        fmt::format("array {}: cannot be synced by {} to {} a second: one of them is so "
                    "on the mount",
                    array.name.value, format_size(min), format_size(max)));
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
