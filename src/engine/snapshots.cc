// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/snapshots.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "assembler.h"
#include "merge_record.h"
#include "small_file.h"
#include "snapshot_parts.h"
#include "volfs/backing/image.h"
#include "volfs/backing/partitions.h"
#include "volfs/config/names.h"
#include "volfs/dm/snapshot.h"
#include "volfs/engine/engine.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::engine {

Snapshots::Turn::Turn(Snapshots& owner) : owner_(owner) {
  const std::lock_guard lock(owner_.turn_mutex_);
  owner_.turn_changed_.wait(owner_.turn_mutex_, [this] { return !owner_.turn_taken_; });
  owner_.turn_taken_ = true;
}

Snapshots::Turn::~Turn() {
  const std::lock_guard lock(owner_.turn_mutex_);
  owner_.turn_taken_ = false;
  owner_.turn_changed_.notify_all();
}

dm::MappedDevice* map_of(const Node& node) {
  return dynamic_cast<dm::MappedDevice*>(&node.shown());
}

dm::TableRow first_row(const dm::MappedDevice& map) {
  const auto rows = dm::parse_table(map.table());
  return rows && rows->size() == 1 ? rows->front() : dm::TableRow{};
}

Status load_over(dm::MappedDevice& map, const std::string& type, const Below& below,
                 std::vector<std::string> args, const LoadOver& options) {
  dm::TableRow row;
  row.length = options.size;
  row.type = type;
  row.args = std::move(args);
  const auto resolve = [&below](std::string_view word) -> Result<BlockDevice*> {
    return word == "origin" ? below.origin : below.store;
  };
  return map.load(std::span(&row, 1), resolve,
                  {.read_only = options.read_only, .origins = &options.origins});
}

std::vector<std::string> snapshot_words(const std::string& kind, uint64_t chunk_sectors) {
  return {"origin", "store", kind, fmt::format("{}", chunk_sectors)};
}

Node* Snapshots::add_node(const std::string& name, Kind kind, std::unique_ptr<BlockDevice> device) {
  const std::lock_guard lock(engine_.structure_);
  auto node = engine_.graph_.add(name, kind, std::move(device));
  if (!node) return nullptr;
  return *node;
}

// Of a device that nobody stands on any more; who only looks at it, or flushes it, is waited for.
void Snapshots::remove_node(const std::string& name) {
  const TimePoint deadline = now() + suspend_patience;
  while (true) {
    Status removed;
    {
      const std::lock_guard lock(engine_.structure_);
      removed = engine_.graph_.remove(name);
    }
    if (removed) return;
    if (removed.error().code() != EBUSY || now() > deadline) {
      log_error("{}", removed.error().text());
      return;
    }
    sleep_for(std::chrono::milliseconds(5));
  }
}

Result<Snapshots::Origin> Snapshots::locate(std::string_view path) const {
  VOLFS_TRY_ASSIGN(Graph::Pin pin, engine_.graph_.pin(path));
  const Node& node = *pin;
  if (node.internal) return fail_invalid(fmt::format("{}: is a part of another device", path));
  dm::MappedDevice* const top = map_of(node);
  if (!top)
    return fail(Error::make(EOPNOTSUPP, fmt::format("{}: no snapshot can be taken of a device of "
                                                    "this kind while it is in use",
                                                    path)));
  if (top->suspended()) return fail(Error::make(EBUSY, fmt::format("{}: is suspended", path)));
  if (top->info().inactive_table)
    return fail(Error::make(EBUSY, fmt::format("{}: has a table loaded that is not active", path)));
  const dm::TableRow row = first_row(*top);
  if (row.type == "snapshot-merge")
    return fail(Error::make(EBUSY, fmt::format("{}: a snapshot is being merged into it", path)));
  if (row.type == "snapshot") return fail_invalid(fmt::format("{}: is a snapshot itself", path));
  Origin origin{.pin = std::move(pin), .top = top};
  origin.is_origin = row.type == "snapshot-origin";
  if (node.front) {
    origin.real = node.device.get();
  } else if (origin.is_origin) {
    top->for_each_below([&](BlockDevice& below) { origin.real = &below; });
  }
  return origin;
}

