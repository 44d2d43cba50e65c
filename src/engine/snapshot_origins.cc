// SPDX-License-Identifier: GPL-2.0-or-later
// The volumes that snapshots are taken of: whose turn it is to change one, and the table that fits
// its snapshots.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "snapshot_parts.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/snapshots.h"
#include "volfs/log.h"

namespace volfs::engine {
namespace {

// The first suspended map that I/O to DEVICE would wait for; null if there is none.
const BlockDevice* suspended_below(const BlockDevice& device) {
  const BlockDevice* found = nullptr;
  device.for_each_below([&](BlockDevice& below) {
    const auto* map = dynamic_cast<const dm::MappedDevice*>(&below);
    if (!found) found = map && map->suspended() ? &below : suspended_below(below);
  });
  return found;
}

}  // namespace

// Takes the turn to change what the volume at PATH shows.
Result<Snapshots::Origin> Snapshots::locate(std::string_view path) const {
  VOLFS_TRY_ASSIGN(Graph::Pin pin, engine_.graph_.pin(path));
  const Node& node = *pin;
  if (node.internal) return fail_invalid(fmt::format("{}: is a part of another device", path));
  dm::MappedDevice* const top = map_of(node);
  if (!top)
    return fail(Error::make(EOPNOTSUPP, fmt::format("{}: no snapshot can be taken of a device of "
                                                    "this kind while it is in use",
                                                    path)));
  VOLFS_TRY_ASSIGN(Origin origin, take_turn(std::move(pin), *top));
  if (origin.is_merge)
    return fail(Error::make(EBUSY, fmt::format("{}: a snapshot is being merged into it", path)));
  if (first_row(*top).type == "snapshot")
    return fail_invalid(fmt::format("{}: is a snapshot itself", path));
  VOLFS_TRY(check_ready(origin));
  return origin;
}

// From the top down: of the map, and of the one below that holds its table.
Result<Snapshots::Origin> Snapshots::take_turn(Graph::Pin pin, dm::MappedDevice& top) const {
  const TimePoint deadline = now() + suspend_patience;
  VOLFS_TRY_ASSIGN(auto change, top.change(deadline));
  // It may have begun to leave while its turn was waited for.
  if (!engine_.graph_.find(pin->name))
    return fail(Error::make(ENOENT, fmt::format("{}: no such device", pin->name)));
  Origin origin{.pin = std::move(pin), .top = &top, .change = std::move(change)};
  const std::string type = first_row(top).type;
  origin.is_origin = type == "snapshot-origin";
  origin.is_merge = type == "snapshot-merge";
  if (origin.pin->front) {
    origin.real = origin.pin->device.get();
  } else if (origin.is_origin || origin.is_merge) {
    top.for_each_below([&](BlockDevice& below) {
      if (!origin.real) origin.real = &below;
    });
  }
  if (lowered_.contains(origin.real)) {
    auto& lower = dynamic_cast<dm::MappedDevice&>(*origin.real);
    VOLFS_TRY_ASSIGN(auto lower_change, lower.change(deadline));
    origin.lower.emplace(std::move(lower_change));
  }
  return origin;
}

// Nothing stands in the way of another table: whoever suspended it, or loaded one, is not done.
Status Snapshots::check_ready(const Origin& origin) const {
  const auto refuse = [](const std::string& name, const std::string& what) {
    return fail(Error::make(EBUSY, fmt::format("{}: {}", name, what)));
  };
  const std::string& name = origin.pin->name;
  if (origin.top->suspended()) return refuse(name, "is suspended");
  if (origin.top->info().inactive_table)
    return refuse(name, "has a table loaded that is not active");
  if (const BlockDevice* below = suspended_below(*origin.top))
    return refuse(name, fmt::format("stands on {}, which is suspended", below->name()));
  if (origin.lower && (*origin.lower)->info().inactive_table)
    return refuse((*origin.lower)->name(), "has a table loaded that is not active");
  return {};
}

// Moves the table of the origin's map to a map of its own below.
Status Snapshots::lower_table(Origin& origin) {
  dm::MappedDevice& top = *origin.top;
  const std::string name = top.name() + "-real";
  auto owned = std::make_unique<dm::MappedDevice>(name);
  dm::MappedDevice& real = *owned;
  if (!add_internal(name, origin.pin->kind, std::move(owned)))
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", name)));
  VOLFS_TRY_ASSIGN(auto lower, real.change());
  Status moved = origin.change.give_table(lower);
  if (moved) moved = lower.resume();
  if (!moved) {
    if (real.info().active_table) {
      (void)lower.suspend();
      (void)lower.give_table(origin.change);
    }
    {
      const auto over = std::move(lower);
    }
    remove_node(name);
    return moved;
  }
  origin.real = &real;
  origin.lower.emplace(std::move(lower));
  lowered_.insert(&real);
  return {};
}

// How many maps stand on what the origin's map stands on: its snapshots, mostly.
unsigned Snapshots::count_snapshots(const dm::MappedDevice& top, const BlockDevice& real) const {
  unsigned found = 0;
  const std::lock_guard lock(engine_.structure_);
  for (const Node* node : engine_.graph_.nodes()) {
    const auto* map = dynamic_cast<const dm::MappedDevice*>(node->device.get());
    if (map && map != &top)
      map->for_each_below([&](BlockDevice& below) { found += &below == &real ? 1 : 0; });
  }
  return found;
}

// The map of an origin, suspended, gets the table that fits what snapshots are left, and may be
// resumed. Errors can only be told: the volume goes on with what it has.
void Snapshots::settle(Origin& origin) {
  dm::MappedDevice& top = *origin.top;
  BlockDevice& real = *origin.real;
  if (origin.lower && raise_table(origin)) return;
  const LoadOver options{
      .size = top.size(), .read_only = top.read_only(), .origins = engine_.origins_};
  const bool plain = origin.pin->front && count_snapshots(top, real) == 0;
  Status done =
      plain ? load_over(origin.change, "linear", {&real, nullptr}, {"origin", "0"}, options)
            : load_over(origin.change, "snapshot-origin", {&real, nullptr}, {"origin"}, options);
  if (!done) log_error("{}: {}", top.name(), done.error().text());
}

// Undoes lower_table(), unless somebody else stands on the map below or is about to, or has
// suspended it or loaded a table into it. Then the next snapshot that goes sees to it.
bool Snapshots::raise_table(Origin& origin) {
  dm::MappedDevice::Change& lower = *origin.lower;
  const std::string name = lower->name();
  if (lower->suspended() || lower->info().inactive_table) return false;
  Node& node = *engine_.graph_.find(*lower);
  {
    const std::lock_guard lock(engine_.structure_);
    engine_.graph_.set_leaving(node, true);
  }
  bool raised = engine_.graph_.wait_unpinned(node, now() + unpinning_patience) &&
                count_snapshots(*origin.top, *lower) == 0;
  if (raised) {
    Status moved = lower.suspend();
    if (moved) moved = lower.give_table(origin.change);
    raised = moved.has_value();
    if (!moved) {
      log_error("{}: {}", name, moved.error().text());
      (void)lower.resume();
    }
  }
  if (!raised) {
    engine_.graph_.set_leaving(node, false);
    return false;
  }
  lowered_.erase(&*lower);
  origin.real = nullptr;
  origin.lower.reset();
  remove_node(name);
  return true;
}

// The volume whose map is the origin, or shows the merge into it; null if there is none.
std::optional<Graph::Pin> Snapshots::origin_of(const BlockDevice& real) const {
  const std::lock_guard lock(engine_.structure_);
  for (const Node* node : engine_.graph_.nodes()) {
    dm::MappedDevice* const top = map_of(*node);
    if (!top || !first_row(*top).type.starts_with("snapshot-")) continue;
    bool over = false;
    top->for_each_below([&](BlockDevice& below) { over |= &below == &real; });
    if (over) return engine_.graph_.pin(*node->device);
  }
  return std::nullopt;
}

Status Snapshots::check_removable(const Node& node) const {
  const dm::MappedDevice* const top = map_of(node);
  const std::string type = top ? first_row(*top).type : "";
  if (!type.starts_with("snapshot-")) return {};
  if (type == "snapshot-merge") {
    SnapshotState state;
    read_status(*top, state);
    const bool nothing_left =
        state.state.empty() ? state.used == state.metadata : state.state == "invalid";
    const std::lock_guard lock(merges_mutex_);
    const bool followed = std::ranges::any_of(merges_, [&](const auto& entry) {
      return entry.second->origin == &node && entry.second->state == "merging";
    });
    if (nothing_left && !followed) return {};
    return fail(
        Error::make(EBUSY, fmt::format("{}: a snapshot is being merged into it", node.name)));
  }
  std::string user;
  top->for_each_below([&](BlockDevice& real) {
    for (const std::string& name : engine_.graph_.users(real))
      if (name != node.name) user = name;
  });
  if (user.empty()) return {};
  return fail(Error::make(EBUSY, fmt::format("{}: has the snapshot {}", node.name, user)));
}

}  // namespace volfs::engine
