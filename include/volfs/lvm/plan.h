// SPDX-License-Identifier: GPL-2.0-or-later
// What lvm2 would load into device-mapper for a volume group: devices bottom up, with their
// tables as text. Checked against `dmsetup table` of what lvm2 2.03.16 activates.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"
#include "volfs/lvm/model.h"

namespace volfs::lvm {

// lvm2's activation modes: only LVs that are whole; also RAID that has lost no more than it may;
// also LVs with holes, whose bytes give errors.
enum class ActivationMode : uint8_t { complete, degraded, partial };

// A row of a device-mapper table. Sectors of 512 bytes, as in its text.
struct TableRow {
  uint64_t start_sector = 0;
  uint64_t sectors = 0;
  std::string type;
  std::string params;  // with names for devices
  friend bool operator==(const TableRow&, const TableRow&) = default;
};
// "0 8192 linear pv0 2048"
std::string to_string(const TableRow& row);

struct PlannedDevice {
  std::string name;  // device-mapper's: "vg0-root", "vg0-root-real"
  std::string uuid;  // "LVM-..."
  bool read_only = false;
  std::vector<TableRow> table;
  uint64_t size() const;  // bytes
};

enum class VolumeState : uint8_t {
  active,       // whole
  degraded,     // a RAID that misses devices; all data is there
  partial,      // parts are missing and give errors
  unavailable,  // see the reason
  inactive,     // not wanted
};
const char* to_string(VolumeState state);

// Of all volumes of a group that is exported.
inline constexpr std::string_view exported_reason =
    "the volume group is exported (vgimport makes it usable)";

struct PlannedVolume {
  uint32_t lv = 0;  // index into lvs
  std::string name;
  std::string device;  // the device-mapper name; "" if unavailable
  uint64_t size = 0;   // what the device has; of a snapshot its origin's
  VolumeState state = VolumeState::active;
  std::string reason;   // why it is not active
  bool visible = true;  // false: an inner LV (an image, a log, pool data)
  bool read_only = false;
};

struct ActivationPlan {
  std::vector<PlannedDevice> devices;  // each stands behind those its table names
  std::vector<PlannedVolume> volumes;  // in the order of the metadata
};

struct PlanOptions {
  // What the group is called in the names of the devices; "": by its own name.
  std::string shown_name = {};
  ActivationMode mode = ActivationMode::degraded;
  // Another mode for some volumes; null: for none.
  std::function<std::optional<ActivationMode>(const LogicalVolume&)> own_mode = {};
  // Also LVs with the flag that keeps them from being activated (lvchange --setactivationskip).
  bool skipped = true;
  // Also inner LVs that no active volume uses.
  bool hidden = false;
  // Also groups that lvm2 would not touch (exported).
  bool exported = false;
  // Raids that are new and not to be synced; null: none.
  std::function<bool(const LogicalVolume&)> nosync = {};
  // The volumes to activate; null: all. Snapshots follow their origin.
  std::function<bool(const LogicalVolume&)> wanted = {};
};

// PV_DEVICES: for each of the group's pvs, in order, the name tables should use for its device;
// "" if it is missing. Names must differ and have no blanks.
ActivationPlan activation_plan(const VolumeGroup& group, std::span<const std::string> pv_devices,
                               const PlanOptions& options = {});

}  // namespace volfs::lvm
