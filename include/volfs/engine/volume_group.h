// SPDX-License-Identifier: GPL-2.0-or-later
// A volume group of a mount: its model, its devices, and changes to both while they are in use.
//
// A change edits a copy of the model, builds the devices that are new, loads changed tables beside
// the active ones, suspends, writes the metadata, and resumes: users see the old or the new state.
// Whatever fails before the metadata is written leaves all as it was. The metadata must be what
// this mount last knew of it: a foreign change is refused (ESTALE).
//
// Threads: everything may be called by any thread; changes of one group take turns. Lifetime: the
// engine owns it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/engine/catalog.h"
#include "volfs/engine/graph.h"
#include "volfs/error.h"
#include "volfs/lvm/edit.h"
#include "volfs/lvm/plan.h"
#include "volfs/sync.h"

namespace volfs::engine {

class Engine;

// A volume that the disks describe and that cannot be shown.
struct Unavailable {
  std::string path;    // where it would be: "vg0/root"
  std::string reason;  // why it is not
};

class VolumeGroup {
 public:
  struct Setup {
    std::string name;                     // as it is shown: "vg0", "vg0@UUID"
    lvm::VolumeGroup model;               // as it is on the disks
    std::vector<std::string> pv_devices;  // of the PVs in order: names in the graph; "": missing
    lvm::ActivationMode mode = lvm::ActivationMode::degraded;
    bool wanted_read_only = false;  // by the definition
    bool read_only = false;         // nothing is written
    std::string unchangeable;       // why the metadata must not be written; "": it may
    // Why the volumes must not be written either, and no PV joins: it has PVs on several devices.
    std::string doubled;
    bool hidden = false;             // show inner volumes, too
    std::set<std::string> inactive;  // names of volumes that have no device
    std::set<std::string> unseen;    // of those that have one, and no file unless HIDDEN
    // By name, of volumes that go by another mode than the group.
    std::map<std::string, lvm::ActivationMode> own_modes;
  };
  VolumeGroup(Engine& engine, Setup setup);
  VolumeGroup(const VolumeGroup&) = delete;
  VolumeGroup& operator=(const VolumeGroup&) = delete;
  ~VolumeGroup();

  const std::string& name() const { return setup_.name; }
  // How it was activated: its modes, and whether it was to be read-only.
  const Setup& setup() const { return setup_; }
  // Volumes without a file, though they have a device.
  bool unseen(const lvm::Id& volume) const { return unseen_.contains(volume); }

  // At the assembly: builds all that can be built; what cannot is in unavailable(). Errors are
  // those of showing it.
  Status activate();
  std::vector<Unavailable> unavailable() const;
  // A copy of the model as it is now.
  lvm::VolumeGroup model() const;
  // The indices of PVs by the names of their devices, or by tag ("@slow"). EINVAL if two name one.
  Result<std::vector<uint32_t>> pvs(const std::vector<std::string>& names) const;

  // Volumes are named within the group ("root"). With a TRIAL, a copy of the model, that is changed
  // and nothing else: whether there is room is seen so.
  using Trial = lvm::VolumeGroup;
  Status create(const lvm::VolumeParameters& parameters, Trial* trial = nullptr);
  Status create_snapshot(const lvm::SnapshotParameters& parameters, Trial* trial = nullptr);
  struct Resize {
    lvm::SizeRequest size;
    char sign = 0;  // '+' or '-': by so much; 0: to so much
    lvm::AllocationPolicy allocation = lvm::AllocationPolicy::normal;
    std::vector<uint32_t> pvs;
  };
  Status extend(std::string_view volume, const Resize& resize, Trial* trial = nullptr);
  // EBUSY if it is open or something stands on it, unless FORCE.
  Status reduce(std::string_view volume, const Resize& resize, bool force, Trial* trial = nullptr);
  // EBUSY with the users' names.
  Status remove(std::string_view volume, bool with_snapshots, Trial* trial = nullptr);
  Status rename(std::string_view volume, std::string_view to);
  // What lvchange changes of a volume. What it has already is left as it is; without any difference
  // nothing is written.
  struct Changes {
    std::vector<std::string> add_tags, remove_tags;
    std::optional<bool> writable;
  };
  Status change(std::string_view volume, const Changes& changes, Trial* trial = nullptr);
  // Begins what lvchange --syncaction does: to look for what does not agree in a raid ("check"), or
  // to make it agree ("repair"). EBUSY while another sync runs.
  Status sync_action(std::string_view volume, std::string_view action);
  // As lvconvert --merge: writes what a snapshot holds back into its origin, in the background; the
  // snapshot's file goes at once, and its volume when that is done, over the end of a mount if need
  // be. EBUSY while either is open, or something stands on it.
  Status merge(std::string_view volume);
  // Ends background work; a merge goes on with the next mount. Any number of times.
  void close();

