// SPDX-License-Identifier: GPL-2.0-or-later
// The engine: what a definition says, assembled. It opens the images, builds the devices on them
// bottom up, exposes them in a catalog, changes them while they are in use, and brings all of it
// to rest.
#pragma once

#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"
#include "volfs/dm/snapshot.h"
#include "volfs/engine/catalog.h"
#include "volfs/engine/events.h"
#include "volfs/engine/graph.h"
#include "volfs/engine/volume_group.h"
#include "volfs/error.h"
#include "volfs/sync.h"

namespace volfs {
struct ImageOptions;
}
namespace volfs::dm {
class MappedDevice;
}
namespace volfs::lvm {
struct FoundGroup;
struct PvInfo;
}  // namespace volfs::lvm

namespace volfs::engine {

class Overlay;
class Snapshots;

// Opens the image that a definition calls NAME.
using OpenImage = std::function<Result<std::unique_ptr<BlockDevice>>(
    const std::string& name, const std::string& path, const ImageOptions& options)>;

struct AssembleOptions {
  std::string directory;          // what relative paths of images start at
  OpenImage open_image = {};      // absent: FileImage::open; a simulation has disks of its own
  std::optional<bool> read_only;  // yes: nothing is written, not even metadata; absent: the
                                  // definition decides
  bool hidden = false;            // expose hidden devices too
  bool force = false;
  bool frozen = false;  // arrays and raid maps start no resync or recovery until they are told to
  bool probe = false;   // only to look: take no locks, so that a mounted definition can be checked
  bool quiet = false;   // what is missing or degraded is not told to the log
  // Volume groups as the copy of their metadata with this number describes them: read-only.
  std::optional<uint32_t> metadata_seqno = {};
  std::string overlay;  // the directory that takes all writes to images; empty: they get them
  std::optional<unsigned> mode;  // these win over the definition's `expose`
  std::optional<uid_t> owner;
  std::optional<gid_t> group;
  std::vector<Unavailable> unavailable = {};  // what a scan found and could not be assembled
};

struct NewImage {
  std::string name, path;  // the path is absolute
  bool read_only = false, direct = false;
  unsigned partition = 0;           // 0: all of it
  uint64_t offset = 0, length = 0;  // a range; length 0: to the end
  uint64_t pad = 0;                 // what the file's size is taken for if it is smaller
  bool activate = true;             // the volume group that it is a part of comes or grows with it
};

// How a volume group joins a running mount.
struct GroupActivation {
  std::vector<std::string> devices;  // where to look for its physical volumes; none: everywhere
  lvm::ActivationMode mode = lvm::ActivationMode::degraded;
  bool read_only = false;
  std::set<std::string> inactive;  // volumes that get no device
  std::set<std::string> hidden;    // that get one, and no file
};

struct NewMap {
  std::string uuid;  // as dmsetup's; may be empty
  bool read_only = false;
  bool hidden = false;  // no volume shows it, unless hidden devices are shown
};

// An array that is set up on a running mount, of devices of the mount.
struct NewArray {
  std::string name;
  std::vector<std::string> devices;  // by name; one that is to be created may have "missing" ones
  std::vector<std::string> spares;
  // What a definition would say beside: {"level", "raid5"}, {"chunk", "64KiB"}. Only of one that is
  // created; values without blanks or punctuation of YAML.
  std::vector<std::pair<std::string, std::string>> words;
  bool force = false;  // create: whatever the devices hold; assemble: though data may be lost
  bool read_only = false;
  bool activate = true;  // assemble: the volume group that it is a part of comes or grows with it
};

// What a device bears that is lost when something else is made of it.
struct Contents {
  std::string text;   // in words; "" if nothing is recognised
  std::string array;  // the uuid of the array that it is a member of, as mdadm writes it; ""
                      // also of who was written apart from that array on this mount
};

class Engine {
 public:
  // Opens and builds everything, in the definition's build order. All that is wrong is told at
  // once, with places in the definition; then nothing stays open. Nothing is ever initialised.
  static std::expected<std::unique_ptr<Engine>, config::Diagnostics> assemble(
      const config::Definition& definition, const AssembleOptions& options);
  // As close(), its errors logged.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Catalog& catalog() { return *catalog_; }
  Graph& graph() { return graph_; }
  bool read_only() const { return read_only_; }
  // What happens is published here: by the operations of this class, by the catalog, and, once
  // watch() was called and while somebody follows, by looking at arrays and maps five times a
  // second.
  EventHub& events() { return events_; }
  Status watch();
  // The definition's file name, or what the images were.
  const std::string& source() const { return source_; }

