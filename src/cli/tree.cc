// SPDX-License-Identifier: GPL-2.0-or-later
#include "tree.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "display.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

// As lsblk: what is at the bottom first, what stands on it below. A device that stands on
// several is shown under each, its own users only once.
class Tree {
 public:
  explicit Tree(const json& status) {
    for (const json& device : status["devices"]) by_name_[device.value("name", "")] = &device;
    for (const json& device : status["devices"]) note_members(device);
    for (const auto& [name, device] : by_name_) {
      type_width_ = std::max(type_width_, columns_of(type_of(*device)));
      if ((*device)["devices"].empty()) measure(name, 0);
    }
    // On a terminal long names give way to the columns behind them.
    constexpr size_t least = 20, behind = 40;
    const size_t rest = type_width_ + behind;
    if (isatty(STDOUT_FILENO) == 1)
      width_ = std::min(width_,
                        std::max(least, terminal_columns() > rest ? terminal_columns() - rest : 0));
  }

  void print() {
    fmt::print("{}  {}  {:>8}  {:>4}  {}\n", padded("NAME", width_), padded("TYPE", type_width_),
               "SIZE", "OPEN", "STATE");
    for (const auto& [name, device] : by_name_)
      if ((*device)["devices"].empty()) print(name, "", "");
  }

 private:
  // What an array makes of a member matters more than that its image can be read.
  void note_members(const json& device) {
    const json* const array = array_in(device);
    if (!array) return;
    for (const json& member : (*array)["members"])
      if (const std::string state = member.value("state", ""); state != "in_sync")
        roles_[member.value("device", "")] =
            fmt::format("{} in {}", state, device.value("name", ""));
  }

  void measure(const std::string& name, size_t indent) {
    if (indent > 400) return;
    width_ = std::max(width_, indent + columns_of(shown_name(name)));
    if (!measured_.insert(name).second) return;
    for (const std::string& user : children(name)) measure(user, indent + 2);
  }

  // A volume by the path of its file.
  std::string shown_name(const std::string& name) const {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? name : it->second->value("volume", name);
  }

  std::vector<std::string> children(const std::string& name) const {
    const auto it = by_name_.find(name);
    if (it == by_name_.end()) return {};
    return it->second->value("users", std::vector<std::string>{});
  }

  void print(const std::string& name, const std::string& lead, const std::string& below) {
    const auto it = by_name_.find(name);
    if (it == by_name_.end()) return;
    const json& device = *it->second;
    std::string state = state_of(device);
    if (const auto role = roles_.find(name); role != roles_.end()) state = role->second;
    const std::string open =
        device.contains("open") ? std::to_string(device.value("open", 0U)) : "";
    fmt::print(
        "{}  {}  {:>8}  {:>4}  {}\n",
        padded(lead + shown_name(name), width_, isatty(STDOUT_FILENO) == 1),
        padded(type_of(device), type_width_),
        short_bytes(static_cast<double>(device.value("size", uint64_t{0}))), open,
        coloured(shortened(state, room_behind(width_ + type_width_ + 20)), colour_of_state(state)));
    if (!printed_.insert(name).second) return;
    const auto users = children(name);
    for (size_t i = 0; i < users.size(); ++i) {
      const bool last = i + 1 == users.size();
      print(users[i], below + (last ? "└─" : "├─"), below + (last ? "  " : "│ "));
    }
  }

  std::map<std::string, const json*> by_name_;
  std::map<std::string, std::string> roles_;  // of members that are not in sync
  std::set<std::string> measured_, printed_;
  size_t width_ = 4, type_width_ = 4;
};

}  // namespace

std::string type_of(const json& device) {
  if (device.contains("array")) return device["array"].value("level", "array");
  std::string kind = device.value("kind", "");
  if (kind == "image" || !device.contains("map")) return kind;
  // The targets of its table, each once: "lv linear", "map striped,zero".
  std::string types;
  std::set<std::string> seen;
  std::istringstream rows(device["map"].value("table", ""));
  for (std::string row; std::getline(rows, row);) {
    std::istringstream words(row);
    std::string start, length, type;
    if (words >> start >> length >> type && seen.insert(type).second)
      types += (types.empty() ? "" : ",") + type;
  }
  if (kind == "snapshot" && seen.contains("snapshot")) return kind;
  if (seen.size() > 2) types = "mixed";
  return types.empty() ? kind : kind + " " + types;
}

std::string state_of(const json& device) {
  std::string state = device.value("state", "?");
  if (device.contains("map") && device["map"].value("suspended", false)) state += " suspended";
  if (device.value("read_only", false)) state += " ro";
  if (const std::string sync = sync_of(device); !sync.empty()) state += " " + sync;
  if (const uint64_t count =
          device.contains("raid") ? device["raid"].value("raid_mismatch_count", uint64_t{0}) : 0)
    state += fmt::format(" mismatches {}", count);
  return state;
}

const json* array_in(const json& device) {
  for (const char* const key : {"array", "raid"})
    if (const auto it = device.find(key); it != device.end()) return &*it;
  return nullptr;
}

std::string sync_of(const json& device) {
  const json* const array = array_in(device);
  if (!array) return {};
  const json& sync = (*array)["sync"];
  const std::string action = sync.value("action", "idle");
  if (action == "idle") return sync.value("pending", false) ? "sync pending" : "";
  const auto size = sync.value("size", uint64_t{0});
  const double part = size == 0 ? 0
                                : 100.0 * static_cast<double>(sync.value("position", uint64_t{0})) /
                                      static_cast<double>(size);
  return fmt::format("{} {:.1f}%", action, part);
}

void print_tree(const json& status) {
  Tree(status).print();
}

}  // namespace volfs::cli
