// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/graph.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "volfs/dm/mapped_device.h"

namespace volfs::engine {
namespace {

// What a loaded table names: it must be there when the table takes over.
std::vector<std::string> names_to_come(const Node& node) {
  const auto* map = dynamic_cast<const dm::MappedDevice*>(node.device.get());
  if (!map) return {};
  return map->deps(dm::MappedDevice::Which::inactive);
}

}  // namespace

std::string_view to_string(Health health) {
  constexpr std::string_view names[] = {"active", "degraded", "partial", "failed"};
  return names[static_cast<size_t>(health)];
}

std::string_view to_string(Kind kind) {
  switch (kind) {
    case Kind::image:
      return "image";
    case Kind::array:
      return "array";
    case Kind::map:
      return "map";
    case Kind::snapshot:
      return "snapshot";
    case Kind::logical_volume:
      return "lv";
  }
  return "?";
}

Graph::~Graph() {
  // From the top: a device may speak to those below while it goes.
  auto all = nodes();
  std::reverse(all.begin(), all.end());
  for (Node* node : all) {
    node->front.reset();
    node->device.reset();
  }
}

Result<Node*> Graph::add(std::string name, Kind kind, std::unique_ptr<BlockDevice> device) {
  const std::lock_guard lock(mutex_);
  if (nodes_.contains(name))
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", name)));
  auto node = std::make_unique<Node>();
  node->name = name;
  node->kind = kind;
  node->device = std::move(device);
  node->serial = next_serial_++;
  Node* raw = node.get();
  by_device_[raw->device.get()] = raw;
  nodes_.emplace(std::move(name), std::move(node));
  return raw;
}

void Graph::set_front(Node& node, std::unique_ptr<BlockDevice> front) {
  const std::lock_guard lock(mutex_);
  by_device_[front.get()] = &node;
  node.front = std::move(front);
}

Graph::Pin::~Pin() {
  if (!node_) return;
  const std::lock_guard lock(graph_.mutex_);
  if (--node_->pins == 0) graph_.unpinned_.notify_all();
}

Result<Graph::Pin> Graph::pin(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  Node* node = find_locked(name);
  if (!node) return fail(Error::make(ENOENT, fmt::format("{}: no such device", name)));
  ++node->pins;
  return Pin(*this, *node);
}

std::optional<Graph::Pin> Graph::pin(const BlockDevice& device) const {
  const std::lock_guard lock(mutex_);
  const auto it = by_device_.find(&device);
  if (it == by_device_.end()) return std::nullopt;
  ++it->second->pins;
  return Pin(*this, *it->second);
}

void Graph::set_leaving(Node& node, bool leaving) {
  const std::lock_guard lock(mutex_);
  node.leaving = leaving;
}

bool Graph::pinned(const Node& node) const {
  const std::lock_guard lock(mutex_);
  return node.pins > 0;
}

bool Graph::wait_unpinned(const Node& node, TimePoint deadline) const {
  const std::lock_guard lock(mutex_);
  return unpinned_.wait_until(mutex_, deadline, [&] { return node.pins == 0; });
}

Node* Graph::find_locked(std::string_view name) const {
  Node* found = nullptr;
  if (const auto it = nodes_.find(name); it != nodes_.end())
    found = it->second.get();
  else if (const auto alias = aliases_.find(name); alias != aliases_.end())
    found = alias->second;
  return found && !found->leaving ? found : nullptr;
}

Node* Graph::find(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  return find_locked(name);
}

void Graph::add_alias(std::string alias, Node& node) {
  const std::lock_guard lock(mutex_);
  aliases_[std::move(alias)] = &node;
}

void Graph::remove_alias(std::string_view alias) {
  const std::lock_guard lock(mutex_);
  if (const auto known = aliases_.find(alias); known != aliases_.end()) aliases_.erase(known);
}

Node* Graph::find(const BlockDevice& device) const {
  const std::lock_guard lock(mutex_);
  const auto it = by_device_.find(&device);
  return it == by_device_.end() ? nullptr : it->second;
}

std::vector<std::string> Graph::users_locked(const BlockDevice& device) const {
  const std::string name_below = device.name();
  const auto self = by_device_.find(&device);
  const Node* const itself = self == by_device_.end() ? nullptr : self->second;
  const BlockDevice* const front = itself ? itself->front.get() : nullptr;
  std::vector<const Node*> found;
  for (const auto& [name, node] : nodes_) {
    if (node.get() == itself) continue;
    bool uses = false;
    node->device->for_each_below(
        [&](BlockDevice& below) { uses |= &below == &device || (front && &below == front); });
    uses |= std::ranges::count(names_to_come(*node), name_below) > 0;
    if (uses) found.push_back(node.get());
  }
  std::ranges::sort(found, {}, &Node::serial);
  std::vector<std::string> names;
  for (const Node* node : found) names.push_back(node->name);
  return names;
}

std::vector<std::string> Graph::users(const BlockDevice& device) const {
  const std::lock_guard lock(mutex_);
  return users_locked(device);
}

std::unordered_map<const Node*, std::vector<std::string>> Graph::all_users() const {
  const std::lock_guard lock(mutex_);
  std::unordered_map<std::string, const Node*> by_name;  // as their devices call themselves
  std::vector<const Node*> by_age;
  for (const auto& [name, node] : nodes_) {
    by_name.emplace(node->device->name(), node.get());
    by_age.push_back(node.get());
  }
  std::ranges::sort(by_age, {}, &Node::serial);
  std::unordered_map<const Node*, std::vector<std::string>> users;
  for (const Node* node : by_age) {
    const auto stands_on = [&](const Node* below) {
      if (below == node) return;
      auto& names = users[below];
      if (names.empty() || names.back() != node->name) names.push_back(node->name);
    };
    node->device->for_each_below([&](BlockDevice& below) {
      if (const auto known = by_device_.find(&below); known != by_device_.end())
        stands_on(known->second);
    });
    for (const std::string& name : names_to_come(*node))
      if (const auto known = by_name.find(name); known != by_name.end()) stands_on(known->second);
  }
  return users;
}

// What stands directly below, now or once a loaded table takes over.
std::vector<const Node*> Graph::below_locked(const Node& node) const {
  std::vector<const Node*> found;
  node.device->for_each_below([&](BlockDevice& below) {
    if (const auto known = by_device_.find(&below); known != by_device_.end())
      found.push_back(known->second);
  });
  const auto to_come = names_to_come(node);
  for (const auto& [name, other] : nodes_)
    if (std::ranges::count(to_come, other->device->name()) > 0) found.push_back(other.get());
  return found;
}

std::vector<std::string> Graph::way_down(const Node& upper, const Node& lower) const {
  const std::lock_guard lock(mutex_);
  std::set<const Node*> visited;
  std::vector<std::string> way;
  const std::function<bool(const Node&)> leads = [&](const Node& node) {
    if (!visited.insert(&node).second) return false;
    way.push_back(node.name);
    if (&node == &lower) return true;
    for (const Node* below : below_locked(node))
      if (leads(*below)) return true;
    way.pop_back();
    return false;
  };
  leads(upper);
  return way;
}

Result<std::unique_ptr<Node>> Graph::take(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto it = nodes_.find(name);
  if (it == nodes_.end()) return fail(Error::make(ENOENT, fmt::format("{}: no such device", name)));
  if (const auto names = users_locked(*it->second->device); !names.empty())
    return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", name, fmt::join(names, ", "))));
  if (it->second->pins > 0)
    return fail(Error::make(EBUSY, fmt::format("{}: an operation on it is under way", name)));
  std::unique_ptr<Node> taken = std::move(it->second);
  by_device_.erase(taken->device.get());
  by_device_.erase(taken->front.get());
  std::erase_if(aliases_, [&](const auto& alias) { return alias.second == taken.get(); });
  nodes_.erase(it);
  return taken;
}

Status Graph::remove(std::string_view name) {
  VOLFS_TRY_ASSIGN(const auto taken, take(name));
  return {};
}

Status Graph::rename(std::string_view from, std::string_view to) {
  const std::lock_guard lock(mutex_);
  const auto it = nodes_.find(from);
  if (it == nodes_.end()) return fail(Error::make(ENOENT, fmt::format("{}: no such device", from)));
  if (nodes_.contains(to))
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", to)));
  auto handle = nodes_.extract(it);
  handle.key() = to;
  handle.mapped()->name = to;
  nodes_.insert(std::move(handle));
  return {};
}

std::vector<Node*> Graph::nodes() const {
  const std::lock_guard lock(mutex_);
  return nodes_locked();
}

// Depth first from every node, the oldest first: a live table may stand on a device that is
// younger than itself.
std::vector<Node*> Graph::nodes_locked() const {
  std::vector<Node*> by_age, all;
  for (const auto& [name, node] : nodes_) by_age.push_back(node.get());
  std::ranges::sort(by_age, {}, &Node::serial);
  std::set<const BlockDevice*> visited;
  const std::function<void(BlockDevice&)> visit = [&](BlockDevice& device) {
    if (!visited.insert(&device).second) return;
    device.for_each_below(visit);
    const auto it = by_device_.find(&device);
    if (it != by_device_.end() && it->second->device.get() == &device) all.push_back(it->second);
  };
  for (Node* node : by_age) visit(*node->device);
  return all;
}

}  // namespace volfs::engine