  // Calls VISIT for every device, each after what it stands on; none comes or goes meanwhile.
  void for_each_node(const std::function<void(Node&)>& visit);

  // What the definition said of the mount as a whole; options may have said otherwise.
  struct AsDefined {
    bool read_only = false;
    config::Expose expose;
  };
  const AsDefined& as_defined() const { return as_defined_; }
  // Whether hidden devices are shown, too.
  bool shows_hidden() const { return shows_hidden_; }
  // Those that are on the mount now. One that has left meanwhile refuses every change (ENOENT).
  std::vector<std::shared_ptr<VolumeGroup>> volume_groups() const;

  // What cannot be shown.
  std::vector<Unavailable> unavailable() const;

  // ENOENT.
  Result<std::shared_ptr<VolumeGroup>> volume_group(std::string_view name) const;
  // As vgchange -ay: has the group of that name on devices that nothing uses join, or a running one
  // get physical volumes that it misses. ENOENT: no such group on them; EEXIST: it is whole, or
  // another one of its name is here; ESTALE: a physical volume does not fit what the mount knows.
  Status group_activate(std::string_view name, const GroupActivation& options);
  // As vgchange -an: takes all its volumes away, and lets go of its devices; the disks stay as they
  // are. EBUSY with the users' names.
  Status group_deactivate(std::string_view name);

  // Everything written so far is on stable storage at return: the first error, all tried.
  Status sync();
  // Ends background work, then sync(). Nothing may use a volume any more. Once; later calls do
  // nothing.
  Status close();

  // Images that join and leave. EEXIST, ENOENT, EBUSY with who uses it, and FileImage::open's
  // errors. Read-only on a read-only mount. What is returned tells why volume groups on it did not
  // join, or did not become whole; the image is there all the same.
  Result<std::vector<std::string>> image_add(const NewImage& image);
  Status image_remove(std::string_view name);

  // Reads it, by its name or a volume's path. ENOENT.
  Result<Contents> contents(std::string_view device);

  // Operations on maps, as dmsetup's of the same names. NAME is a map's; ENOENT, ENOTTY for a
  // device that is none. Any thread, in turns. EBUSY: TABLE would write to what others own.
  Status map_create(std::string_view name, std::string_view table, const NewMap& options);
  // What dmsetup would print of a table, if it were loaded; nothing is changed. Not for tables with
  // snapshots or origins in them, which only one device may have: EOPNOTSUPP.
  Result<std::string> map_check(std::string_view name, std::string_view table, bool read_only);
  // EBUSY: the map has snapshots, and the table would go round its snapshot-origin.
  Status map_load(std::string_view name, std::string_view table, bool read_only);
  // Loads and resumes in one: after an error all is as it was. EBUSY as map_load.
  Status map_swap(std::string_view name, std::string_view table, bool read_only);
  Status map_clear(std::string_view name);
  // A timeout of 0 waits without end.
  Status map_suspend(std::string_view name, bool flush, Nanos timeout);
  Status map_resume(std::string_view name);
  Result<std::string> map_message(std::string_view name, uint64_t sector, std::string_view text);
  Status map_remove(std::string_view name);
  // Lets every suspended device go on with its active table, dropping a loaded one: before an end
  // that would wait for its I/O for ever. Any thread.
  void release_suspended();
  // Looks at a map that stays meanwhile.
  Status with_map(std::string_view name, const std::function<void(const dm::MappedDevice&)>& look);
  Status map_rename(std::string_view from, std::string_view to);
  // As mdadm's --create and --assemble. EBUSY: a device is in use; EEXIST: a device of the name is
  // there, or (create) one holds something and FORCE is not set; EINVAL with all that is wrong with
  // the words; else what md says. An array that was created is assembled. One at a time.
  Status array_create(const NewArray& array);
  // What is returned is as of image_add().
  Result<std::vector<std::string>> array_assemble(const NewArray& array);
  // As mdadm's --add and --re-add, of a device of the mount. ENOENT, ENOTTY; EBUSY: it is in use;
  // ELOOP: it is the array, or stands on it; else what md::Array::add() and re_add() say.
  Status array_add(std::string_view array, std::string_view device, bool re_add);
  // Takes an array down that nothing uses (EBUSY): it is clean on its members then.
  Status array_stop(std::string_view name);

