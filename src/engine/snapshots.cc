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

namespace {

template <class Map>
Status load_row(Map& map, const std::string& type, const Below& below,
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

}  // namespace

Status load_over(dm::MappedDevice& map, const std::string& type, const Below& below,
                 std::vector<std::string> args, const LoadOver& options) {
  return load_row(map, type, below, std::move(args), options);
}

Status load_over(dm::MappedDevice::Change& map, const std::string& type, const Below& below,
                 std::vector<std::string> args, const LoadOver& options) {
  return load_row(map, type, below, std::move(args), options);
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

// A part of another device: nobody removes it.
Node* Snapshots::add_internal(const std::string& name, Kind kind,
                              std::unique_ptr<BlockDevice> device) {
  const std::lock_guard lock(engine_.structure_);
  auto node = engine_.graph_.add(name, kind, std::move(device));
  if (!node) return nullptr;
  (*node)->internal = true;
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
    if (!add_internal(store.name, Kind::image, std::move(image)))
      return fail_sys(EEXIST, store.name);
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
  Status done = origin.change.suspend({.deadline = now() + suspend_patience});
  if (done) {
    done = insert(request, origin, store);
    if (done) {
      done = origin.change.resume();
      if (!done) take_back(request.name, origin);
    }
    if (!done) (void)origin.change.resume();
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
        load_over(origin.change, "snapshot-origin", below, {"origin"},
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
    (void)origin.change.clear();
    if (lowered) settle(origin);
  }
  return done;
}

// Undoes insert(), when the origin's map could not go on with it; it is suspended.
void Snapshots::take_back(const std::string& name, Origin& origin) {
  (void)origin.change.clear();
  Node* const node = engine_.graph_.find(name);
  Status gone = node ? withdraw(*node) : Status();
  if (!gone) {
    log_error("{}", gone.error().text());
    return;
  }
  remove_node(name);
  settle(origin);
}

// Nobody has a snapshot open or stands on it, and nobody begins to; after an error all is as it
// was.
Status Snapshots::withdraw(Node& node) {
  {
    const std::lock_guard lock(engine_.structure_);
    engine_.graph_.set_leaving(node, true);
  }
  Status done;
  if (engine_.graph_.wait_unpinned(node, now() + unpinning_patience))
    done = take_off_catalog(*engine_.catalog_, engine_.graph_, node);
  else
    done = fail(Error::make(EBUSY, fmt::format("{}: an operation on it is under way", node.name)));
  if (!done) engine_.graph_.set_leaving(node, false);
  return done;
}

// Undoes that.
void Snapshots::show_again(Node& node, bool shown) {
  if (shown) {
    auto volume = engine_.catalog_->add(node.name, *node.device);
    if (!volume) log_error("{}", volume.error().text());
    node.volume = volume.value_or(nullptr);
  }
  engine_.graph_.set_leaving(node, false);
}

Status Snapshots::remove(std::string_view name) {
  const Turn turn(*this);
  VOLFS_TRY_ASSIGN(const SnapshotNode found, find_snapshot(engine_.graph_, name));
  if (engine_.read_only())
    return fail(Error::make(EROFS, fmt::format("{}: the mount is read-only", name)));
  std::optional<Origin> origin;
  if (auto pin = origin_of(*found.below.origin)) {
    dm::MappedDevice& top = *map_of(**pin);
    VOLFS_TRY_ASSIGN(Origin taken, take_turn(std::move(*pin), top));
    origin.emplace(std::move(taken));
  }
  // The origin gets its own table back with the last one. A merge sees to that when it ends.
  const bool settles = origin && !origin->is_merge && (origin->lower || origin->pin->front) &&
                       count_snapshots(*origin->top, *found.below.origin) == 1;
  if (settles) VOLFS_TRY(check_ready(*origin));
  const bool shown = found.node->volume != nullptr;
  VOLFS_TRY(withdraw(*found.node));
  if (settles) {
    auto suspended = origin->change.suspend({.deadline = now() + suspend_patience});
    if (!suspended) {
      show_again(*found.node, shown);
      return suspended;
    }
  }
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
  if (!settles) return {};
  settle(*origin);
  Status resumed = origin->change.resume();
  if (const auto volume = origin->pin->volume) engine_.catalog_->changed(*volume);
  return resumed;
}

}  // namespace volfs::engine
