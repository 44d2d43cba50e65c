// SPDX-License-Identifier: GPL-2.0-or-later
// What a mount shows: the volumes, by path ("md0", "vg0/root"), as a server of files sees them.
// The engine adds and removes; any thread may look.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/backing/file_identity.h"
#include "volfs/block_device.h"
#include "volfs/byte_access.h"
#include "volfs/error.h"
#include "volfs/io_counters.h"
#include "volfs/sync.h"

namespace volfs::engine {

class EventHub;

// Owner and permission bits of an exposed file or directory.
struct Exposure {
  mode_t mode = 0600;
  uid_t uid = 0;
  gid_t gid = 0;
};

// One exposed device. Kept alive by whoever holds it; its device is valid while the volume is in
// the catalog or opened.
class Volume {
 public:
  Volume(uint64_t inode, std::string path, BlockDevice& device, const Exposure& exposure);

  uint64_t inode() const { return inode_; }
  // "vg0/root"; changes on rename.
  std::string path() const;
  const Exposure& exposure() const { return exposure_; }
  // The device with byte granularity: what file operations work on.
  BlockDevice& bytes() { return bytes_; }
  BlockDevice& device() { return device_; }
  uint64_t size() const { return bytes_.size(); }
  bool read_only() const { return device_.read_only(); }
  // After the device below has changed size or permission.
  void refresh() {
    bytes_.refresh();
    touched();
  }

  // Bytes that are allocated on the images, for st_blocks; estimated by samples for those in very
  // many pieces. Walks the allocation when something was written since the last call and may read
  // metadata of many extents: call it where waiting is allowed. allocated_if_known answers at once.
  uint64_t allocated();
  std::optional<uint64_t> allocated_if_known() const;
  // Told by the server after a write, discard or write_zeroes: st_blocks must be found anew, and
  // st_mtime is now.
  void touched();
  // Wall-clock time of the last change, or of the assembly.
  Nanos modified() const { return Nanos(modified_.load(std::memory_order_relaxed)); }

  // Open files of it; a volume that is open is not removed. False once removal has begun.
  bool open();
  void close();
  uint64_t open_count() const;
  // Waits until no file of it is open; false when DEADLINE has passed.
  bool wait_unused(TimePoint deadline);

  // Counted by the server, one for each request.
  IoCounters& counters() { return counters_; }
  const IoCounters& counters() const { return counters_; }

 private:
  friend class Catalog;
  const uint64_t inode_;
  BlockDevice& device_;
  ByteAccess bytes_;
  const Exposure exposure_;
  IoCounters counters_;
  std::atomic<int64_t> modified_;
  std::atomic<uint64_t> changes_{1};
  mutable Mutex mutex_;  // guards all below
  CondVar unused_;
  std::string path_;
  uint64_t open_count_ = 0;
  bool going_ = false;
  uint64_t known_at_ = 0;  // value of changes_ at which allocated_ was true; 0: never
  uint64_t allocated_ = 0;
};

class Catalog {
 public:
  static constexpr uint64_t root = 1;  // inode number of the mounted directory

  struct Node {
    uint64_t inode;
    std::string name;                // last component
    std::shared_ptr<Volume> volume;  // null: a directory
  };
  // Told after a name has come or gone (not for add before the first listener); must not call
  // back into the catalog. PARENT is the directory's inode, CHILD the inode that left or came.
  struct Listener {
    virtual void name_changed(uint64_t parent, const std::string& name, uint64_t child) = 0;
    // Told after a volume has got another size, permission or data, otherwise than by writing.
    virtual void volume_changed(uint64_t inode) = 0;

   protected:
    ~Listener() = default;
  };

  explicit Catalog(const Exposure& exposure);

  // Makes a volume of DEVICE at PATH (one or two components, none hidden or odd); directories come
  // and go by themselves. EEXIST.
  Result<std::shared_ptr<Volume>> add(std::string_view path, BlockDevice& device,
                                      const Exposure& exposure);
  Result<std::shared_ptr<Volume>> add(std::string_view path, BlockDevice& device) {
    return add(path, device, exposure_);
  }
  // EBUSY when it is open, ENOENT.
  Status remove(std::string_view path);
  // The volumes are files of the file system DEVICE from now on, which can hold no images. Once,
  // before anything is served.
  void set_file_system(dev_t device) { served_.emplace(device); }
  // EEXIST, ENOENT.
  Status rename(std::string_view from, std::string_view to);

  // After the device of VOLUME has changed size, permission or data otherwise than by writing.
  void changed(Volume& volume);

  std::shared_ptr<Volume> find(std::string_view path) const;
  std::vector<std::shared_ptr<Volume>> volumes() const;

  // By inode, for a server of files. nullopt: no such thing (any more).
  std::optional<Node> get(uint64_t inode) const;
  std::optional<Node> lookup(uint64_t parent, std::string_view name) const;
  // In the order of names.
  std::vector<Node> list(uint64_t directory) const;
  const Exposure& exposure() const { return exposure_; }

  // Where names that come, go or change are published. HUB outlives this.
  void publish_to(EventHub& hub);

  // One listener; null: none. Waits until a call under way has returned.
  void set_listener(Listener* listener);

 private:
  struct Entry {
    uint64_t parent;
    Node node;
    std::map<std::string, uint64_t, std::less<>> children;
  };
  Result<uint64_t> make_parent(std::string_view directory);
  void drop_if_empty(uint64_t directory, std::vector<std::pair<uint64_t, Node>>& gone);
  const Entry* walk(std::string_view path) const;
  void publish(const char* type, std::string_view path, std::string_view from = {});
  void tell(const std::vector<std::pair<uint64_t, Node>>& changes);

  const Exposure exposure_;
  std::optional<ServedFileSystem> served_;
  mutable Mutex mutex_;  // guards entries_ and next_inode_
  std::map<uint64_t, Entry> entries_;
  uint64_t next_inode_ = 2;
  std::atomic<EventHub*> hub_{nullptr};
  Mutex listener_mutex_;  // guards listener_; held while it is called
  Listener* listener_ = nullptr;
};

}  // namespace volfs::engine