  // The names of the PVs' devices in the order of the model's; "": missing. None: it has left.
  std::vector<std::string> devices() const;
  // A PV that was missing is DEVICE of the graph: what it was missed for becomes whole.
  Status add_pv(uint32_t pv, std::string_view device);
  // Takes all devices away and lets go of the PVs (EBUSY with the users' names); nothing can be
  // changed any more.
  Status leave();
  // Without changing the metadata. Snapshots follow their origin.
  Status set_active(std::string_view volume, bool active);

 private:
  friend class CanonicalTables;
  friend class GroupReload;
  class Turn;
  struct Change {
    std::string description;  // for the metadata
    // Null: the metadata stays as it is.
    std::function<Status(lvm::VolumeGroup& next, const lvm::Provenance& when)> edit;
    std::set<lvm::Id> inactive;
    bool leave = false;      // with all devices
    Trial* trial = nullptr;  // what is edited, instead of all else
  };
  struct Device {
    Node* node = nullptr;
    lvm::PlannedDevice planned;
    std::string canonical;  // its table with the identities of devices for their names
  };
  struct Shown {
    std::string path;
    Node* node = nullptr;
    uint64_t size = 0;
    bool read_only = false;
  };

  // How far the merge into an origin is.
  enum class Merge { none, under_way, done, failed };
  struct MergeState {
    Merge state = Merge::none;
    uint32_t snapshot = 0;  // index into the model's lvs
  };
  MergeState look_at_merges() const;
  // Has merges watched from now on, if there are any.
  Status watch_merges();
  // Until all are done, or close().
  void follow_merges();

  Status carry_out(const Change& change);
  Status edit_volume(std::string_view volume, std::string description,
                     const std::function<Status(lvm::VolumeGroup& next, uint32_t lv)>& edit,
                     Trial* trial = nullptr);
  Status check_changeable() const;
  Status commit(lvm::VolumeGroup& next, const lvm::Provenance& when);
  Status zero_new(const lvm::VolumeGroup& next);
  // Finds raids that are not to be synced and that nobody has started yet.
  void note_unsynced(const lvm::VolumeGroup& model);
  lvm::ActivationPlan plan_of(const lvm::VolumeGroup& model,
                              const std::set<lvm::Id>& inactive) const;
  std::vector<std::string> pv_names() const;
  Status show(const lvm::ActivationPlan& plan, const lvm::VolumeGroup& model,
              const std::map<std::string, std::string>& broken);
  Status show_locked(const lvm::ActivationPlan& plan,
                     const std::map<std::string, std::string>& broken);
  Status hide(const lvm::Id& volume);
  std::string in_use_by(std::string_view volume) const;

  Engine& engine_;
  const Setup setup_;
  std::set<lvm::Id> unseen_;                          // does not change
  std::map<lvm::Id, lvm::ActivationMode> own_modes_;  // nor does this

  mutable Mutex mutex_;  // guards what comes, up to unavailable_; held briefly
  CondVar turn_over_;
  CondVar closing_begun_;
  bool closing_ = false;
  bool turn_taken_ = false;
  lvm::VolumeGroup model_;
  // model_ and pvs_ are changed by whoever has the turn, who may read them without the lock.
  std::vector<std::optional<Graph::Pin>> pvs_;
  std::vector<Unavailable> unavailable_;

  // Whoever has the turn.
  bool left_ = false;
  std::set<lvm::Id> inactive_;
  std::set<lvm::Id> unsynced_;             // raids that this mount started first, without a sync
  std::map<std::string, Device> devices_;  // by uuid
  std::map<lvm::Id, Shown> shown_;
  bool following_ = false;  // merger_ runs, and will look again
  Thread merger_;
};

}  // namespace volfs::engine
