// SPDX-License-Identifier: GPL-2.0-or-later
// A directed graph of named things, walked depth first without recursion: a definition may
// chain as many devices as fit into its file.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/config/diagnostics.h"

namespace volfs::config {

class Graph {
 public:
  struct Edge {
    size_t to;
    Position at;
    bool copies = false;  // from an origin to a snapshot's store, not from user to used
  };
  // A cycle: NODES[i] leads by EDGES[i] to the next, the last to the first.
  struct Cycle {
    std::vector<size_t> nodes;
    std::vector<const Edge*> edges;
  };

  size_t add_node(std::string_view name) {
    names_.emplace_back(name);
    edges_.emplace_back();
    return names_.size() - 1;
  }
  void add_edge(size_t from, Edge edge) { edges_[from].push_back(edge); }
  std::span<const Edge> edges(size_t node) const { return edges_[node]; }
  size_t size() const { return names_.size(); }

  // Visits every node, beginning in ORDER: ON_DONE after all it leads to, ON_CYCLE for each
  // edge that leads back to where the walk came from.
  void walk(std::span<const size_t> order, const std::function<void(const Cycle&)>& on_cycle,
            const std::function<void(size_t)>& on_done) const;

  // "a -> b -> a"; the middle of a long one is left out.
  std::string describe(const Cycle& cycle) const;

 private:
  std::vector<std::string> names_;
  std::vector<std::vector<Edge>> edges_;
};

}  // namespace volfs::config