Result<Snapshots::Store> Snapshots::open_store(const SnapshotRequest& request,
                                               uint64_t origin_size) {
  Store store{.name = request.name + "-cow", .path = request.store};
  if (engine_.graph_.find(store.name))
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", store.name)));
  const uint64_t size =
      request.size != 0 ? request.size : dm::full_store_size(origin_size, request.chunk_size);
  struct stat status{};
  if (::stat(store.path.c_str(), &status) != 0) {
    if (errno != ENOENT) return fail_sys(errno, store.path);
    VOLFS_TRY(create_image(store.path, size));
    store.made = true;
  } else if (S_ISREG(status.st_mode) && status.st_size == 0) {
    VOLFS_TRY(size_empty_image(store.path, size));
  }
  const auto open = [&]() -> Status {
    VOLFS_TRY_ASSIGN(auto image, FileImage::open(store.name, store.path, {}));
    VOLFS_TRY(check_overlap(engine_.graph_, *image));
    VOLFS_TRY_ASSIGN(const dm::StoreInfo info, dm::inspect_store(*image));
    if (info.kind == dm::StoreInfo::Kind::store)
      return fail(Error::make(
          EEXIST, fmt::format("{}: holds the store of a snapshot already, {}; expected a new or an "
                              "empty file",
                              store.path,
                              !info.valid           ? "which is invalid: nothing can be had from it"
                              : info.first_new == 0 ? "an empty one"
                                                    : "which shows it with its origin only")));
    VOLFS_TRY_ASSIGN(const auto signatures, probe_signatures(store.path));
    if (info.kind != dm::StoreInfo::Kind::blank || !signatures.empty())
      return fail(Error::make(
          EEXIST,
          fmt::format("{}: holds something: {}; expected a new or an empty file", store.path,
                      signatures.empty() ? "data" : describe(signatures.front()))));
    // Left behind by another file of that name: a mount would merge this snapshot.
    VOLFS_TRY(remove_file(marker_of(store.path)));
    Node* const node = add_node(store.name, Kind::image, std::move(image));
    if (!node) return fail_sys(EEXIST, store.name);
    node->internal = true;
    return {};
  };
  if (auto opened = open(); !opened) {
    if (store.made) ::unlink(store.path.c_str());
    return fail(std::move(opened.error()));
  }
  return store;
}

void Snapshots::drop_store(const Store& store) {
  remove_node(store.name);
  if (store.made && ::unlink(store.path.c_str()) != 0)
    log_warning("{}", Error::sys(errno, store.path).text());
}

Status Snapshots::create(const SnapshotRequest& wanted) {
  const Turn turn(*this);
  SnapshotRequest request = wanted;
  if (request.store.empty())
    request.store = resolve_path(engine_.directory_, request.name + ".cow");
  if (request.chunk_size == 0) request.chunk_size = 16 * KiB;
  if (engine_.read_only())
    return fail(Error::make(EROFS, request.name + ": the mount is read-only"));
  if (const auto expected = config::bad_device_name(request.name))
    return fail_invalid(
        fmt::format("'{}' is not a name for a snapshot; expected {}", request.name, *expected));
  if (engine_.graph_.find(request.name) || engine_.catalog_->find(request.name))
    return fail(
        Error::make(EEXIST, fmt::format("{}: there is a device of that name", request.name)));
  VOLFS_TRY_ASSIGN(Origin origin, locate(request.origin));
  VOLFS_TRY(
      in(request.name, dm::check_chunk_size(request.chunk_size, origin.top->logical_block())));
  VOLFS_TRY_ASSIGN(const Store store, open_store(request, origin.top->size()));
  const auto volume = origin.pin->volume;
  Status done = origin.top->suspend({.deadline = now() + suspend_patience});
  if (done) {
    done = insert(request, origin, store);
    if (!done) origin.top->clear();
    if (auto resumed = origin.top->resume(); !resumed && done) done = std::move(resumed);
  }
  if (volume) engine_.catalog_->changed(*volume);
  if (!done) {
    drop_store(store);
    return in(request.name, std::move(done));
  }
  taken_.insert(request.name);
  forget_merge(request.name);
  if (store.made) made_.insert(store.path);
  return {};
}

// The origin's map is suspended. After an error it has the table that it had.
Status Snapshots::insert(const SnapshotRequest& request, Origin& origin, const Store& store) {
  dm::MappedDevice& top = *origin.top;
  const bool lowered = !origin.real;
  if (lowered) VOLFS_TRY(lower_table(origin));
  const Below below{origin.real, engine_.graph_.find(store.name)->device.get()};
  auto owned = std::make_unique<dm::MappedDevice>(request.name);
  dm::MappedDevice& snapshot = *owned;
  Status done =
      load_over(snapshot, "snapshot", below,
                snapshot_words(request.overflow ? "PO" : "P", request.chunk_size / sector_size),
                {.size = top.size(), .origins = engine_.origins_});
  // Before the snapshot takes part: what can fail comes first.
  if (done && !origin.is_origin)
    done =
        load_over(top, "snapshot-origin", below, {"origin"},
                  {.size = top.size(), .read_only = top.read_only(), .origins = engine_.origins_});
  if (done) done = snapshot.resume();
  if (done) {
    Node* const node = add_node(request.name, Kind::snapshot, std::move(owned));
    auto volume = node ? engine_.catalog_->add(request.name, snapshot)
                       : Result<std::shared_ptr<Volume>>(fail_sys(EEXIST, request.name));
    if (volume)
      node->volume = *volume;
    else
      done = fail(std::move(volume.error()));
    if (!done && node) remove_node(request.name);
  }
  if (!done) {
    owned.reset();
    top.clear();
    if (lowered) settle(*origin.pin, top, *origin.real);
  }
  return done;
}

