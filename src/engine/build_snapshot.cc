// SPDX-License-Identifier: GPL-2.0-or-later
// Snapshots of a definition, outside LVM: device-mapper's, over a store that is an image.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "assembler.h"
#include "merge_record.h"
#include "snapshot_parts.h"
#include "volfs/backing/image.h"
#include "volfs/engine/overlay.h"
#include "volfs/engine/snapshots.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

// The name of the device that holds a snapshot's chunks.
std::string cow_name(const config::Snapshot& snapshot) {
  return snapshot.cow_image ? snapshot.name.value + "-cow" : snapshot.cow_device.value;
}

std::vector<std::string> words_of(const config::Snapshot& snapshot) {
  auto words = snapshot_words(!snapshot.persistent.value ? "N"
                              : snapshot.overflow.value  ? "PO"
                                                         : "P",
                              snapshot.chunk_size.value / sector_size);
  std::vector<std::string> features;
  if (snapshot.discard_zeroes_cow.value) features.emplace_back("discard_zeroes_cow");
  if (snapshot.discard_passdown_origin.value) features.emplace_back("discard_passdown_origin");
  if (features.empty()) return words;
  words.push_back(fmt::format("{}", features.size()));
  words.insert(words.end(), features.begin(), features.end());
  return words;
}

}  // namespace

// An earlier mount began to merge the snapshot: there is no other right view of the origin than
// with the rest of the snapshot laid over it.
bool Assembler::merge_goes_on(const config::Snapshot& snapshot, Node& store) {
  const auto* image = dynamic_cast<const FileImage*>(store.device.get());
  if (!image) return false;
  const std::string marker = marker_of(image->path());
  auto record = read_record(marker);
  if (!record && record.error().code() == ENOENT) return false;
  const auto refuse = [&](const std::string& what) {
    report(
        snapshot.name.at,
        fmt::format("{}: {}: {}", snapshot.name.value, what,
                    "where a merge was begun, what it was begun with must be there again; to have "
                    "snapshot and origin as they are now, remove " +
                        marker));
    return true;
  };
  if (!record) return refuse(record.error().text());
  const bool renamed = record->origin != snapshot.origin.value;
  if (!snapshot.persistent.value) return refuse("it was being merged, and is not persistent now");
  log_info("{}: is being merged into {}; that goes on", snapshot.name.value, snapshot.origin.value);
  record->snapshot = snapshot.name.value;
  record->store = image->path();
  record->made = false;
  Status goes_on =
      renamed ? fail(Error::make(ESTALE, fmt::format("the origin was {} and is {}", record->origin,
                                                     snapshot.origin.value)))
              : engine_->snapshots().continue_merge(*record, store, true,
                                                    engine_->read_only() || options_.probe);
  if (!goes_on)
    refuse(fmt::format("it was being merged into {}, and that cannot go on: {}", record->origin,
                       goes_on.error().text()));
  return true;
}

BlockDevice* Assembler::below_origin(const std::string& name) const {
  const Node* node = engine_->graph().find(name);
  if (!node) return nullptr;
  if (node->front) return node->device.get();
  node = engine_->graph().find(own_name(name, node->kind));
  return node && node->internal ? node->device.get() : nullptr;
}

Result<Node*> Assembler::add_snapshot(const config::Snapshot& snapshot, BlockDevice& origin,
                                      bool read_only) {
  auto map = std::make_unique<dm::MappedDevice>(snapshot.name.value);
  VOLFS_TRY(load_over(
      *map, "snapshot", {&origin, engine_->graph().find(cow_name(snapshot))->device.get()},
      words_of(snapshot),
      {.size = origin.size(), .read_only = read_only, .origins = engine_->origins_}));
  VOLFS_TRY(map->resume());
  return engine_->graph_.add(snapshot.name.value, Kind::snapshot, std::move(map));
}

