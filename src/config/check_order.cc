// SPDX-License-Identifier: GPL-2.0-or-later
// In which order devices are built, and what can never be built because it needs itself.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "checks.h"
#include "graph.h"

namespace volfs::config {
namespace {

// Numbers the items of a definition through, kind after kind.
class Numbering {
 public:
  explicit Numbering(const Definition& definition) {
    const std::array<size_t, 5> counts{definition.images.size(), definition.arrays.size(),
                                       definition.volume_groups.size(), definition.snapshots.size(),
                                       definition.maps.size()};
    size_t next = 0;
    for (size_t kind = 0; kind < counts.size(); ++kind) {
      first_[kind] = next;
      for (size_t i = 0; i < counts[kind]; ++i, ++next) {
        items_.push_back({static_cast<DeviceKind>(kind), i});
        names_.push_back(&name(definition, items_.back()));
      }
    }
  }

  size_t size() const { return items_.size(); }
  size_t number(Item item) const { return first_[static_cast<size_t>(item.kind)] + item.index; }
  Item item(size_t number) const { return items_[number]; }
  const Text& name(size_t number) const { return *names_[number]; }

  // The numbers in the order of the file, so that what is told of a cycle begins where it does.
  std::vector<size_t> by_place() const {
    std::vector<size_t> order(size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return names_[a]->at < names_[b]->at; });
    return order;
  }

 private:
  static const Text& name(const Definition& definition, Item item) {
    switch (item.kind) {
      case DeviceKind::image:
        return definition.images[item.index].name;
      case DeviceKind::array:
        return definition.arrays[item.index].name;
      case DeviceKind::volume_group:
        return definition.volume_groups[item.index].name;
      case DeviceKind::snapshot:
        return definition.snapshots[item.index].name;
      case DeviceKind::map:
        break;
    }
    return definition.maps[item.index].name;
  }