  Snapshots& snapshots() { return *snapshots_; }
  // Null: writes go to the images.
  const Overlay* overlay() const { return overlay_.get(); }

 private:
  friend class Assembler;
  friend class GroupReload;
  friend class Snapshots;
  friend class VolumeGroup;
  Engine();
  class PinnedMap;
  Result<PinnedMap> pin_map(std::string_view name) const;
  void wait_unused(std::string_view name) const;
  // A device that was taken out of the graph: it goes, and only then may what it stood on go.
  struct Gone {
    std::vector<Graph::Pin> below;
    std::unique_ptr<Node> node;
  };
  Result<Gone> remove_node(Node& node);
  Status check_unused(const Node& node);
  // EBUSY with who uses it, ENOENT, ENOTTY: it is of another KIND.
  Status take_down(std::string_view name, Kind kind);
  void add_group(std::shared_ptr<VolumeGroup> group);
  // The PVs on DEVICES, or on all that nothing uses, which PINS keep; those of groups are left out.
  Result<std::vector<lvm::PvInfo>> free_pvs(const std::vector<std::string>& devices,
                                            std::vector<Graph::Pin>& pins);
  Status complete_groups(std::vector<lvm::PvInfo>& found, std::string_view only);
  Status join_group(std::string name, const lvm::FoundGroup& found,
                    const std::vector<lvm::PvInfo>& pvs, const GroupActivation& options);
  // After DEVICE has come. What is returned, and told to the log, tells what cannot join.
  std::vector<std::string> join_groups_of(std::string_view device);
  Status check_origin_kept(const dm::MappedDevice& map, std::string_view table) const;
  void resumed(const PinnedMap& map);
  // Beside the active table, or, with SWAP, in its place.
  Status load_table(dm::MappedDevice& map, std::string_view table, bool read_only, bool swap,
                    std::vector<Graph::Pin>& pins);
  Status check_new_map(std::string_view name, std::string_view uuid) const;
  Status check_new_name(std::string_view name) const;
  Status assemble_array(const NewArray& array);
  // Puts the map in front of a new array through which it is used, so that snapshots can be taken
  // of it at any time, and are, if it is an ORIGIN of the definition's.
  Status put_front(Node& node, bool origin);

  EventHub events_;
  std::string source_;
  bool read_only_ = false;
  bool frozen_ = false;
  bool closed_ = false;
  AsDefined as_defined_;
  bool shows_hidden_ = false;
  Exposure exposure_;
  Mutex structure_;             // held while devices are added, removed or renamed
  Mutex joining_;               // held while a volume group comes, gets devices or leaves
  Mutex arrays_;                // held while an array is set up: its devices are nobody else's then
  dm::OriginRegistry origins_;  // outlives the tables of the graph
  std::unique_ptr<Overlay> overlay_;
  Graph graph_;
  mutable Mutex groups_mutex_;  // guards groups_, the list alone; held briefly
  std::vector<std::shared_ptr<VolumeGroup>> groups_;
  std::unique_ptr<Catalog> catalog_;  // goes before the devices it shows
  std::unique_ptr<Snapshots> snapshots_;
  std::string directory_;  // what relative paths start at
  OpenImage open_image_;
  std::vector<Unavailable> not_assembled_;
  Thread watcher_;  // looks for events; ended by close()
};

}  // namespace volfs::engine
