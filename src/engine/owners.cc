// SPDX-License-Identifier: GPL-2.0-or-later
#include "owners.h"

#include <fmt/format.h>

#include "snapshot_parts.h"

namespace volfs::engine {

namespace {

// What lvm2 calls an inner volume, and any other that volumes of its own group are made of.
std::string volume_above(const Graph& graph, const Node& node) {
  if (node.kind != Kind::logical_volume) return "";
  for (const std::string& name : graph.users(node.shown())) {
    const auto user = graph.pin(name);
    if (user && (*user)->kind == Kind::logical_volume)
      return fmt::format("logical volume '{}'", name);
  }
  return node.internal ? "the volume group whose inner volume it is" : "";
}

}  // namespace

std::string owner_of(Engine& engine, const Node& node) {
  const Graph& graph = engine.graph();
  for (const std::string& name : graph.users(node.shown())) {
    const auto user = graph.pin(name);
    if (!user) continue;
    if ((*user)->kind == Kind::array) return fmt::format("array '{}'", name);
    if ((*user)->kind != Kind::snapshot) continue;
    if (const auto snapshot = find_snapshot(graph, name); snapshot && snapshot->store == &node)
      return fmt::format("snapshot '{}'", name);
  }
  const std::string group = group_of(engine, node);
  return group.empty() ? volume_above(graph, node) : group;
}

// Also one without any volume, on whose devices nothing stands.
std::string group_of(Engine& engine, const Node& node) {
  for (const auto& group : engine.volume_groups())
    for (const std::string& device : group->devices())
      if (!device.empty() && engine.graph().find(device) == &node)
        return fmt::format("volume group '{}'", group->name());
  return "";
}

}  // namespace volfs::engine
