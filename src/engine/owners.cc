// SPDX-License-Identifier: GPL-2.0-or-later
#include "owners.h"

#include <fmt/format.h>

#include "snapshot_parts.h"

namespace volfs::engine {

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
  // Also one without any volume, on whose devices nothing stands.
  for (const auto& group : engine.volume_groups())
    for (const std::string& device : group->devices())
      if (!device.empty() && graph.find(device) == &node)
        return fmt::format("volume group '{}'", group->name());
  return "";
}

}  // namespace volfs::engine
