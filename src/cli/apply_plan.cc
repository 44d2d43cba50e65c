// SPDX-License-Identifier: GPL-2.0-or-later
#include "apply_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

#include "apply_fixed.h"
#include "display.h"
#include "volfs/backing/file_identity.h"
#include "volfs/md/array.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

std::vector<std::string> words_of(const std::string& row) {
  std::istringstream in(row);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// Rows as lists of words, without comments and empty lines.
std::vector<std::vector<std::string>> rows_of(const std::string& table) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    auto words = words_of(line);
    if (!words.empty() && !words.front().starts_with('#')) rows.push_back(std::move(words));
  }
  return rows;
}

// Where the last row ends.
uint64_t size_of(const std::string& table) {
  uint64_t end = 0;
  for (const auto& row : rows_of(table))
    if (row.size() >= 2)
      end = (std::strtoull(row[0].c_str(), nullptr, 10) +
             std::strtoull(row[1].c_str(), nullptr, 10)) *
            512;
  return end;
}

bool same_file(const std::string& one, const std::string& other) {
  const auto identity = FileIdentity::at(one);
  return identity ? identity == FileIdentity::at(other) : one == other;
}

std::string absolute(const std::string& directory, const std::string& path) {
  return path.starts_with('/') ? path : directory + "/" + path;
}

class Planner {
 public:
  Planner(const config::Definition& definition, const std::string& directory, const json& status,
          const CheckTable& check)
      : definition_(definition), directory_(directory), status_(status), check_(check) {
    for (const json& device : status["devices"]) {
      running_[device.value("name", "")] = &device;
      order_.push_back(device.value("name", ""));
    }
    read_only_ = status.value("read_only", false);
    for (const config::Snapshot& snapshot : definition.snapshots) {
      origins_.insert(snapshot.origin.value);
      known_.insert(snapshot.name.value);
      known_.insert(snapshot.name.value + "-cow");
    }
  }

  ApplyPlan run() {
    for (const config::Item& item : definition_.build_order) {
      switch (item.kind) {
        case config::DeviceKind::image:
          plan(definition_.images[item.index]);
          break;
        case config::DeviceKind::array:
          plan(definition_.arrays[item.index]);
          break;
        case config::DeviceKind::volume_group:
          plan(definition_.volume_groups[item.index]);
          break;
        case config::DeviceKind::snapshot:
          plan(definition_.snapshots[item.index]);
          break;
        case config::DeviceKind::map:
          plan(definition_.maps[item.index]);
          break;
      }
    }
    check_groups();
    for (std::string& text : fixed_differences(definition_, status_)) problem(std::move(text));
    // What is on top goes first.
    for (auto name = order_.rbegin(); name != order_.rend(); ++name) plan_removal(*name);
    return std::move(plan_);
  }

 private:
  // The device that a definition calls NAME: below a snapshot-origin if it has snapshots, or had
  // some.
  const json* find(const std::string& name) {
    known_.insert(name);
    const auto it = running_.find(name);
    const auto real = running_.find(name + "-real");
    if (real != running_.end() &&
        (origins_.contains(name) ||
         (it != running_.end() && row_of(*it->second, "snapshot-origin")[3] == name + "-real"))) {
      known_.insert(name + "-real");
      return real->second;
    }
    return it == running_.end() ? nullptr : it->second;
  }

  // The words of the only row of a device's table, if that is of TYPE; at least seven, or empty.
  static std::vector<std::string> row_of(const json& device, const char* type) {
    const auto rows = rows_of(device.contains("map") ? device["map"].value("table", "") : "");
    std::vector<std::string> row(7);
    if (rows.size() != 1 || rows[0].size() < 4 || rows[0][2] != type) return row;
    std::copy_n(rows[0].begin(), std::min(rows[0].size(), row.size()), row.begin());
    return row;
  }

  // A volume group stays with the mount.
  void check_groups() {
    std::set<std::string> groups;
    for (const config::VolumeGroup& group : definition_.volume_groups)
      groups.insert(group.name.value);
    for (const auto& [name, device] : running_) {
      if (device->value("kind", "") != "lv") continue;
      const std::string path = device->value("volume", "");
      const std::string group = path.substr(0, path.find('/'));
      if (!path.empty() && groups.insert(group).second)
        problem(
            fmt::format("volume group {}: is on the mount and not in the definition; a group "
                        "cannot leave a running mount",
                        group));
    }
  }

  void problem(std::string text) { plan_.problems.push_back(std::move(text)); }