  std::array<size_t, 5> first_{};
  std::vector<Item> items_;
  std::vector<const Text*> names_;
};

bool check_cycles(Context& context, const Numbering& numbering, const std::vector<Use>& uses) {
  Graph graph;
  for (size_t i = 0; i < numbering.size(); ++i) graph.add_node(numbering.name(i).value);
  for (const Use& use : uses)
    if (use.target != nullptr)
      graph.add_edge(numbering.number(use.user),
                     {numbering.number(use.target->item), use.name->at});
  bool good = true;
  std::vector<size_t> height(graph.size(), 0);
  graph.walk(
      numbering.by_place(),
      [&](const Graph::Cycle& cycle) {
        good = false;
        if (context.diagnostics.full()) return;
        context.report(cycle.edges.back()->at, "cycle " + graph.describe(cycle),
                       "devices that do not build on themselves");
      },
      [&](size_t node) {
        for (const Graph::Edge& edge : graph.edges(node))
          height[node] = std::max(height[node], height[edge.to]);
        ++height[node];
      });
  // Heights mean nothing while there are cycles. Of what is too high only the lowest is told, not
  // all that stands on it.
  for (size_t node = 0; good && node < graph.size(); ++node)
    if (height[node] == max_stack_depth + 1)
      context.report(numbering.name(node).at,
                     fmt::format("{} stands on a stack of {} devices",
                                 quote(numbering.name(node).value), max_stack_depth),
                     fmt::format("at most {} on each other", max_stack_depth));
  return good;
}

// The device of which the map is a snapshot by its table; "" if it is none.
std::string_view origin_of(const Map& map) {
  for (const Text& row : map.rows) {
    if (row.value.find("snapshot ") == std::string::npos) continue;
    std::istringstream in(row.value);
    std::string start, length, type, origin;
    if (!(in >> start >> length >> type >> origin) || type != "snapshot") continue;
    for (const Text& device : map.devices)
      if (device.value == origin) return device.value;
  }
  return "";
}

// Everything after what it stands on, and what else uses an origin after the origin's snapshots: an
// array writes when it is assembled, and a map may merge, and no snapshot must miss its copies of
// what that overwrites. Where the two contradict each other the first one counts.
void set_build_order(const Numbering& numbering, const std::vector<Use>& uses,
                     Definition& definition) {
  std::set<std::pair<size_t, std::string_view>> dropped;  // users whose second rule does not count
  std::vector<std::string_view> origins;
  for (const Map& map : definition.maps) origins.push_back(origin_of(map));
  const auto is_snapshot = [&](const Use& use) {
    return use.role == Role::origin ||
           (use.user.kind == DeviceKind::map && origins[use.user.index] == use.name->value);
  };
  for (bool again = true; std::exchange(again, false);) {
    Graph graph;
    for (size_t i = 0; i < numbering.size(); ++i) graph.add_node("");
    std::unordered_map<std::string_view, size_t> snapshots_of;  // a node of its own each
    for (const Use& use : uses) {
      if (use.target == nullptr) continue;
      graph.add_edge(numbering.number(use.user),
                     {numbering.number(use.target->item), use.name->at});
      if (!is_snapshot(use)) continue;
      const auto [found, is_new] = snapshots_of.emplace(use.name->value, graph.size());
      if (is_new) graph.add_node("");
      graph.add_edge(found->second, {numbering.number(use.user), use.name->at});
    }
    for (const Use& use : uses) {
      const auto found = snapshots_of.find(use.name->value);
      const size_t user = numbering.number(use.user);
      if (found == snapshots_of.end() || is_snapshot(use) || dropped.contains({user, found->first}))
        continue;
      graph.add_edge(user, {found->second, use.name->at});
    }
    definition.build_order.clear();
    graph.walk(
        numbering.by_place(),
        [&](const Graph::Cycle& cycle) {
          again = true;
          for (size_t i = 0; i < cycle.nodes.size(); ++i)
            for (const auto& [name, node] : snapshots_of)
              if (cycle.edges[i]->to == node) dropped.insert({cycle.nodes[i], name});
        },
        [&](size_t node) {
          if (node < numbering.size()) definition.build_order.push_back(numbering.item(node));
        });
  }
}

// A write to an origin is preceded by a write to the store of each of its snapshots. If that
// leads back to the origin, the write would wait for itself.
void check_copies(Context& context, const Numbering& numbering, const std::vector<Use>& uses,
                  const Definition& definition) {
  Graph graph;
  for (size_t i = 0; i < numbering.size(); ++i) graph.add_node(numbering.name(i).value);
  std::unordered_map<std::string_view, size_t> volumes;
  const auto node_of = [&](const Use& use) {
    const size_t item = numbering.number(use.target->item);
    if (use.target->item.kind != DeviceKind::volume_group) return item;
    const auto [found, is_new] = volumes.emplace(use.name->value, graph.size());
    if (is_new) graph.add_edge(graph.add_node(use.name->value), {item, use.name->at});
    return found->second;
  };
  std::vector<std::pair<const Use*, const Use*>> stores(definition.snapshots.size());
  for (const Use& use : uses) {
    if (use.target == nullptr || use.role == Role::readonly_table) continue;
    if (use.role != Role::origin)
      graph.add_edge(numbering.number(use.user), {node_of(use), use.name->at});
    if (use.role == Role::origin) stores[use.user.index].first = &use;
    if (use.role == Role::cow) stores[use.user.index].second = &use;
  }
  for (const auto& [origin, cow] : stores)
    if (origin && cow && origin->name->value != cow->name->value)
      graph.add_edge(node_of(*origin), {node_of(*cow), cow->name->at, true});

  std::vector<size_t> order = numbering.by_place();
  for (size_t i = numbering.size(); i < graph.size(); ++i) order.push_back(i);
  graph.walk(
      order,
      [&](const Graph::Cycle& cycle) {
        const auto copy = std::find_if(cycle.edges.begin(), cycle.edges.end(),
                                       [](const Graph::Edge* edge) { return edge->copies; });
        if (copy == cycle.edges.end() || context.diagnostics.full()) return;
        context.report((*copy)->at, "a cow on its own origin: " + graph.describe(cycle),
                       "a cow on other devices");
      },
      [](size_t) {});
}

}  // namespace

std::string_view to_string(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::image:
      return "image";
    case DeviceKind::array:
      return "array";
    case DeviceKind::volume_group:
      return "volume group";
    case DeviceKind::snapshot:
      return "snapshot";
    case DeviceKind::map:
      break;
  }
  return "map";
}

void check_order(Context& context, const std::vector<Use>& uses, Definition& definition) {
  const Numbering numbering(definition);
  if (!check_cycles(context, numbering, uses)) return;
  set_build_order(numbering, uses, definition);
  check_copies(context, numbering, uses, definition);
}

}  // namespace volfs::config
