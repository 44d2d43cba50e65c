// SPDX-License-Identifier: GPL-2.0-or-later
// What taking, dropping and merging snapshots have in common.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/dm/mapped_device.h"
#include "volfs/dm/table.h"
#include "volfs/engine/snapshots.h"

namespace volfs::engine {

// How long an operation waits for I/O that is under way.
inline constexpr Nanos suspend_patience = std::chrono::seconds(30);

// How long one that only looks at a device may keep it from leaving.
inline constexpr Nanos unpinning_patience = std::chrono::seconds(2);

class Snapshots::Turn {
 public:
  explicit Turn(Snapshots& owner);
  ~Turn();
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Snapshots& owner_;
};

// The map that a node's users stand on; null if that is none.
dm::MappedDevice* map_of(const Node& node);
// The only row of a table; an empty one if there are more, or none.
dm::TableRow first_row(const dm::MappedDevice& map);

struct Below {
  BlockDevice* origin = nullptr;
  BlockDevice* store = nullptr;
};
struct LoadOver {
  uint64_t size = 0;
  bool read_only = false;
  dm::OriginRegistry& origins;
};
// Loads a table of one row, in whose ARGS the words "origin" and "store" name what is BELOW.
Status load_over(dm::MappedDevice& map, const std::string& type, const Below& below,
                 std::vector<std::string> args, const LoadOver& options);
Status load_over(dm::MappedDevice::Change& map, const std::string& type, const Below& below,
                 std::vector<std::string> args, const LoadOver& options);
// Arguments of snapshot and snapshot-merge.
std::vector<std::string> snapshot_words(const std::string& kind, uint64_t chunk_sectors);

// A snapshot of the mount, and what it stands on.
struct SnapshotNode {
  Node* node = nullptr;
  dm::MappedDevice* map = nullptr;
  Below below;
  Node* store = nullptr;
  std::string kind;            // "P", "PO" or "N"
  uint64_t chunk_sectors = 0;  // as the store says
  // The store's file; empty if it is none, or not of its own.
  std::string path() const;
  // Whether the store is there for the snapshot only, and not an image with a name.
  bool owns_store() const;
};
// ENOENT, EINVAL.
Result<SnapshotNode> find_snapshot(const Graph& graph, std::string_view name);
// EBUSY if the snapshot is open or something stands on it.
Status take_off_catalog(Catalog& catalog, const Graph& graph, Node& node);

// What a snapshot's or merge's status says, in bytes.
void read_status(const dm::MappedDevice& map, SnapshotState& out);

}  // namespace volfs::engine
