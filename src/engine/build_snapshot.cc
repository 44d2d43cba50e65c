// SPDX-License-Identifier: GPL-2.0-or-later
// Snapshots of a definition, outside LVM: device-mapper's, over a store that is an image.
#include <fmt/format.h>

#include "assembler.h"
#include "volfs/backing/image.h"
#include "volfs/dm/table.h"
#include "volfs/engine/snapshots.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

// The name of the device that holds a snapshot's chunks.
std::string cow_name(const config::Snapshot& snapshot) {
  return snapshot.cow_image ? snapshot.name.value + "-cow" : snapshot.cow_device.value;
}

std::string table_of(const config::Snapshot& snapshot, uint64_t sectors) {
  const char* store = !snapshot.persistent.value ? "N" : snapshot.overflow.value ? "PO" : "P";
  std::string table = fmt::format(
      "0 {} snapshot {} {} {} {}", sectors, dm::escape_word(snapshot.origin.value + "-real"),
      dm::escape_word(cow_name(snapshot)), store, snapshot.chunk_size.value / sector_size);
  const bool zeroes = snapshot.discard_zeroes_cow.value;
  const bool passdown = snapshot.discard_passdown_origin.value;
  if (zeroes) table += fmt::format(" {} discard_zeroes_cow", passdown ? 2 : 1);
  if (passdown) table += zeroes ? " discard_passdown_origin" : " 1 discard_passdown_origin";
  return table;
}

}  // namespace

// An earlier mount began to merge the snapshot: there is no other right view of the origin than
// with the rest of the snapshot laid over it.
bool Assembler::merge_goes_on(const config::Snapshot& snapshot) {
  if (!snapshot.cow_image ||
      !Snapshots::merge_was_begun(resolve_path(options_.directory, snapshot.cow_image->path.value)))
    return false;
  Node* const origin = engine_->graph().find(snapshot.origin.value);
  Node* const store = engine_->graph().find(cow_name(snapshot));
  log_info("{}: is being merged into {}; that goes on", snapshot.name.value, snapshot.origin.value);
  const bool read_only = engine_->read_only() || options_.probe;
  auto goes_on = engine_->snapshots().continue_merge(snapshot.name.value, *origin, *store,
                                                     snapshot.overflow.value ? "PO" : "P",
                                                     snapshot.chunk_size.value, read_only);
  if (!goes_on)
    report(snapshot.name.at, fmt::format("{}: {}", snapshot.name.value, goes_on.error().text()));
  return true;
}

void Assembler::build(const config::Snapshot& snapshot) {
  Node* origin = engine_->graph().find(snapshot.origin.value + "-real");
  if (!origin) {
    // A logical volume is shown by its group, which makes no place for a snapshot-origin.
    if (device(snapshot.origin))
      report(snapshot.origin.at, fmt::format("{}: snapshots of logical volumes are lvm2's: "
                                             "`type: snapshot` in its volume group",
                                             snapshot.origin.value));
    return;
  }
  if (snapshot.cow_image) {
    config::Image image = *snapshot.cow_image;
    image.name = {cow_name(snapshot), snapshot.name.at};
    build(image);
    if (!engine_->graph().find(image.name.value)) return;
  } else if (!device(snapshot.cow_device)) {
    return;
  }
  if (merge_goes_on(snapshot)) return;
  const bool read_only = engine_->read_only() || snapshot.readonly.value;
  const uint64_t sectors = origin->device->size() / sector_size;
  const auto node =
      add_map(snapshot.name.value, Kind::snapshot, table_of(snapshot, sectors), read_only);
  if (!node)
    return report(snapshot.name.at,
                  fmt::format("{}: {}", snapshot.name.value, node.error().text()));
  (*node)->read_only_wanted = snapshot.readonly.value;
  if (!snapshot.hidden.value || options_.hidden || definition_.expose.hidden.value)
    expose(**node, snapshot.name.value, snapshot.name.at);
}

}  // namespace volfs::engine
