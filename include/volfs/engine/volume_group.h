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
    bool wanted_read_only = false;   // by the definition
    bool read_only = false;          // nothing is written
    std::string unchangeable;        // why the metadata must not be written; "": it may
    bool hidden = false;             // show inner volumes, too
    std::set<std::string> inactive;  // names of volumes that have no device
  };
  VolumeGroup(Engine& engine, Setup setup);
  VolumeGroup(const VolumeGroup&) = delete;
  VolumeGroup& operator=(const VolumeGroup&) = delete;

  const std::string& name() const { return setup_.name; }

  // At the assembly: builds all that can be built; what cannot is in unavailable(). Errors are
  // those of showing it.
  Status activate();
  std::vector<Unavailable> unavailable() const;
  // A copy of the model as it is now.
  lvm::VolumeGroup model() const;
  // The indices of PVs by the names of their devices, or by tag ("@slow").
  Result<std::vector<uint32_t>> pvs(const std::vector<std::string>& names) const;

  // Volumes are named within the group ("root").
  Status create(const lvm::VolumeParameters& parameters);
  Status create_snapshot(const lvm::SnapshotParameters& parameters);
  struct Resize {
    lvm::SizeRequest size;
    char sign = 0;  // '+' or '-': by so much; 0: to so much
    lvm::AllocationPolicy allocation = lvm::AllocationPolicy::normal;
    std::vector<uint32_t> pvs;
  };
  Status extend(std::string_view volume, const Resize& resize);
  // EBUSY if it is open or something stands on it, unless FORCE.
  Status reduce(std::string_view volume, const Resize& resize, bool force);
  // EBUSY with the users' names.
  Status remove(std::string_view volume, bool with_snapshots);
  Status rename(std::string_view volume, std::string_view to);
  // What lvchange changes of a volume. What it has already is left as it is; without any difference
  // nothing is written.
  struct Changes {
    std::vector<std::string> add_tags, remove_tags;
    std::optional<bool> writable;
  };
  Status change(std::string_view volume, const Changes& changes);
  // Without changing the metadata. Snapshots follow their origin.
  Status set_active(std::string_view volume, bool active);

 private:
  friend class CanonicalTables;
  friend class GroupReload;
  // One that takes long; a Mutex is for short waits.
  class Turn;
  struct Change {
    std::string description;  // for the metadata
    // Null: the metadata stays as it is.
    std::function<Status(lvm::VolumeGroup& next, const lvm::Provenance& when)> edit;
    std::set<lvm::Id> inactive;
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

  Status carry_out(const Change& change);
  Status edit_volume(std::string_view volume, std::string description,
                     const std::function<Status(lvm::VolumeGroup& next, uint32_t lv)>& edit);
  Status check_changeable() const;
  Status commit(lvm::VolumeGroup& next, const lvm::Provenance& when);
  Status zero_new(const lvm::VolumeGroup& next);
  lvm::ActivationPlan plan_of(const lvm::VolumeGroup& model,
                              const std::set<lvm::Id>& inactive) const;
  std::vector<std::string> pv_names() const;
  Status show(const lvm::ActivationPlan& plan, const lvm::VolumeGroup& model,
              const std::map<std::string, std::string>& broken);
  std::string in_use_by(std::string_view volume) const;

  Engine& engine_;
  const Setup setup_;
  std::vector<std::optional<Graph::Pin>> pvs_;

  mutable Mutex mutex_;  // guards turn_taken_, model_ and unavailable_; held briefly
  CondVar turn_over_;
  bool turn_taken_ = false;
  lvm::VolumeGroup model_;
  std::vector<Unavailable> unavailable_;

  // Whoever has the turn.
  std::set<lvm::Id> inactive_;
  std::map<std::string, Device> devices_;  // by uuid
  std::map<lvm::Id, Shown> shown_;
};

}  // namespace volfs::engine