  bool is(const json& device, const char* kind, const std::string& name) {
    if (device.value("kind", "") == kind) return true;
    problem(
        fmt::format("{}: is a {} on the mount and {} in the definition; a device cannot "
                    "become another kind",
                    name, device.value("kind", "device"), kind));
    return false;
  }

  void plan(const config::Image& image) {
    const std::string path = absolute(directory_, image.path.value);
    const json* now = find(image.name.value);
    if (!now) {
      json body{{"request", "mount.add_image"}, {"image", image.name.value}, {"path", path}};
      if (image.readonly.value) body["readonly"] = true;
      if (image.direct && image.direct->value) body["direct"] = true;
      if (image.partition) body["partition"] = image.partition->value;
      if (image.offset.value > 0) body["offset"] = image.offset.value;
      if (image.length) body["length"] = image.length->value;
      plan_.steps.push_back(
          {'+', fmt::format("image {}: {}", image.name.value, path), {std::move(body)}, false, ""});
      return;
    }
    if (!is(*now, "image", image.name.value)) return;
    if (!same_file(now->value("path", ""), path))
      problem(fmt::format("image {}: is {} on the mount; remove it or mount anew to make it {}",
                          image.name.value, now->value("path", ""), path));
    else if (now->value("read_only", false) != (read_only_ || image.readonly.value))
      problem(fmt::format("image {}: readonly cannot change on a running mount", image.name.value));
  }

  bool same_table(const json& now, const config::Map& map, const std::string& name) const {
    const std::string running = now.contains("map") ? now["map"].value("table", "") : "";
    if (rows_of(running) == rows_of(map.table())) return true;
    const auto canonical = check_(name, map.table());
    return canonical && rows_of(*canonical) == rows_of(running);
  }

  // Tries a table before anything is done, where all that it stands on is there and stays as it is.
  void try_table(const config::Map& map) {
    changing_.insert(map.name.value);
    for (const config::Text& device : map.devices)
      if (changing_.contains(device.value) || !running_.contains(device.value)) return;
    const auto tried = check_(map.name.value, map.table());
    if (!tried && tried.error().code() != EOPNOTSUPP && tried.error().code() != ENXIO)
      problem(fmt::format("map {}", tried.error().text()));
  }

  void plan(const config::Map& map) {
    const std::string& name = map.name.value;
    const bool read_only = read_only_ || map.readonly.value;
    const json* now = find(name);
    const uint64_t size = size_of(map.table());
    if (!now) {
      try_table(map);
      json body{{"request", "map.create"}, {"map", name}, {"table", map.table()}};
      if (map.uuid) body["uuid"] = map.uuid->value;
      if (map.readonly.value) body["readonly"] = true;
      if (map.hidden.value) body["hidden"] = true;
      plan_.steps.push_back(
          {'+',
           fmt::format("map {}: {}", name, short_bytes(static_cast<double>(size))),
           {std::move(body)},
           false,
           ""});
      return;
    }
    if (!is(*now, "map", name)) return;
    const std::string device = now->value("name", name);
    const auto before = now->value("size", uint64_t{0});
    const bool same = same_table(*now, map, device) && now->value("read_only", false) == read_only;
    // A snapshot-origin on it has its size.
    const json* const front = device == name ? nullptr : running_[name];
    const bool front_differs = front && front->value("size", uint64_t{0}) != size;
    if (same && !front_differs) return;
    try_table(map);
    ApplyStep step{'~', fmt::format("map {}: another table", name), {}, false, ""};
    if (size != before)
      step.text += fmt::format(", {} instead of {}", short_bytes(static_cast<double>(size)),
                               short_bytes(static_cast<double>(before)));
    if (size < before) {
      step.text += " (what is behind the new end is out of reach)";
      step.loses_data = true;
      step.volume = now->value("volume", "");
    }
    if (front && size < before)
      return problem(fmt::format(
          "map {}: cannot become smaller while there are snapshots of it, which see all of it",
          name));
    if (!same) swap_table(step, device, map.table(), map.readonly.value);
    if (front_differs)
      swap_table(step, name, fmt::format("0 {} snapshot-origin {}\n", size / sector_size, device),
                 false);
    plan_.steps.push_back(std::move(step));
  }

  static void swap_table(ApplyStep& step, const std::string& map, const std::string& table,
                         bool read_only) {
    step.requests.push_back(
        {{"request", "map.load"}, {"map", map}, {"table", table}, {"readonly", read_only}});
    step.requests.push_back({{"request", "map.suspend"}, {"map", map}});
    step.requests.push_back({{"request", "map.resume"}, {"map", map}});
  }