// Moves the table of the origin's map to a map of its own below.
Status Snapshots::lower_table(Origin& origin) {
  dm::MappedDevice& top = *origin.top;
  const std::string name = top.name() + "-real";
  auto owned = std::make_unique<dm::MappedDevice>(name);
  dm::MappedDevice& real = *owned;
  Node* const node = add_node(name, origin.pin->kind, std::move(owned));
  if (!node)
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", name)));
  node->internal = true;
  Status moved = top.give_table(real);
  if (moved) moved = real.resume();
  if (!moved) {
    if (real.info().active_table) {
      (void)real.suspend();
      (void)real.give_table(top);
    }
    remove_node(name);
    return moved;
  }
  origin.real = &real;
  lowered_.insert(&real);
  return {};
}

bool Snapshots::has_snapshots(const dm::MappedDevice& top, const BlockDevice& real) const {
  bool found = false;
  const std::lock_guard lock(engine_.structure_);
  for (const Node* node : engine_.graph_.nodes()) {
    const auto* map = dynamic_cast<const dm::MappedDevice*>(node->device.get());
    if (map && map != &top)
      map->for_each_below([&](BlockDevice& below) { found |= &below == &real; });
  }
  return found;
}

// The map of an origin, suspended, gets the table that fits what snapshots are left, and may be
// resumed. Errors can only be told: the volume goes on with what it has.
void Snapshots::settle(Node& node, dm::MappedDevice& top, BlockDevice& real) {
  Status done;
  const LoadOver options{
      .size = top.size(), .read_only = top.read_only(), .origins = engine_.origins_};
  const bool wanted = has_snapshots(top, real);
  if (!wanted && lowered_.contains(&real)) {
    auto& lower = dynamic_cast<dm::MappedDevice&>(real);
    done = lower.suspend();
    if (done) done = lower.give_table(top);
    if (done) {
      lowered_.erase(&real);
      remove_node(lower.name());
    }
  } else if (!wanted && node.front) {
    done = load_over(top, "linear", {&real, nullptr}, {"origin", "0"}, options);
  } else {
    done = load_over(top, "snapshot-origin", {&real, nullptr}, {"origin"}, options);
  }
  if (!done) log_error("{}: {}", top.name(), done.error().text());
}

// The volume whose map is the origin, or shows the merge into it.
Result<Snapshots::Origin> Snapshots::origin_of(BlockDevice& real) const {
  const std::lock_guard lock(engine_.structure_);
  for (const Node* node : engine_.graph_.nodes()) {
    dm::MappedDevice* const top = map_of(*node);
    if (!top || !first_row(*top).type.starts_with("snapshot-")) continue;
    bool over = false;
    top->for_each_below([&](BlockDevice& below) { over |= &below == &real; });
    if (over) return locate(node->name);
  }
  return fail(Error::make(ENOENT, real.name() + ": has no snapshot-origin"));
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

Status Snapshots::remove(std::string_view name) {
  const Turn turn(*this);
  VOLFS_TRY_ASSIGN(const SnapshotNode found, find_snapshot(engine_.graph_, name));
  if (engine_.read_only())
    return fail(Error::make(EROFS, fmt::format("{}: the mount is read-only", name)));
  auto origin = origin_of(*found.below.origin);
  VOLFS_TRY(take_off_catalog(*engine_.catalog_, engine_.graph_, *found.node));
  const std::string path = found.path();
  Store store{.name = found.store->name, .path = path, .made = made_.contains(path)};
  // Durably, before the origin stops copying to it.
  if (auto marked = dm::invalidate_store(*found.below.store); !marked)
    log_error("{}: cannot be marked invalid: {}", store.name, marked.error().text());
  if (!path.empty())
    if (auto removed = remove_file(marker_of(path)); !removed)
      log_error("{}", removed.error().text());
  const bool own_store = found.owns_store();
  remove_node(std::string(name));
  if (own_store) drop_store(store);
  made_.erase(path);
  taken_.erase(std::string(name));
  if (!origin) return {};
  const bool changes = lowered_.contains(found.below.origin) || origin->pin->front;
  if (!changes || has_snapshots(*origin->top, *found.below.origin)) return {};
  VOLFS_TRY(origin->top->suspend({.deadline = now() + suspend_patience}));
  settle(*origin->pin, *origin->top, *found.below.origin);
  Status resumed = origin->top->resume();
  if (const auto volume = origin->pin->volume) engine_.catalog_->changed(*volume);
  return resumed;
}

}  // namespace volfs::engine
