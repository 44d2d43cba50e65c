// SPDX-License-Identifier: GPL-2.0-or-later
// Brings the devices of a volume group from one plan to the next, in the steps that lvm2 does:
// preload, suspend, (the metadata is written), resume. Undoes all unless finish() was reached.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "volfs/dm/mapped_device.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/volume_group.h"

namespace volfs::engine {

// Tables with the identities of devices for their names, so that those of two plans can be
// compared.
class CanonicalTables {
 public:
  CanonicalTables(const VolumeGroup& group, const lvm::ActivationPlan& plan);
  std::string of(const lvm::PlannedDevice& device) const;

 private:
  std::unordered_map<std::string, std::string> identities_;
};

class GroupReload {
 public:
  // PLAN outlives this.
  GroupReload(VolumeGroup& group, const lvm::ActivationPlan& plan);
  ~GroupReload();
  GroupReload(const GroupReload&) = delete;
  GroupReload& operator=(const GroupReload&) = delete;

  // Takes away what will not be shown any more (EBUSY if it is in use), builds what is new, loads
  // what changes.
  Status prepare();
  // No I/O is under way on what changes afterwards.
  Status suspend();
  // There is no way back. The error says what could not go on.
  Status finish();

  // For the first activation: builds and resumes every device, or says in BROKEN why not.
  static void build_all(VolumeGroup& group, const lvm::ActivationPlan& plan,
                        std::map<std::string, std::string>& broken);

 private:
  static void keep_origin(VolumeGroup& group, const lvm::PlannedDevice& snapshot,
                          std::map<std::string, std::string>& broken);
  struct Item {
    const lvm::PlannedDevice* planned = nullptr;
    std::string canonical;
    Node* node = nullptr;
    bool is_new = false;
    bool differs = false;     // is loaded, or to be
    bool deferred = false;    // to be loaded when the origin is suspended
    bool grown = false;       // has the new table already
    bool reassemble = false;  // a raid whose legs change: it looks at them anew when it is resumed
    bool suspended = false;   // by us
    bool suspend = false;     // to be
    std::optional<dm::MappedDevice::Change> change;  // none yet, or over
  };
  struct Withdrawn {
    std::string path;
    Node* node;
  };

  void note_reassembled();
  Status check_own_tables() const;
  Status check_going() const;
  Status let_go();
  Status take_turns();
  Status withdraw();
  Status rename_nodes();
  Status preload(Item& item);
  Status grow(Item& item);
  void choose_suspended();
  void remove_gone(Status& first);
  void undo();
  static Status load(VolumeGroup& group, dm::MappedDevice::Change& map,
                     const lvm::PlannedDevice& planned);
  Status load(Item& item, const lvm::PlannedDevice& planned);
  bool used_by_others(const lvm::PlannedDevice& planned) const;

  VolumeGroup& group_;
  Engine& engine_;
  std::vector<Item> items_;         // in the plan's order
  std::vector<std::string> going_;  // uuids
  std::vector<Withdrawn> withdrawn_;
  std::vector<std::pair<Node*, std::string>> renamed_;  // with the old name
  bool finished_ = false;
};

}  // namespace volfs::engine