  void plan(const config::Array& array) {
    const std::string& name = array.name.value;
    const json* now = find(name);
    if (!now) return plan_assembly(array);
    if (!is(*now, "array", name)) return;
    if (const std::string level = (*now)["array"].value("level", "");
        level != to_string(array.level.value))
      return problem(fmt::format("array {}: is a {} on the mount and a {} in the definition", name,
                                 level, to_string(array.level.value)));
    const auto slots = (*now)["array"].value("raid_disks", size_t{0});
    if (slots != array.devices.size())
      return problem(
          fmt::format("array {}: has {} slots on the mount and {} in the definition; "
                      "arrays are not grown or reshaped",
                      name, slots, array.devices.size()));
    std::set<std::string> wanted, there;
    for (const auto* list : {&array.devices, &array.spares})
      for (const config::ArrayDevice& each : *list)
        if (!each.missing) wanted.insert(each.device.value);
    for (const json& member : (*now)["array"]["members"]) there.insert(member.value("device", ""));
    const std::string device = now->value("name", name);
    plan_replacements(array, *now, wanted, there);
    if (const auto& running = (*now)["array"]; running.contains("sync_speed_min"))
      if (const json body = speeds(array);
          body["min"] != running["sync_speed_min"] || body["max"] != running["sync_speed_max"])
        plan_.steps.push_back({'~',
                               fmt::format("array {}: synced by {} to {} a second", name,
                                           short_bytes(body["min"].get<double>()),
                                           short_bytes(body["max"].get<double>())),
                               {body},
                               false,
                               ""});
    for (const std::string& member : wanted)
      if (!there.contains(member))
        plan_.steps.push_back(
            {'+',
             fmt::format("array {}: member {} (what is on it is overwritten)", name, member),
             {{{"request", "array.add"}, {"array", device}, {"device", member}}},
             true,
             ""});
    for (const std::string& member : there)
      if (!wanted.contains(member))
        plan_.steps.push_back(
            {'-',
             fmt::format("array {}: member {}", name, member),
             {{{"request", "array.fail"}, {"array", device}, {"device", member}},
              {{"request", "array.remove"}, {"array", device}, {"device", member}}},
             true,
             ""});
    for (const config::ArrayDevice& spare : array.spares) known_.insert(spare.device.value);
  }

  // Members whose slot is another device's in the definition serve until that has all they have.
  void plan_replacements(const config::Array& array, const json& now, std::set<std::string>& wanted,
                         std::set<std::string>& there) {
    const std::string device = now.value("name", "");
    for (const json& member : now["array"]["members"]) {
      const std::string old = member.value("device", "");
      const size_t slot = member.value("slot", array.devices.size());
      if (slot >= array.devices.size() || wanted.contains(old) ||
          member.value("state", "") != "in_sync")
        continue;
      const config::ArrayDevice& other = array.devices[slot];
      if (other.missing || there.contains(other.device.value)) continue;
      const std::string& with = other.device.value;
      plan_.steps.push_back(
          {'~',
           fmt::format("array {}: member {} instead of {} (what is on {} is overwritten)",
                       array.name.value, with, old, with),
           {{{"request", "array.add"}, {"array", device}, {"device", with}},
            {{"request", "array.replace"}, {"array", device}, {"device", old}, {"with", with}},
            {{"request", "array.wait"}, {"array", device}},
            {{"request", "array.remove"}, {"array", device}, {"device", old}}},
           true,
           ""});
      wanted.erase(with);
      there.erase(old);
    }
  }

  static json speeds(const config::Array& array) {
    const md::ArrayOptions usual;
    return {{"request", "array.speed"},
            {"array", array.name.value},
            {"min", array.sync_speed_min ? array.sync_speed_min->value : usual.sync_speed_min},
            {"max", array.sync_speed_max ? array.sync_speed_max->value : usual.sync_speed_max}};
  }

  void plan_assembly(const config::Array& array) {
    json body{{"request", "array.assemble"},
              {"array", array.name.value},
              {"devices", json::array()},
              {"force", array.force.value},
              {"readonly", array.readonly.value}};
    for (const auto* list : {&array.devices, &array.spares})
      for (const config::ArrayDevice& each : *list)
        if (!each.missing) body["devices"].push_back(each.device.value);
    plan_.steps.push_back(
        {'+',
         fmt::format("array {}: of {} devices", array.name.value, body["devices"].size()),
         {std::move(body), speeds(array)},
         false,
         ""});
  }

