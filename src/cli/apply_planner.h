// SPDX-License-Identifier: GPL-2.0-or-later
// The planner behind plan_apply(): one file each for what is planned of maps and snapshots
// (apply_maps), arrays (apply_arrays) and volume groups (apply_volumes).
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "apply_plan.h"

namespace volfs::cli {

// The path that a definition in DIRECTORY means.
std::string absolute(const std::string& directory, const std::string& path);
// Whether both paths lead to one file, or, where ONE leads to none, are the same.
bool same_file(const std::string& one, const std::string& other);
// The rows of a table as lists of words, without comments and empty lines.
std::vector<std::vector<std::string>> rows_of(const std::string& table);

class Planner {
 public:
  using json = nlohmann::json;
  Planner(const config::Definition& definition, const std::string& directory, const json& status,
          const CheckTable& check);
  ApplyPlan run();

 private:
  void problem(std::string text) { plan_.problems.push_back(std::move(text)); }
  void step(char mark, std::string text, std::vector<json> requests, bool loses_data = false,
            std::string volume = "") {
    ApplyStep step{mark, std::move(text), std::move(requests), loses_data, {}};
    if (!volume.empty()) step.volumes.push_back(std::move(volume));
    plan_.steps.push_back(std::move(step));
  }
  // The device that a definition calls NAME: below a snapshot-origin if it has snapshots, or had
  // some.
  const json* find(const std::string& name);
  // The words of the only row of a device's table, if that is of TYPE; at least seven, or empty.
  static std::vector<std::string> row_of(const json& device, const char* type);
  // Whether a running device is of the kind that the definition says; a problem if not.
  bool is(const json& device, const char* kind, const std::string& name);
  void plan(const config::Image& image);
  bool same_table(const json& now, const config::Map& map, const std::string& name) const;
  // Tries a table before anything is done, where all that it stands on is there and stays as it is.
  void try_table(const config::Map& map);
  void plan(const config::Map& map);
  void plan_resume(const std::string& map, const std::string& device);
  static void swap_table(ApplyStep& step, const std::string& map, const std::string& table,
                         bool read_only);
  void plan(const config::Array& array);
  static json speeds(const config::Array& array);
  // What the definition does not say is left as it is: it may have been set by hand.
  void plan_speeds(const config::Array& array, const json& running);
  void plan_assembly(const config::Array& array);
  void plan(const config::VolumeGroup& group);
  void plan_lv_removals(const config::VolumeGroup& group, const json& running);
  // What stands on a volume and is no part of its group.
  std::vector<std::string> standing_on(const std::string& path) const;
  void plan_last(ApplyStep each);
  // A group of the definition that is not on the mount.
  void plan_coming(const config::VolumeGroup& group);
  // Physical volumes that the running group misses.
  void plan_devices(const config::VolumeGroup& group, const json& running);
  void plan(const config::VolumeGroup& group, const json& running,
            const config::LogicalVolume& volume);
  // Whether it is to be seen, of a volume that is on the disks.
  void plan_file(const config::VolumeGroup& group, const std::string& path, const json& now,
                 const config::LogicalVolume& volume);
  bool is_shown(const std::string& path) const;
  // Tags and permission, of a volume that is on the disks.
  void plan_changes(const std::string& path, const json& now, const config::LogicalVolume& volume);
  const json* running_group(const std::string& name) const;
  static json creation(const std::string& path, const config::LogicalVolume& volume);
  // A size in bytes that differs by an extent at least; shares are for creation only.
  void plan_resize(const std::string& path, const json& now, const config::LogicalVolume& volume,
                   uint64_t extent);
  // Groups of the mount that the definition has not, with how many devices of each are still to be
  // passed on the way down: a group leaves when all above them has.
  void note_leaving();
  void plan_leaving(const json& device, bool& holds);
  void leave(const std::string& group);
  void plan(const config::Snapshot& snapshot);
  // A snapshot is of one instant: what it is of, and in which chunks, stays.
  void check_same(const config::Snapshot& snapshot, const json& now);
  // Plans the removal of a device after that of all above it.
  void pass(const std::string& name);
  bool is_pv_of(const std::string& device, const std::string& group) const;
  // Sets HOLDS if the device stays.
  void plan_removal(const std::string& name, bool& holds);

  const config::Definition& definition_;
  const std::string& directory_;
  const json& status_;
  const json groups_;
  const CheckTable& check_;
  std::map<std::string, const json*> running_;
  std::vector<std::string> order_;  // each after what it stands on
  std::set<std::string> origins_, known_, passed_;
  std::set<std::string> wanted_;    // arrays, maps and snapshots of the definition
  std::set<std::string> changing_;  // devices that get another table or size
  struct Leaving {
    size_t left = 0;     // devices still to be passed
    bool holds = false;  // something stays on one of them
  };
  std::map<std::string, Leaving> leaving_;
  std::set<std::string> holding_;  // what stays, or has something on it that does
  bool read_only_ = false;
  std::vector<ApplyStep> first_;  // what goes and nobody who stays stands on: makes room for others
  std::vector<ApplyStep> last_;   // what takes away from volumes that others stand on until then
  ApplyPlan plan_;
};

}  // namespace volfs::cli
