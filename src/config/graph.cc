// SPDX-License-Identifier: GPL-2.0-or-later
#include "graph.h"

#include <fmt/format.h>

namespace volfs::config {
namespace {

struct Frame {
  size_t node;
  size_t next = 0;  // the edge to take; the one taken is the one before
};

}  // namespace

void Graph::walk(std::span<const size_t> order, const std::function<void(const Cycle&)>& on_cycle,
                 const std::function<void(size_t)>& on_done) const {
  enum class State : char { unseen, open, done };
  std::vector<State> state(size(), State::unseen);
  std::vector<Frame> path;
  for (size_t root : order) {
    if (state[root] != State::unseen) continue;
    path.push_back({root});
    state[root] = State::open;
    while (!path.empty()) {
      Frame& frame = path.back();
      if (frame.next == edges_[frame.node].size()) {
        state[frame.node] = State::done;
        on_done(frame.node);
        path.pop_back();
        continue;
      }
      const size_t to = edges_[frame.node][frame.next++].to;
      if (state[to] == State::unseen) {
        state[to] = State::open;
        path.push_back({to});
      } else if (state[to] == State::open) {
        Cycle cycle;
        size_t start = path.size() - 1;
        while (path[start].node != to) --start;
        for (size_t i = start; i < path.size(); ++i) {
          cycle.nodes.push_back(path[i].node);
          cycle.edges.push_back(&edges_[path[i].node][path[i].next - 1]);
        }
        on_cycle(cycle);
      }
    }
  }
}

std::string Graph::describe(const Cycle& cycle) const {
  constexpr size_t most_named = 16;
  const size_t count = cycle.nodes.size();
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    if (count > most_named && i == most_named / 2) {
      text += fmt::format("({} more) -> ", count - most_named);
      i = count - most_named / 2;
    }
    text += names_[cycle.nodes[i]] + " -> ";
  }
  return text + names_[cycle.nodes.front()];
}

}  // namespace volfs::config
