// SPDX-License-Identifier: GPL-2.0-or-later
// Merging a snapshot back into its origin, over the end of a mount if need be.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <set>
#include <utility>

#include "assembler.h"
#include "merge_record.h"
#include "small_file.h"
#include "snapshot_parts.h"
#include "volfs/backing/image.h"
#include "volfs/dm/snapshot.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/overlay.h"
#include "volfs/log.h"
#include "volfs/units.h"
#include "words.h"

namespace volfs::engine {
std::string SnapshotNode::path() const {
  const auto* image = dynamic_cast<const FileImage*>(store->device.get());
  return image && image->start() == 0 ? image->path() : "";
}

bool SnapshotNode::owns_store() const {
  return store->internal || store->name == node->name + "-cow";
}

Result<SnapshotNode> find_snapshot(const Graph& graph, std::string_view name) {
  SnapshotNode found;
  found.node = graph.find(name);
  if (!found.node) return fail(Error::make(ENOENT, fmt::format("{}: no such device", name)));
  found.map = map_of(*found.node);
  const dm::TableRow row = found.map ? first_row(*found.map) : dm::TableRow{};
  if (found.node->kind != Kind::snapshot || row.type != "snapshot" || row.args.size() < 4)
    return fail(Error::make(
        ENOTTY, fmt::format("{}: not a snapshot but {}", name, one_of(found.node->kind))));
  found.map->for_each_below([&](BlockDevice& below) {
    (found.below.origin ? found.below.store : found.below.origin) = &below;
  });
  found.store = found.below.store ? graph.find(*found.below.store) : nullptr;
  if (!found.store) return fail_invalid(fmt::format("{}: has no store", name));
  found.kind = row.args[2];
  found.chunk_sectors = std::strtoull(row.args[3].c_str(), nullptr, 10);
  return found;
}

Status take_off_catalog(Catalog& catalog, const Graph& graph, Node& node) {
  if (const auto users = graph.users(*node.device); !users.empty())
    return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", node.name, users.front())));
  if (!node.volume) return {};
  // close(2) returns before the server is told of it, and a stat(2) opens a volume for a moment.
  node.volume->wait_unused(now() + std::chrono::milliseconds(500));
  VOLFS_TRY(catalog.remove(node.volume->path()));
  node.volume.reset();
  return {};
}

void read_status(const dm::MappedDevice& map, SnapshotState& out) {
  const std::string status = map.status();
  unsigned long long used = 0, total = 0, metadata = 0;
  if (std::sscanf(status.c_str(), "%*u %*u %*s %llu/%llu %llu", &used, &total, &metadata) == 3) {
    out.used = used * sector_size;
    out.total = total * sector_size;
    out.metadata = metadata * sector_size;
    return;
  }
  for (const auto& [word, state] : {std::pair{"Invalid", "invalid"},
                                    {"Merge failed", "merge failed"},
                                    {"Overflow", "overflow"}})
    if (status.find(word) != std::string::npos) out.state = state;
}

// A merge changes all that is read from an origin under whoever read it before: nobody may have it
// open, or a map on it, and nothing may stand there that remembers what it has read.
Status Snapshots::check_unused(const Node& origin, const BlockDevice& top) const {
  std::vector<std::shared_ptr<Volume>> volumes{origin.volume};
  {
    std::set<const BlockDevice*> above{&top};
    const std::lock_guard lock(engine_.structure_);
    for (const Node* node : engine_.graph_.nodes()) {
      bool stands = false;
      node->device->for_each_below([&](BlockDevice& below) { stands |= above.contains(&below); });
      if (!stands) continue;
      if (node->kind != Kind::map)
        return fail(Error::make(EBUSY, fmt::format("{}: in use by {}: a merge changes all that is "
                                                   "read from it",
                                                   origin.name, node->name)));
      volumes.push_back(node->volume);
      above.insert(node->device.get());
    }
  }
  for (const auto& volume : volumes) {
    if (!volume) continue;
    volume->wait_unused(now() + std::chrono::milliseconds(500));
    if (volume->open_count() > 0)
      return fail(Error::make(
          EBUSY,
          fmt::format("{}: is open: a merge changes all that is read from it", volume->path())));
  }
  return {};
}

Status Snapshots::merge(std::string_view name) {
  const Turn turn(*this);
  if (engine_.read_only())
    return fail(Error::make(EROFS, fmt::format("{}: the mount is read-only", name)));
  VOLFS_TRY_ASSIGN(const SnapshotNode found, find_snapshot(engine_.graph_, name));
  if (found.kind == "N")
    return fail_invalid(
        fmt::format("{}: a snapshot with a transient store cannot be merged", name));
  SnapshotState state;
  read_status(*found.map, state);
  if (state.state == "invalid")
    return fail_invalid(fmt::format("{}: is invalid: there is nothing to merge", name));
  const std::string path = found.path();
  if (path.empty())
    return fail(
        Error::make(EOPNOTSUPP, fmt::format("{}: its store is not a file of its own", name)));
  auto pin = origin_of(*found.below.origin);
  if (!pin)
    return fail(Error::make(ENOENT, found.below.origin->name() + ": has no snapshot-origin"));
  const std::string below(pin->operator->()->name);
  VOLFS_TRY_ASSIGN(Origin origin, locate(below));
  const auto volume = origin.pin->volume;
  VOLFS_TRY(check_unused(*origin.pin, *origin.top));
  const bool shown = found.node->volume != nullptr;
  VOLFS_TRY(withdraw(*found.node));
  const std::string snapshot(name);
  const bool defined = !taken_.contains(snapshot);
  const Store store{.name = found.store->name,
                    .path = path,
                    .made = made_.contains(path),
                    .own = found.owns_store()};
  Status done = origin.change.suspend({.deadline = now() + suspend_patience});
  if (done) {
    (void)found.map->suspend();
    done = note_merge(found, origin, path, defined);
    if (done) done = show_merge(origin, *found.below.store, found.kind, found.chunk_sectors);
    if (done) done = origin.change.resume();
    if (!done) {
      (void)origin.change.clear();
      (void)origin.change.resume();
    }
  }
  if (volume) engine_.catalog_->changed(*volume);
  if (!done) {
    (void)found.map->resume();
    show_again(*found.node, shown);
    (void)note_merged(snapshot, store, false);
    return in(name, std::move(done));
  }
  remove_node(snapshot);
  return register_merge(snapshot, std::move(origin), store, defined);
}

// Adds what NODE is or lies on: what has a uuid is known by that, whatever it lies on.
void Snapshots::find_ground(const BlockDevice& device, std::vector<std::string>& out) const {
  const Node* const node = engine_.graph_.find(device);
  if (node && !node->uuid.empty()) {
    out.push_back("uuid " + node->uuid);
  } else if (const auto* image = dynamic_cast<const FileImage*>(&device)) {
    out.push_back("image " + std::filesystem::absolute(image->path()).lexically_normal().native());
  } else {
    device.for_each_below([&](BlockDevice& below) { find_ground(below, out); });
  }
}

bool Snapshots::has_ground_of(const MergeRecord& record) const {
  std::vector<std::string> there;
  for (const Node* node : engine_.graph_.nodes()) find_ground(*node->device, there);
  return std::ranges::any_of(record.stands_on, [&](const std::string& each) {
    return std::ranges::find(there, each) != there.end();
  });
}

// What a merge of the snapshot in STORE into the origin is known by.
Result<MergeRecord> Snapshots::describe_merge(const Origin& origin, BlockDevice& store) const {
  VOLFS_TRY_ASSIGN(const dm::StoreInfo info, dm::inspect_store(store));
  if (info.kind != dm::StoreInfo::Kind::store || !info.valid)
    return fail(Error::make(
        EUCLEAN, fmt::format("{}: {}", store.name(),
                             info.kind == dm::StoreInfo::Kind::store ? "is marked invalid"
                                                                     : "holds no snapshot store")));
  MergeRecord record{.definition = std::filesystem::path(engine_.source_).filename(),
                     .overlay = engine_.overlay_ ? engine_.overlay_->directory() : "",
                     .origin = origin.pin->name,
                     .chunk_size = info.chunk_size,
                     .origin_size = origin.top->size(),
                     .store_size = store.size(),
                     .first_old = info.first_old,
                     .first_new = info.first_new};
  if (origin.pin->uuid.empty())
    find_ground(*origin.real, record.stands_on);
  else
    record.stands_on.push_back("uuid " + origin.pin->uuid);
  std::ranges::sort(record.stands_on);
  const auto twice = std::ranges::unique(record.stands_on);
  record.stands_on.erase(twice.begin(), twice.end());
  return record;
}

// From now on a mount goes on with the merge. Nothing writes to the origin.
Status Snapshots::note_merge(const SnapshotNode& found, const Origin& origin,
                             const std::string& path, bool defined) const {
  VOLFS_TRY_ASSIGN(MergeRecord record, describe_merge(origin, *found.below.store));
  record.snapshot = found.node->name;
  record.store = std::filesystem::absolute(path);
  record.kind = found.kind;
  record.made = made_.contains(path);
  VOLFS_TRY(write_record(marker_of(path), record));
  if (defined) return {};
  return write_record(record_of(engine_.directory_, record.snapshot), record);
}

// A store that was made goes, and the record last: until then it says what the file is. Wherever
// this is interrupted, the next mount ends it.
Status Snapshots::note_merged(const std::string& name, const Store& store, bool drop) const {
  const std::string path = record_of(engine_.directory_, name);
  auto record = read_record(path);
  if (!record && record.error().code() != ENOENT) return fail(std::move(record.error()));
  const bool goes = drop && record && store.made;
  if (goes) {
    record->merged = true;
    VOLFS_TRY(write_record(path, *record));
  }
  VOLFS_TRY(remove_file(marker_of(store.path)));
  if (goes) VOLFS_TRY(remove_file(store.path));
  return record ? remove_file(path) : Status();
}

Status Snapshots::forget_merged(const MergeRecord& record) const {
  bool ours = false;
  {
    const auto image = FileImage::open("merged", record.store, {.read_only = true});
    if (!image && image.error().code() == EBUSY) return fail(Error(image.error()));
    const auto info = image ? dm::inspect_store(**image) : dm::StoreInfo{};
    ours = info && info->kind == dm::StoreInfo::Kind::store && info->valid &&
           info->first_new == 0 && (*image)->size() == record.store_size;
  }
  log_info("{}: was merged into {}; {}", record.snapshot, record.origin,
           ours ? record.store + " goes" : "nothing is left of it");
  return note_merged(record.snapshot, {.path = record.store, .made = ours && record.made}, true);
}

Status Snapshots::show_merge(Origin& origin, BlockDevice& store, const std::string& kind,
                             uint64_t chunk_sectors) {
  return load_over(origin.change, "snapshot-merge", {origin.real, &store},
                   snapshot_words(kind, chunk_sectors),
                   {.size = origin.top->size(), .origins = engine_.origins_});
}

Status Snapshots::register_merge(const std::string& name, Origin origin, const Store& store,
                                 bool defined) {
  auto merge = std::make_shared<Merge>();
  merge->name = name;
  merge->origin = &*origin.pin;
  merge->origin_name = origin.pin->name;
  merge->pin = std::make_unique<Graph::Pin>(std::move(origin.pin));
  merge->top = origin.top;
  merge->real = origin.real;
  merge->store = store;
  merge->defined = defined;
  Merge& known = *merge;
  const std::lock_guard lock(merges_mutex_);
  merges_[name] = std::move(merge);
  VOLFS_TRY_ASSIGN(known.watcher, Thread::start("merge-watch", [this, &known] { watch(known); }));
  return {};
}

// Waits for the end of a merge, and cleans up behind it.
void Snapshots::watch(Merge& merge) {
  uint32_t seen = merge.top->info().event_nr;
  while (true) {
    SnapshotState state;
    read_status(*merge.top, state);
    // An overflowed snapshot is merged all the same, and says how far only when nothing is left.
    const bool overflowed = state.state == "overflow";
    if (!state.state.empty() && !overflowed) {
      const std::lock_guard lock(merges_mutex_);
      merge.state = state.state;
      merges_changed_.notify_all();
      return;
    }
    if (!overflowed && state.used == state.metadata) return finish(merge);
    {
      const std::lock_guard lock(merges_mutex_);
      if (closing_ && merge.defined) return;
    }
    seen = merge.top->wait_event(seen, now() + std::chrono::milliseconds(100));
  }
}

// The origin shows what was merged into it. A map that somebody has suspended stays so.
void Snapshots::end_merge(Merge& merge) {
  auto change = merge.top->change();
  if (!change) return;  // never: there is no deadline
  Origin origin{.pin = *engine_.graph_.pin(*merge.origin->device),
                .top = merge.top,
                .change = std::move(*change),
                .real = merge.real};
  if (lowered_.contains(merge.real)) {
    auto lower = dynamic_cast<dm::MappedDevice&>(*merge.real).change();
    if (lower) origin.lower.emplace(std::move(*lower));
  }
  const bool ours = !merge.top->suspended();
  if (ours)
    if (auto suspended = origin.change.suspend(); !suspended)
      log_error("{}", suspended.error().text());
  settle(origin);
  if (ours)
    if (auto resumed = origin.change.resume(); !resumed) log_error("{}", resumed.error().text());
}

void Snapshots::finish(Merge& merge) {
  const Turn turn(*this);
  end_merge(merge);
  if (merge.origin->volume) engine_.catalog_->changed(*merge.origin->volume);
  if (merge.store.own) remove_node(merge.store.name);
  if (auto noted = note_merged(merge.name, merge.store, true); !noted)
    log_error("{}", noted.error().text());
  made_.erase(merge.store.path);
  merge.pin.reset();
  const std::lock_guard lock(merges_mutex_);
  merge.state = "merged";
  merges_changed_.notify_all();
}

Status Snapshots::continue_merge(const MergeRecord& record, Node& store, bool defined,
                                 bool read_only) {
  const Turn turn(*this);
  VOLFS_TRY_ASSIGN(Origin origin, locate(record.origin));
  if (!origin.real) {
    VOLFS_TRY(origin.change.suspend());
    VOLFS_TRY(lower_table(origin));
  }
  VOLFS_TRY_ASSIGN(const MergeRecord present, describe_merge(origin, *store.device));
  VOLFS_TRY(check_record(record, present));
  // As the snapshot shows it, for now: other snapshots of the origin may be yet to come, and must
  // have their copies of what the merge overwrites.
  VOLFS_TRY(load_over(origin.change, "snapshot", {origin.real, store.device.get()},
                      snapshot_words(record.kind, record.chunk_size / sector_size),
                      {.size = origin.top->size(),
                       .read_only = read_only || origin.top->read_only(),
                       .origins = engine_.origins_}));
  VOLFS_TRY(origin.change.resume());
  if (read_only) return {};
  if (record.made) made_.insert(record.store);
  auto merge = std::make_unique<Waiting>(
      Waiting{.name = record.snapshot,
              .origin = origin.pin->name,
              .top = origin.top,
              .real = origin.real,
              .store = {.name = store.name,
                        .path = record.store,
                        .made = record.made,
                        .own = store.internal || store.name == record.snapshot + "-cow"},
              .device = store.device.get(),
              .kind = record.kind,
              .chunk_sectors = record.chunk_size / sector_size,
              .defined = defined});
  waiting_.push_back(std::move(merge));
  return {};
}

Status Snapshots::start_merges() {
  const Turn turn(*this);
  for (const auto& merge : std::exchange(waiting_, {})) {
    VOLFS_TRY_ASSIGN(Graph::Pin pin, engine_.graph_.pin(merge->origin));
    VOLFS_TRY_ASSIGN(Origin origin, take_turn(std::move(pin), *merge->top));
    origin.real = merge->real;  // under a snapshot, for now
    VOLFS_TRY(
        in(merge->name, show_merge(origin, *merge->device, merge->kind, merge->chunk_sectors)));
    VOLFS_TRY(in(merge->name, origin.change.resume()));
    VOLFS_TRY(register_merge(merge->name, std::move(origin), merge->store, merge->defined));
  }
  return {};
}

// What is known of the merge of an earlier snapshot of the name.
void Snapshots::forget_merge(std::string_view name) {
  std::shared_ptr<Merge> gone;
  {
    const std::lock_guard lock(merges_mutex_);
    const auto known = merges_.find(name);
    if (known == merges_.end()) return;
    gone = std::move(known->second);
    merges_.erase(known);
  }
  gone->watcher.join();
}

Result<SnapshotState> Snapshots::state(std::string_view name) const {
  SnapshotState out;
  out.name = name;
  {
    const std::lock_guard lock(merges_mutex_);
    if (const auto known = merges_.find(name); known != merges_.end()) {
      const Merge& merge = *known->second;
      out.origin = merge.origin_name;
      if (merge.state == "merging") read_status(*merge.top, out);
      out.state = merge.state;
      return out;
    }
  }
  VOLFS_TRY_ASSIGN(const Graph::Pin pin, engine_.graph_.pin(name));
  VOLFS_TRY_ASSIGN(const SnapshotNode found, find_snapshot(engine_.graph_, name));
  out.state = "active";
  read_status(*found.map, out);
  const auto origin = origin_of(*found.below.origin);
  out.origin = origin ? (*origin)->name : found.below.origin->name();
  return out;
}

Status Snapshots::wait(std::string_view name, TimePoint deadline) {
  const std::lock_guard lock(merges_mutex_);
  const auto known = merges_.find(name);
  if (known == merges_.end()) return fail_invalid(fmt::format("{}: is not being merged", name));
  const std::shared_ptr<const Merge> kept = known->second;  // forget() may come meanwhile
  const Merge& merge = *kept;
  if (!merges_changed_.wait_until(merges_mutex_, deadline,
                                  [&] { return merge.state != "merging"; }))
    return fail(Error::make(ETIMEDOUT, fmt::format("{}: is still being merged", name)));
  if (merge.state == "merged") return {};
  return fail(Error::make(EIO, fmt::format("{}: {}", name, merge.state)));
}

void Snapshots::close() {
  {
    const std::lock_guard lock(merges_mutex_);
    closing_ = true;
  }
  for (auto& [name, merge] : merges_) merge->watcher.join();
  for (const std::string& name : taken_)
    if (!merges_.contains(name))
      log_warning("{}: is not in the definition: a mount without it makes its store worthless",
                  name);
  taken_.clear();
  merges_.clear();
}

}  // namespace volfs::engine
