// SPDX-License-Identifier: GPL-2.0-or-later
#include "tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

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
    width_ = 4;
    for (const auto& [name, device] : by_name_)
      if ((*device)["devices"].empty()) measure(name, 0);
  }

  void print() {
    fmt::print("{:<{}}  {:<8}  {:>10}  {}\n", "NAME", width_, "KIND", "SIZE", "STATE");
    for (const auto& [name, device] : by_name_)
      if ((*device)["devices"].empty()) print(name, "", "");
  }

 private:
  void measure(const std::string& name, size_t indent) {
    if (indent > 400) return;
    width_ = std::max(width_, indent + name.size());
    if (!measured_.insert(name).second) return;
    for (const std::string& user : children(name)) measure(user, indent + 2);
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
    // The lines are of characters that take three bytes and one column.
    const size_t columns = (lead.empty() ? 0 : below.empty() ? 2 : columns_of(below)) + name.size();
    fmt::print("{}{}{:{}}  {:<8}  {:>10}  {}\n", lead, name, "",
               width_ > columns ? width_ - columns : 0, device.value("kind", ""),
               format_size_rounded(device.value("size", uint64_t{0})), state_of(device));
    if (!printed_.insert(name).second) return;
    const auto users = children(name);
    for (size_t i = 0; i < users.size(); ++i) {
      const bool last = i + 1 == users.size();
      print(users[i], below + (last ? "└─" : "├─"), below + (last ? "  " : "│ "));
    }
  }

  static size_t columns_of(const std::string& text) {
    size_t columns = 0;
    for (const char c : text) columns += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    return columns;
  }

  std::map<std::string, const json*> by_name_;
  std::set<std::string> measured_, printed_;
  size_t width_ = 0;
};

}  // namespace

std::string state_of(const json& device) {
  std::string state = device.value("state", "?");
  if (device.contains("map") && device["map"].value("suspended", false)) state += " suspended";
  if (device.value("read_only", false)) state += " ro";
  return state;
}

void print_tree(const json& status) {
  Tree(status).print();
}

}  // namespace volfs::cli
