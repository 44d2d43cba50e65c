// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/engine.h"

#include <fmt/format.h>

#include <cerrno>

#include "owners.h"
#include "snapshot_parts.h"
#include "volfs/config/names.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/table.h"
#include "volfs/engine/overlay.h"
#include "volfs/engine/snapshots.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"
#include "volfs/md/array.h"
#include "watcher.h"
#include "words.h"

namespace volfs::engine {

Engine::Engine() : snapshots_(std::make_unique<Snapshots>(*this)) {}

Engine::~Engine() {
  if (auto closed = close(); !closed) log_error("{}", closed.error().text());
}

void Engine::for_each_node(const std::function<void(Node&)>& visit) {
  const std::lock_guard lock(structure_);
  for (Node* node : graph_.nodes()) visit(*node);
}

Status Engine::sync() {
  // Arrays may hold writes back for a moment; then the images, all at once. Maps, snapshots and
  // LVs keep nothing to themselves, and one that is suspended must not hold this up. The devices
  // are pinned, not locked: a disk may take its time.
  std::vector<Graph::Pin> pins;
  for_each_node([&](const Node& node) {
    if (node.kind != Kind::image && node.kind != Kind::array) return;
    if (auto pin = graph_.pin(node.name)) pins.push_back(std::move(*pin));
  });
  Status first;
  IoBatch images;
  for (const Graph::Pin& pin : pins) {
    if (pin->kind == Kind::image) {
      images.flush(*pin->device);
    } else if (auto flushed = pin->device->flush(); !flushed && first) {
      first = std::move(flushed);
    }
  }
  if (auto flushed = images.run(); !flushed && first) first = std::move(flushed);
  return first;
}

Status Engine::watch() {
  VOLFS_TRY_ASSIGN(watcher_, Thread::start("watcher", [this] { watch_for_events(*this); }));
  return {};
}

Status Engine::close() {
  {
    const std::lock_guard lock(structure_);
    if (std::exchange(closed_, true)) return {};
  }
  events_.stop();
  watcher_.join();
  snapshots_->close();
  for (const auto& group : volume_groups()) group->close();
  // From the top: an array on an array still needs the one below.
  Status first;
  auto nodes = graph_.nodes();
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node)
    if (auto* array = dynamic_cast<md::Array*>((*node)->device.get()))
      if (auto stopped = array->stop(); !stopped && first) first = std::move(stopped);
  auto synced = sync();
  return first ? std::move(synced) : std::move(first);
}

// A map that stays while an operation on it is under way.
class Engine::PinnedMap {
 public:
  PinnedMap(Graph::Pin pin, dm::MappedDevice& map) : pin_(std::move(pin)), map_(map) {}
  dm::MappedDevice* operator->() const { return &map_; }
  dm::MappedDevice& operator*() const { return map_; }
  Node& node() const { return *pin_; }

 private:
  Graph::Pin pin_;
  dm::MappedDevice& map_;
};

Result<Engine::PinnedMap> Engine::pin_map(std::string_view name) const {
  VOLFS_TRY_ASSIGN(Graph::Pin pin, graph_.pin(name));
  auto* mapped = dynamic_cast<dm::MappedDevice*>(pin->device.get());
  if (!mapped || pin->kind != Kind::map)
    return fail(Error::make(ENOTTY, fmt::format("{}: not a map but {}", name, one_of(pin->kind))));
  return PinnedMap(std::move(pin), *mapped);
}

