// SPDX-License-Identifier: GPL-2.0-or-later
// Snapshots that are taken, dropped and merged while their origins are in use.
//
// How one is taken. Whatever is exposed can get another table under its users: a map or logical
// volume because it is one, an array because a map is in front of it (Node::front). So the origin's
// map is suspended, which drains and flushes it; its table goes to a map NAME-real below (an array
// needs none); the snapshot is made over that; the origin's map becomes a snapshot-origin over it
// and goes on. What was written before is in the snapshot, what comes after is not, and open files
// stay open. When the last snapshot has gone the origin gets its own table back.
//
// A merge takes the snapshot's name away and shows its contents under the origin's name at once;
// the chunks follow in the background. As long as that goes on, files tell the next mount to go on
// with the merge instead of showing the snapshot (engine/merge_record.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/dm/mapped_device.h"
#include "volfs/engine/graph.h"
#include "volfs/error.h"
#include "volfs/sync.h"

namespace volfs::engine {

class Engine;
struct MergeRecord;
struct SnapshotNode;

struct SnapshotRequest {
  std::string name;
  std::string origin;  // the path of a volume
  std::string store;   // the file, made if it is not there; empty: NAME.cow beside the definition
  uint64_t size = 0;   // bytes of a file that is made; 0: as much as it can ever need, sparse
  uint64_t chunk_size = 0;  // bytes, a power of two; 0: 16 KiB
  bool overflow = false;    // PO
};

struct SnapshotState {
  std::string name;
  std::string origin;  // the name of the origin's device
  std::string state;   // "active", "invalid", "overflow", "merging", "merge failed", "merged"
  uint64_t used = 0;   // bytes of the store, metadata included
  uint64_t total = 0;  // bytes; 0 when USED and METADATA are not known
  uint64_t metadata = 0;
};

class Snapshots {
 public:
  explicit Snapshots(Engine& engine) : engine_(engine) {}
  ~Snapshots() { close(); }
  Snapshots(const Snapshots&) = delete;
  Snapshots& operator=(const Snapshots&) = delete;

  // All of these: any thread, one at a time, and in turn with whatever else changes the origin's
  // map (Engine::map_load and its like, a change of its volume group). They wait for that and for
  // the origin's I/O, at most 30 seconds each (ETIMEDOUT). EBUSY: the origin, or a map that it
  // stands on, is suspended, or a table was loaded into it that is not active. After any error all
  // is as it was.

  // EEXIST: the name is taken, or the file holds something. EBUSY: the origin is being merged into.
  // EINVAL, ENOENT, EROFS, what the files say.
  Status create(const SnapshotRequest& request);
  // Drops the snapshot. Its file goes if create() made it, else it is marked invalid: it will not
  // hold what the origin loses from now on. EBUSY if it is in use.
  Status remove(std::string_view name);
  // EBUSY while it, its origin or a map on that is open, and if an array, a volume group or another
  // origin stands there; EINVAL if it is invalid.
  Status merge(std::string_view name);
  Result<SnapshotState> state(std::string_view name) const;
  // Waits until the merge of NAME has ended. EINVAL if it is not being merged, ETIMEDOUT, EIO if it
  // failed.
  Status wait(std::string_view name, TimePoint deadline);

  // EBUSY if NODE is an origin that has snapshots. The caller holds the engine's structure lock.
  Status check_removable(const Node& node) const;

  // For the assembly: REAL is the map NAME-real that holds the table of its origin NAME, which
  // gets it back when its last snapshot goes.
  void adopt(const BlockDevice& real) { lowered_.insert(&real); }

  // For the assembly: the origin's map shows from now on what the snapshot in STORE does; unless
  // READ_ONLY the merge goes on with start_merges(), to be called once all snapshots are there.
  // DEFINED: the definition has the snapshot. ESTALE: these are not the devices of RECORD.
  Status continue_merge(const MergeRecord& record, Node& store, bool defined, bool read_only);
  Status start_merges();
  // Whether a device is there that the origin of RECORD was or lay on.
  bool has_ground_of(const MergeRecord& record) const;
  // Removes what is left of a merge that was done.
  Status forget_merged(const MergeRecord& record) const;