  void plan(const config::VolumeGroup& group) {
    const std::string prefix = group.name.value + "/";
    std::map<std::string, const json*> there;
    for (const auto& [name, device] : running_)
      if (const std::string path = device->value("volume", ""); path.starts_with(prefix))
        there[path] = device;
    std::set<std::string> wanted;
    for (const config::LogicalVolume& volume : group.logical_volumes) {
      const std::string path = prefix + volume.name.value;
      wanted.insert(path);
      const auto now = there.find(path);
      if (now != there.end() && !volume.active.value)
        plan_.steps.push_back({'-',
                               fmt::format("lv {}: its file (the volume stays)", path),
                               {{{"request", "lv.deactivate"}, {"lv", path}}},
                               false,
                               path});
      else if (now != there.end())
        plan_resize(path, *now->second, volume, extent_of(group));
      else if (is_on_disk(group, volume) && volume.active.value)
        plan_.steps.push_back({'+',
                               fmt::format("lv {}: its file", path),
                               {{{"request", "lv.activate"}, {"lv", path}}},
                               false,
                               ""});
      else if (!is_on_disk(group, volume) && volume.active.value && !volume.hidden.value)
        plan_.steps.push_back({'+',
                               fmt::format("lv {}: {}", path, to_string(volume.type.value)),
                               {creation(path, volume)},
                               false,
                               ""});
    }
    if (!group.volumes_listed) return;
    for (const auto& [path, device] : there)
      if (!wanted.contains(path))
        plan_.steps.push_back({'-',
                               fmt::format("lv {} (its data is lost)", path),
                               {{{"request", "lv.remove"}, {"lv", path}}},
                               true,
                               path});
  }

  const json* running_group(const config::VolumeGroup& group) const {
    for (const json& each : groups_)
      if (each.value("name", "") == group.name.value) return &each;
    return nullptr;
  }
  uint64_t extent_of(const config::VolumeGroup& group) const {
    const json* running = running_group(group);
    return running ? running->value("extent_size", uint64_t{1}) : group.extent_size.value;
  }
  // Whether the group has the volume, active or not.
  bool is_on_disk(const config::VolumeGroup& group, const config::LogicalVolume& volume) const {
    const json* running = running_group(group);
    return running && std::ranges::any_of((*running)["logical_volumes"], [&](const json& each) {
             return each.value("name", "") == volume.name.value;
           });
  }

  static json creation(const std::string& path, const config::LogicalVolume& volume) {
    using Unit = config::LvSize::Unit;
    json body{{"request", "lv.create"}, {"lv", path}};
    const config::LvSize& size = volume.size.value;
    const std::map<Unit, const char*> shares{{Unit::percent_free, "%FREE"},
                                             {Unit::percent_vg, "%VG"},
                                             {Unit::percent_pvs, "%PVS"},
                                             {Unit::percent_origin, "%ORIGIN"},
                                             {Unit::extents, ""}};
    if (const auto share = shares.find(size.unit); share != shares.end())
      body["extents"] = fmt::format("{}{}", size.value, share->second);
    else
      body["size"] = std::to_string(size.value);
    if (volume.type.value == config::LvType::snapshot) {
      body["origin"] = volume.origin.value;
      body["chunk_size"] = volume.chunk_size.value;
    } else {
      body["type"] = to_string(volume.type.value);
      if (volume.stripes.value > 1) {
        body["stripes"] = volume.stripes.value;
        body["stripe_size"] = volume.stripe_size.value;
      }
      if (volume.mirrors.value > 0) body["mirrors"] = volume.mirrors.value;
      if (volume.region_size) body["region_size"] = volume.region_size->value;
    }
    for (const auto& [key, list] :
         {std::pair{"pvs", &volume.physical_volumes}, std::pair{"tags", &volume.tags}})
      for (const config::Text& each : *list) body[key].push_back(each.value);
    if (volume.permission.value == config::Permission::read_only) body["readonly"] = true;
    return body;
  }

  // A size in bytes that differs by an extent at least; shares are for creation only.
  void plan_resize(const std::string& path, const json& now, const config::LogicalVolume& volume,
                   uint64_t extent) {
    config::LvSize size = volume.size.value;
    if (size.unit == config::LvSize::Unit::extents) size = {size.value * extent};
    if (size.unit != config::LvSize::Unit::bytes || volume.type.value == config::LvType::snapshot)
      return;
    const auto before = now.value("size", uint64_t{0});
    const bool grows = before < size.value;
    const bool shrinks = before >= size.value + extent * std::max(1U, volume.stripes.value);
    if (!grows && !shrinks) return;
    ApplyStep step{
        '~',
        fmt::format("lv {}: {} instead of {}", path, short_bytes(static_cast<double>(size.value)),
                    short_bytes(static_cast<double>(before))),
        {{{"request", grows ? "lv.extend" : "lv.reduce"},
          {"lv", path},
          {"size", std::to_string(size.value)}}},
        shrinks,
        shrinks ? path : ""};
    if (shrinks) step.text += " (what is behind the new end is lost)";
    plan_.steps.push_back(std::move(step));
  }