namespace {

// Beside the active table, or in its place.
using LoadTable = Status (dm::MappedDevice::*)(std::span<const dm::TableRow>, const dm::Resolver&,
                                               const dm::MappedDevice::LoadOptions&);
constexpr LoadTable beside = &dm::MappedDevice::load, instead = &dm::MappedDevice::swap;

// Builds a table, which may read disks and so must not hold the structure lock: PINS keep what it
// stands on until the map, which is in the graph then, is known to use it.
Status load_on(const Graph& graph, dm::MappedDevice& map, std::string_view table,
               const dm::MappedDevice::LoadOptions& options, std::vector<Graph::Pin>& pins,
               const std::function<Status(const Node&)>& check, LoadTable load) {
  VOLFS_TRY_ASSIGN(const auto rows, dm::parse_table(table));
  const auto resolve = [&](std::string_view name) -> Result<BlockDevice*> {
    auto pin = graph.pin(name);
    if (!pin) return fail(Error::make(ENXIO, "there is no such device"));
    VOLFS_TRY(check(**pin));
    pins.push_back(std::move(*pin));
    return &pins.back()->shown();
  };
  return (map.*load)(rows, resolve, options);
}

}  // namespace

Status Engine::load_table(dm::MappedDevice& map, std::string_view table, bool read_only, bool swap,
                          std::vector<Graph::Pin>& pins) {
  const bool written = !read_only && !read_only_;
  const auto check = [&](const Node& node) -> Status {
    const std::string owner = written ? owner_of(*this, node) : "";
    if (owner.empty()) return {};
    return fail(Error::make(
        EBUSY, fmt::format("in use by {}: only a map that is read-only may look at it", owner)));
  };
  return load_on(graph_, map, table,
                 {.read_only = !written,
                  .origins = &origins_,
                  .hold_sync = frozen_,
                  .admit = [&] { return check_origin_kept(map, table); }},
                 pins, check, swap ? instead : beside);
}

namespace {

Status check_name(std::string_view name) {
  const auto expected = config::bad_device_name(name);
  if (!expected) return {};
  return fail_invalid(fmt::format("'{}' is not a name for a map; expected {}", name, *expected));
}

}  // namespace

Status Engine::check_new_map(std::string_view name, std::string_view uuid) const {
  VOLFS_TRY(check_name(name));
  if (graph_.find(name))
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", name)));
  if (uuid.empty()) return {};
  if (const auto expected = config::bad_map_uuid(uuid))
    return fail_invalid(
        fmt::format("{}: '{}' is not a uuid for a map; expected {}", name, uuid, *expected));
  for (const Node* node : graph_.nodes())
    if (node->uuid == uuid)
      return fail(Error::make(
          EEXIST, fmt::format("{}: the uuid '{}' is that of {}", name, uuid, node->name)));
  return {};
}

Status Engine::map_create(std::string_view name, std::string_view table, const NewMap& options) {
  const std::string_view uuid = options.uuid;
  {
    const std::lock_guard lock(structure_);
    VOLFS_TRY(check_new_map(name, uuid));
  }
  std::vector<Graph::Pin> pins;
  auto owned = std::make_unique<dm::MappedDevice>(std::string(name), std::string(uuid));
  dm::MappedDevice& mapped = *owned;
  VOLFS_TRY(in(name, load_table(mapped, table, options.read_only, false, pins)));
  VOLFS_TRY(mapped.resume());
  const std::lock_guard lock(structure_);
  VOLFS_TRY(check_new_map(name, uuid));
  VOLFS_TRY_ASSIGN(Node* const node, graph_.add(std::string(name), Kind::map, std::move(owned)));
  node->uuid = uuid;
  if (options.hidden && !shows_hidden_) return {};
  auto volume = catalog_->add(name, mapped);
  if (!volume) {
    (void)graph_.remove(name);  // nobody can stand on it yet
    return fail(std::move(volume.error()));
  }
  node->volume = *volume;
  return {};
}

Result<std::string> Engine::map_check(std::string_view name, std::string_view table,
                                      bool read_only) {
  VOLFS_TRY_ASSIGN(const auto rows, dm::parse_table(table));
  for (const dm::TableRow& row : rows)
    if (row.type.starts_with("snapshot"))
      return fail(
          Error::make(EOPNOTSUPP, fmt::format("{}: a table with snapshots cannot be tried", name)));
  std::vector<Graph::Pin> pins;
  dm::MappedDevice trial{std::string(name)};
  // Who owns what is below may be another once the table is loaded.
  VOLFS_TRY(in(
      name, load_on(
                graph_, trial, table,
                {.read_only = read_only || read_only_, .origins = &origins_, .hold_sync = frozen_},
                pins, [](const Node&) { return Status(); }, beside)));
  return trial.table(dm::MappedDevice::Which::inactive);
}

