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
    plan_.steps.push_back(
        {mark, std::move(text), std::move(requests), loses_data, std::move(volume)});
  }
  // The device that a definition calls NAME: below a snapshot-origin if it has snapshots, or had
  // some.
  const json* find(const std::string& name);
  // The words of the only row of a device's table, if that is of TYPE; at least seven, or empty.
  static std::vector<std::string> row_of(const json& device, const char* type);
  // A volume group stays with the mount.
  void check_groups();
  // Whether a running device is of the kind that the definition says; a problem if not.
  bool is(const json& device, const char* kind, const std::string& name);
  void plan(const config::Image& image);
  bool same_table(const json& now, const config::Map& map, const std::string& name) const;
  // Tries a table before anything is done, where all that it stands on is there and stays as it is.
  void try_table(const config::Map& map);
  void plan(const config::Map& map);
  static void swap_table(ApplyStep& step, const std::string& map, const std::string& table,
                         bool read_only);
  void plan(const config::Array& array);
  // Members whose slot is another device's in the definition serve until that has all they have.
  void plan_replacements(const config::Array& array, const json& now, std::set<std::string>& wanted,
                         std::set<std::string>& there);
  static json speeds(const config::Array& array);
  void plan_assembly(const config::Array& array);
  void plan(const config::VolumeGroup& group);
  const json* running_group(const config::VolumeGroup& group) const;
  uint64_t extent_of(const config::VolumeGroup& group) const;
  // Whether the group has the volume, active or not.
  bool is_on_disk(const config::VolumeGroup& group, const config::LogicalVolume& volume) const;
  static json creation(const std::string& path, const config::LogicalVolume& volume);
  // A size in bytes that differs by an extent at least; shares are for creation only.
  void plan_resize(const std::string& path, const json& now, const config::LogicalVolume& volume,
                   uint64_t extent);
  void plan(const config::Snapshot& snapshot);
  // A snapshot is of one instant: what it is of, and in which chunks, stays.
  void check_same(const config::Snapshot& snapshot, const json& now);
  void plan_removal(const std::string& name);

  const config::Definition& definition_;
  const std::string& directory_;
  const json& status_;
  const json groups_;
  const CheckTable& check_;
  std::map<std::string, const json*> running_;
  std::vector<std::string> order_;  // each after what it stands on
  std::set<std::string> origins_, known_;
  std::set<std::string> changing_;  // devices that get another table or size
  bool read_only_ = false;
  ApplyPlan plan_;
};

}  // namespace volfs::cli