  void plan(const config::Snapshot& snapshot) {
    const std::string& name = snapshot.name.value;
    if (const auto now = running_.find(name); now != running_.end())
      return check_same(snapshot, *now->second);
    if (!snapshot.cow_image || !snapshot.persistent.value || snapshot.readonly.value ||
        snapshot.discard_zeroes_cow.value || snapshot.discard_passdown_origin.value)
      return problem(
          fmt::format("snapshot {}: is not on the mount; only a writable one with a "
                      "file of its own as store and no features for discards can be taken there",
                      name));
    json body{{"request", "snapshot.create"},
              {"snapshot", name},
              {"origin", snapshot.origin.value},
              {"store", absolute(directory_, snapshot.cow_image->path.value)},
              {"chunk_size", snapshot.chunk_size.value}};
    if (snapshot.cow_image->size) body["size"] = snapshot.cow_image->size->value;
    if (snapshot.overflow.value) body["overflow"] = true;
    plan_.steps.push_back({'+',
                           fmt::format("snapshot {}: of {}", name, snapshot.origin.value),
                           {std::move(body)},
                           false,
                           ""});
  }

  // A snapshot is of one instant: what it is of, and in which chunks, stays.
  void check_same(const config::Snapshot& snapshot, const json& now) {
    const std::string& name = snapshot.name.value;
    const auto row = row_of(now, "snapshot");
    const auto differs = [&](const std::string& what, const std::string& found,
                             const std::string& wanted) {
      if (!found.empty() && found != wanted)
        problem(
            fmt::format("snapshot {}: its {} is {} on the mount and {} in the definition; only "
                        "another snapshot can have that",
                        name, what, found, wanted));
    };
    std::string origin = row[3];
    if (constexpr std::string_view real = "-real"; origin.ends_with(real)) {
      const std::string shown = origin.substr(0, origin.size() - real.size());
      if (running_.contains(shown)) origin = shown;
    }
    differs("origin", origin, snapshot.origin.value);
    differs("chunk size in sectors", row[6],
            fmt::format("{}", snapshot.chunk_size.value / sector_size));
  }

  void plan_removal(const std::string& name) {
    const json& device = *running_.at(name);
    const std::string kind = device.value("kind", "");
    if (known_.contains(name) || device.value("internal", false)) return;
    // The store that a snapshot has to itself goes with it.
    if (constexpr std::string_view store = "-cow"; kind == "image" && name.ends_with(store)) {
      const auto owner = running_.find(name.substr(0, name.size() - store.size()));
      if (owner != running_.end() && owner->second->value("kind", "") == "snapshot") return;
    }
    if (kind == "map")
      plan_.steps.push_back({'-',
                             "map " + name,
                             {{{"request", "map.remove"}, {"map", name}}},
                             false,
                             device.value("volume", "")});
    else if (kind == "array")
      plan_.steps.push_back({'-',
                             "array " + name,
                             {{{"request", "array.stop"}, {"array", name}}},
                             false,
                             device.value("volume", "")});
    else if (kind == "image")
      plan_.steps.push_back({'-',
                             "image " + name,
                             {{{"request", "mount.remove_image"}, {"image", name}}},
                             false,
                             ""});
    else if (kind == "snapshot")
      plan_.steps.push_back({'-',
                             fmt::format("snapshot {} (what it keeps is lost)", name),
                             {{{"request", "snapshot.remove"}, {"snapshot", name}}},
                             true,
                             device.value("volume", "")});
  }

  const config::Definition& definition_;
  const std::string& directory_;
  const json& status_;
  const json groups_ = status_.value("volume_groups", json::array());
  const CheckTable& check_;
  std::map<std::string, const json*> running_;
  std::vector<std::string> order_;  // each after what it stands on
  std::set<std::string> origins_, known_;
  std::set<std::string> changing_;  // devices that get another table or size
  bool read_only_ = false;
  ApplyPlan plan_;
};

}  // namespace

ApplyPlan plan_apply(const config::Definition& definition, const std::string& directory,
                     const json& status, const CheckTable& check) {
  return Planner(definition, directory, status, check).run();
}

}  // namespace volfs::cli