// A map that has snapshots shows through a snapshot-origin of its name, or what is being merged
// into it. A table that went round that would change the snapshots unseen.
Status Engine::check_origin_kept(const dm::MappedDevice& map, std::string_view table) const {
  constexpr std::string_view origin = " snapshot-origin ";
  const std::string name = map.name(), real = name + "-real", active = map.table();
  if (active.find(fmt::format(" snapshot-merge {} ", real)) != std::string::npos)
    return fail(Error::make(EBUSY, name + ": a snapshot is being merged into it"));
  if (!active.ends_with(fmt::format("{}{}\n", origin, real)) ||
      table.find(origin) != std::string_view::npos)
    return {};
  for (const Node* node : graph_.nodes()) {
    const auto* other = dynamic_cast<const dm::MappedDevice*>(node->device.get());
    if (other && other->table().find(fmt::format(" snapshot {} ", real)) != std::string::npos)
      return fail(Error::make(
          EBUSY,
          fmt::format("{}: '{}' is a snapshot of it: load the table of what both stand on, {}",
                      name, node->name, real)));
  }
  return {};
}

Status Engine::map_load(std::string_view name, std::string_view table, bool read_only) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(name));
  std::vector<Graph::Pin> pins;
  VOLFS_TRY(in(name, load_table(*map, table, read_only, false, pins)));
  events_.publish({"map.loaded", std::string(name), {}});
  return {};
}

Status Engine::map_swap(std::string_view name, std::string_view table, bool read_only) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(name));
  std::vector<Graph::Pin> pins;
  VOLFS_TRY(in(name, load_table(*map, table, read_only, true, pins)));
  resumed(map);
  return {};
}

void Engine::resumed(const PinnedMap& map) {
  if (const auto volume = map.node().volume) catalog_->changed(*volume);
  events_.publish({"map.resumed", map.node().name, {{"size", map->size()}}});
}

Status Engine::map_clear(std::string_view name) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(name));
  VOLFS_TRY(map->clear());
  events_.publish({"map.cleared", std::string(name), {}});
  return {};
}

Status Engine::map_suspend(std::string_view name, bool flush, Nanos timeout) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(name));
  const TimePoint deadline = timeout == Nanos(0) ? never : now() + timeout;
  VOLFS_TRY(map->suspend({.flush = flush, .deadline = deadline}));
  events_.publish({"map.suspended", std::string(name), {}});
  return {};
}

Status Engine::map_resume(std::string_view name) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(name));
  VOLFS_TRY(map->resume());
  resumed(map);
  return {};
}

Result<std::string> Engine::map_message(std::string_view name, uint64_t sector,
                                        std::string_view text) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(name));
  return map->message(sector, text);
}

void Engine::release_suspended() {
  std::vector<std::string> names;
  for_each_node([&](const Node& node) {
    const auto* mapped = dynamic_cast<const dm::MappedDevice*>(node.device.get());
    if (mapped && mapped->suspended()) names.push_back(node.name);
  });
  for (const std::string& name : names) {
    auto pin = graph_.pin(name);
    if (!pin) continue;
    auto& mapped = dynamic_cast<dm::MappedDevice&>(*(*pin)->device);
    if (auto cleared = mapped.clear(); !cleared) log_warning("{}", cleared.error().text());
    log_warning("{}: was suspended; it goes on with its active table, so that its I/O can end",
                name);
    if (auto resumed = mapped.resume(); !resumed) log_error("{}", resumed.error().text());
  }
}

