// SPDX-License-Identifier: GPL-2.0-or-later
// The device graph: every device of a mount by the name that definitions, tables and messages
// use, with who stands on whom. It owns the devices and takes them down from the top.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/engine/catalog.h"
#include "volfs/error.h"
#include "volfs/sync.h"

namespace volfs::engine {

enum class Kind { image, array, map, snapshot, logical_volume };
std::string_view to_string(Kind kind);

// What a device is good for, as far as its own parts decide.
enum class Health {
  active,    // all is there
  degraded,  // all data is there, without the redundancy that it should have
  partial,   // some of its data is missing, and gives errors
  failed,    // none of it can be used
};
std::string_view to_string(Health health);

// What was said of an image when it was opened.
struct ImageSource {
  std::string path;  // absolute, or from the daemon's first directory
  unsigned partition = 0;
  uint64_t offset = 0, length = 0;  // length 0: to the end
  uint64_t pad = 0;
  bool read_only = false, direct = false;
};

struct Node {
  std::string name;
  Kind kind = Kind::image;
  std::unique_ptr<BlockDevice> device;
  // A map over the device through which all others use it, so that a table can be swapped in
  // between (an array's snapshots). Null: the device is a map itself, or needs none.
  std::unique_ptr<BlockDevice> front;
  std::shared_ptr<Volume> volume;     // null: not exposed
  std::string uuid;                   // as the user gave it or the disks say; may be empty
  bool leaving = false;               // about to be removed: nothing new may stand on it. The
                                      // graph's, as PINS
  bool internal = false;              // a part of another device ("vg0-root_rimage_0")
  Health health = Health::active;     // as it was built; arrays tell their own
  std::string problem;                // why it is not active
  bool read_only_wanted = false;      // by the definition or the disks, however it was opened
  std::optional<ImageSource> source;  // of an image
  uint64_t serial = 0;                // rises in the order of building
  unsigned pins = 0;  // operations under way on it, which keep it from being removed

  // What others stand on.
  BlockDevice& shown() const { return front ? *front : *device; }
};

// Structure changes (add, remove, rename) are the engine's, one at a time; all functions may be
// called by any thread. A Node stays where it is until it is removed.
class Graph {
 public:
  Graph() = default;
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // EEXIST.
  Result<Node*> add(std::string name, Kind kind, std::unique_ptr<BlockDevice> device);
  // Before anybody knows the node.
  void set_front(Node& node, std::unique_ptr<BlockDevice> front);
  // Keeps a node from being removed for as long as it lives.
  class Pin {
   public:
    Pin(Pin&& other) noexcept : graph_(other.graph_), node_(std::exchange(other.node_, nullptr)) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin();
    Node& operator*() const { return *node_; }
    Node* operator->() const { return node_; }

   private:
    friend class Graph;
    Pin(const Graph& graph, Node& node) : graph_(graph), node_(&node) {}
    const Graph& graph_;
    Node* node_;
  };
  // ENOENT.
  Result<Pin> pin(std::string_view name) const;
  // Of a node that the caller knows to be there, leaving or not; null if it is none's.
  std::optional<Pin> pin(const BlockDevice& device) const;
  // A node that leaves is no longer found or pinned by name; who has it leave removes it, or lets
  // it stay after all. It is ended by nobody else meanwhile.
  void set_leaving(Node& node, bool leaving);
  bool pinned(const Node& node) const;
  // Waits until no operation keeps it; false at the deadline.
  bool wait_unpinned(const Node& node, TimePoint deadline) const;
  // Null: no such name, or it is leaving. Valid while the caller keeps it from being removed, by a
  // pin or because only the caller changes the structure.
  Node* find(std::string_view name) const;
  // The node of a device or of a front; null if it is none's.
  Node* find(const BlockDevice& device) const;
  // A second name by which find() and pin() know a node, for as long as the node is there.
  void add_alias(std::string alias, Node& node);
  void remove_alias(std::string_view alias);
  // ENOENT, EBUSY with the users' names or while it is pinned. Who takes it destroys it.
  Result<std::unique_ptr<Node>> take(std::string_view name);
  Status remove(std::string_view name);  // and destroys it
  Status rename(std::string_view from, std::string_view to);

  // The names of what stands directly on DEVICE, in the order of building.
  std::vector<std::string> users(const BlockDevice& device) const;
  // The same of every node at once, in the time of one look at each; those without are left out.
  // The nodes are valid while the caller keeps them from being removed.
  std::unordered_map<const Node*, std::vector<std::string>> all_users() const;
  // The names from UPPER down to LOWER, if UPPER is it or stands on it, with tables that are loaded
  // and not active yet; else none. Both stay meanwhile.
  std::vector<std::string> way_down(const Node& upper, const Node& lower) const;
  // All nodes, each after what it stands on.
  std::vector<Node*> nodes() const;

 private:
  std::vector<std::string> users_locked(const BlockDevice& device) const;
  std::vector<const Node*> below_locked(const Node& node) const;
  std::vector<Node*> nodes_locked() const;
  Node* find_locked(std::string_view name) const;
  mutable Mutex mutex_;  // guards all below
  mutable CondVar unpinned_;
  std::map<std::string, std::unique_ptr<Node>, std::less<>> nodes_;
  std::map<const BlockDevice*, Node*> by_device_;
  std::map<std::string, Node*, std::less<>> aliases_;
  uint64_t next_serial_ = 1;
};

}  // namespace volfs::engine