  // Ends background work. A merge of a snapshot that no definition knows is carried to its end; the
  // others go on at the next mount.
  void close();

 private:
  class Turn;
  // A volume whose turn to be changed was taken: nobody else suspends, resumes or loads the map
  // that shows it, or the one below with its table, as long as this lives.
  struct Origin {
    Graph::Pin pin;
    dm::MappedDevice* top = nullptr;  // the map that can be given another table
    dm::MappedDevice::Change change;  // of TOP
    BlockDevice* real = nullptr;      // what snapshots are of; null: the table of TOP, once moved
    std::optional<dm::MappedDevice::Change> lower = {};  // of REAL, if that is NAME-real
    bool is_origin = false, is_merge = false;  // TOP is a snapshot-origin, a snapshot-merge already
  };
  struct Store {
    std::string name, path;
    bool made = false;  // by create()
    bool own = true;    // the device is there for the snapshot only
  };
  struct Merge {
    Node* origin = nullptr;  // stays: it is pinned
    std::string name, origin_name;
    std::unique_ptr<Graph::Pin> pin;
    dm::MappedDevice* top = nullptr;
    BlockDevice* real = nullptr;
    Store store;
    Thread watcher;
    bool defined = false;  // by the definition: the next mount knows of it
    std::string state = "merging";
  };

  struct Waiting {
    std::string name, origin;
    dm::MappedDevice* top = nullptr;
    BlockDevice* real = nullptr;
    Store store;
    BlockDevice* device = nullptr;  // the store's
    std::string kind;
    uint64_t chunk_sectors = 0;
    bool defined = false;
  };

  Result<Origin> locate(std::string_view path) const;
  Result<Origin> take_turn(Graph::Pin pin, dm::MappedDevice& top) const;
  Status check_ready(const Origin& origin) const;
  std::optional<Graph::Pin> origin_of(const BlockDevice& real) const;
  Result<Store> open_store(const SnapshotRequest& request, uint64_t origin_size);
  void drop_store(const Store& store);
  Status insert(const SnapshotRequest& request, Origin& origin, const Store& store);
  Status lower_table(Origin& origin);
  void take_back(const std::string& name, Origin& origin);
  bool raise_table(Origin& origin);
  void settle(Origin& origin);
  unsigned count_snapshots(const dm::MappedDevice& top, const BlockDevice& real) const;
  Status withdraw(Node& node);
  void show_again(Node& node, bool shown);
  Status show_merge(Origin& origin, BlockDevice& store, const std::string& kind,
                    uint64_t chunk_sectors);
  Status register_merge(const std::string& name, Origin origin, const Store& store, bool defined);
  void find_ground(const BlockDevice& device, std::vector<std::string>& out) const;
  Result<MergeRecord> describe_merge(const Origin& origin, BlockDevice& store) const;
  Status note_merge(const SnapshotNode& found, const Origin& origin, const std::string& path,
                    bool defined) const;
  // DROP: the store's file goes, if it was made.
  Status note_merged(const std::string& name, const Store& store, bool drop) const;
  Status check_unused(const Node& origin, const BlockDevice& top) const;
  void forget_merge(std::string_view name);
  void watch(Merge& merge);
  void end_merge(Merge& merge);
  void finish(Merge& merge);
  Node* add_internal(const std::string& name, Kind kind, std::unique_ptr<BlockDevice> device);
  Node* add_node(const std::string& name, Kind kind, std::unique_ptr<BlockDevice> device);
  void remove_node(const std::string& name);

  Engine& engine_;
  Mutex turn_mutex_;  // guards the next
  CondVar turn_changed_;
  bool turn_taken_ = false;
  // With the turn.
  std::set<std::string> made_;            // files that create() made
  std::set<const BlockDevice*> lowered_;  // NAME-real maps that hold their origin's own table
  std::set<std::string> taken_;           // snapshots that create() made
  std::vector<std::unique_ptr<Waiting>> waiting_;  // merges, for start_merges()
  mutable Mutex merges_mutex_;                     // guards what follows, and Merge::state
  mutable CondVar merges_changed_;
  std::map<std::string, std::shared_ptr<Merge>, std::less<>> merges_;
  bool closing_ = false;
};

}  // namespace volfs::engine