Status Engine::with_map(std::string_view name,
                        const std::function<void(const dm::MappedDevice&)>& look) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(name));
  look(*map);
  return {};
}

void Engine::wait_unused(std::string_view name) const {
  // close(2) returns before the server is told of it, and a stat(2) opens a volume for a moment.
  constexpr Nanos patience = std::chrono::milliseconds(500);
  if (const auto volume = catalog_->find(name)) volume->wait_unused(now() + patience);
}

// The structure lock is held; what is returned must go without it, because a device may write as it
// goes.
Result<Engine::Gone> Engine::remove_node(Node& node) {
  const std::string name = node.name;
  if (const auto users = graph_.users(*node.device); !users.empty())
    return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", name, users.front())));
  VOLFS_TRY(snapshots_->check_removable(node));
  Gone gone;
  node.device->for_each_below([&](BlockDevice& below) {
    if (auto pin = graph_.pin(below)) gone.below.push_back(std::move(*pin));
  });
  const bool exposed = node.volume != nullptr;
  if (exposed) VOLFS_TRY(catalog_->remove(name));
  node.volume.reset();
  auto taken = graph_.take(name);
  if (taken) {
    gone.node = std::move(*taken);
    return gone;
  }
  // An operation that began meanwhile keeps it: show it again.
  if (exposed) node.volume = catalog_->add(name, node.shown()).value_or(nullptr);
  return fail(std::move(taken.error()));
}

// What says no at once, before others are kept from it.
Status Engine::check_unused(const Node& node) {
  if (const auto users = graph_.users(*node.device); !users.empty())
    return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", node.name, users.front())));
  VOLFS_TRY(snapshots_->check_removable(node));
  if (const std::string owner = group_of(*this, node); !owner.empty())
    return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", node.name, owner)));
  const uint64_t open = node.volume ? node.volume->open_count() : 0;
  if (open == 0) return {};
  return fail(Error::make(
      EBUSY, fmt::format("{}: in use: {} open file{}", node.name, open, open == 1 ? "" : "s")));
}

// Others look at devices all the time, and an operation that waits for something of this one, and
// does so in pieces, ends when it finds that it leaves.
Status Engine::take_down(std::string_view name, Kind kind) {
  constexpr Nanos patience = std::chrono::seconds(2);
  wait_unused(name);
  Node* node = nullptr;
  {
    const std::lock_guard lock(structure_);
    node = graph_.find(name);
    if (!node) return fail(Error::make(ENOENT, fmt::format("{}: no such device", name)));
    if (node->kind != kind)
      return fail(Error::make(
          ENOTTY, fmt::format("{}: not {} but {}", name, one_of(kind), one_of(node->kind))));
    VOLFS_TRY(check_unused(*node));
    graph_.set_leaving(*node, true);
  }
  const TimePoint deadline = now() + patience;
  while (true) {
    const bool unpinned = graph_.wait_unpinned(*node, deadline);
    Gone gone;
    const std::lock_guard lock(structure_);
    auto removed = remove_node(*node);
    if (removed) {
      gone = std::move(*removed);
      return {};
    }
    if (unpinned && graph_.pinned(*node)) continue;
    graph_.set_leaving(*node, false);
    return fail(std::move(removed.error()));
  }
}

Status Engine::map_remove(std::string_view name) {
  return take_down(name, Kind::map);
}

Status Engine::map_rename(std::string_view from, std::string_view to) {
  VOLFS_TRY_ASSIGN(const PinnedMap map, pin_map(from));
  // Whoever lays something below it goes by its name.
  VOLFS_TRY_ASSIGN(const auto change, map->change(now() + suspend_patience));
  const std::lock_guard lock(structure_);
  VOLFS_TRY(check_name(to));
  if (graph_.find(to))
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", to)));
  if (map.node().volume) VOLFS_TRY(catalog_->rename(map.node().volume->path(), to));
  VOLFS_TRY(graph_.rename(from, to));
  map->rename(std::string(to));
  return {};
}

}  // namespace volfs::engine