// The same of snapshots that were taken at run time: once all is there that they could be of. Then
// all merges go on.
void Assembler::continue_merges() {
  const std::string overlay = engine_->overlay_ ? engine_->overlay_->directory() : "";
  const std::string definition = std::filesystem::path(definition_.file_name).filename();
  const bool read_only = engine_->read_only() || options_.probe;
  const FoundRecords found = read_records(options_.directory, definition, overlay);
  for (const std::string& text : found.foreign) warn(text);
  for (const Error& error : found.broken) report({}, error.text());
  for (const MergeRecord& record : found.records) {
    const std::string path = record_of(options_.directory, record.snapshot);
    if (record.merged) {
      if (read_only) continue;
      if (auto gone = engine_->snapshots().forget_merged(record); !gone)
        warn(fmt::format("{}: was merged, and its rest cannot be removed: {}", record.snapshot,
                         gone.error().text()));
      continue;
    }
    if (std::ranges::any_of(definition_.snapshots, [&](const config::Snapshot& snapshot) {
          return snapshot.name.value == record.snapshot;
        }))
      continue;
    if (!engine_->graph().find(record.origin)) {
      const std::string text = fmt::format("{}: {} was being merged into it, and it is not there",
                                           record.origin, record.snapshot);
      // What is there under another name is neither what it was nor what it will be.
      if (engine_->snapshots().has_ground_of(record))
        report({},
               fmt::format("{}, but what it lay on is; give it its name until the merge is done, "
                           "or, to have it as it is now, remove {}",
                           text, path));
      else
        warn(fmt::format("{}: {} remains", text, path));
      continue;
    }
    if (auto goes_on = continue_merge(record, read_only); !goes_on)
      report({}, fmt::format("{}: {} was being merged into it, and that cannot go on: {} ({} tells "
                             "of it)",
                             record.origin, record.snapshot, goes_on.error().text(), path));
  }
  if (!problems_.empty()) return;
  if (auto started = engine_->snapshots().start_merges(); !started)
    report({}, started.error().text());
}

Status Assembler::continue_merge(const MergeRecord& record, bool read_only) {
  const std::string name = record.snapshot + "-cow";
  VOLFS_TRY_ASSIGN(auto image, FileImage::open(name, record.store,
                                               {.read_only = read_only, .lock = !options_.probe}));
  if (!mount_read_only()) {
    VOLFS_TRY(check_overlap(engine_->graph(), *image));
  }
  VOLFS_TRY_ASSIGN(Node* const store, add_internal(name, Kind::image, std::move(image)));
  log_info("{}: is being merged into {}; that goes on", record.snapshot, record.origin);
  return engine_->snapshots().continue_merge(record, *store, false, read_only);
}

void Assembler::build(const config::Snapshot& snapshot) {
  BlockDevice* const origin = below_origin(snapshot.origin.value);
  if (!origin) {
    // A logical volume is shown by its group, which makes no place for a snapshot-origin; nor does
    // a snapshot.
    if (!device(snapshot.origin)) return;
    const bool second = engine_->graph().find(snapshot.origin.value)->kind == Kind::snapshot;
    return report(
        snapshot.origin.at,
        fmt::format("{}: {}", snapshot.origin.value,
                    second ? "is a snapshot itself: expected a map over it ('0 SECTORS linear " +
                                 snapshot.origin.value + " 0') as the origin of another"
                           : "snapshots of logical volumes are lvm2's: `type: snapshot` in its "
                             "volume group"));
  }
  if (snapshot.cow_image) {
    config::Image image = *snapshot.cow_image;
    image.name = {cow_name(snapshot), snapshot.name.at};
    build(image);
    if (!engine_->graph().find(image.name.value)) return;
  } else if (!device(snapshot.cow_device)) {
    return;
  }
  if (merge_goes_on(snapshot, *engine_->graph().find(cow_name(snapshot)))) return;
  const bool read_only = engine_->read_only() || snapshot.readonly.value;
  const auto node = add_snapshot(snapshot, *origin, read_only);
  if (!node)
    return report(snapshot.name.at,
                  fmt::format("{}: {}", snapshot.name.value, node.error().text()));
  (*node)->read_only_wanted = snapshot.readonly.value;
  if (!snapshot.hidden.value || options_.hidden || definition_.expose.hidden.value)
    expose(**node, snapshot.name.value, snapshot.name.at);
}

}  // namespace volfs::engine
