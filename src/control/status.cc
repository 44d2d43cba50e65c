// SPDX-License-Identifier: GPL-2.0-or-later
// status.json: everything, for programs. volfs(1) documents it; keys are only ever added.
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "requests.h"
#include "volfs/backing/image.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/engine/overlay.h"
#include "volfs/md/array.h"

namespace volfs::control {
namespace {

using nlohmann::json;

json map_of(const dm::MappedDevice& map) {
  const auto info = map.info();
  return {{"suspended", info.suspended},
          {"active_table", info.active_table},
          {"inactive_table", info.inactive_table},
          {"event_nr", info.event_nr},
          {"table", map.table()},
          {"status", map.status()}};
}

json array_of(const md::ArrayStatus& s) {
  json members = json::array();
  for (const md::MemberStatus& m : s.members) {
    json member{{"device", m.device},
                {"number", m.number},
                {"state", md::member_state_name(m.state)},
                {"write_mostly", m.write_mostly},
                {"read_errors", m.read_errors}};
    if (m.slot) member["slot"] = *m.slot;
    if (m.replacement) member["replacement"] = true;
    if (m.to_replace) member["to_replace"] = true;
    members.push_back(std::move(member));
  }
  json sync{{"action", md::sync_action_name(s.sync.action)}, {"pending", s.sync.pending}};
  if (s.sync.action != md::SyncAction::idle) {
    sync["position"] = s.sync.position;
    sync["size"] = s.sync.size;
    sync["speed"] = s.sync.speed;
    sync["seconds_left"] = s.sync.seconds_left;
  }
  json entry{{"level", md::level_name(s.geometry.level)},
             {"layout", md::layout_name(s.geometry.level, s.geometry.layout)},
             {"raid_disks", s.geometry.raid_disks},
             {"chunk", s.geometry.chunk},
             {"metadata", md::version_name(s.version)},
             {"name", s.name},
             {"uuid", md::format_uuid(s.uuid)},
             {"events", s.events},
             {"clean", s.clean},
             {"mismatch_cnt", s.mismatches / sector_size},
             {"sync_speed_min", s.sync_speed_min},
             {"sync_speed_max", s.sync_speed_max},
             {"members", std::move(members)},
             {"sync", std::move(sync)}};
  if (s.bitmap)
    entry["bitmap"] = {{"chunk", s.bitmap->chunk}, {"dirty_chunks", s.bitmap->dirty_bits}};
  return entry;
}

using engine::Health;

// The health of devices with what they stand on. Engine's structure does not change meanwhile.
class HealthFinder {
 public:
  explicit HealthFinder(engine::Engine& engine) : engine_(engine) {}

  Health of(const BlockDevice& device) {
    if (const auto known = known_.find(&device); known != known_.end()) return known->second;
    const engine::Node* node = engine_.graph().find(device);
    Health health = node ? own(*node) : Health::active;
    // An array tells what it makes of the state of its members.
    if (!dynamic_cast<const md::Array*>(&device)) health = std::max(health, of_below(device));
    known_.emplace(&device, health);
    return health;
  }

 private:
  static Health own(const engine::Node& node) {
    if (const auto* array = dynamic_cast<const md::Array*>(node.device.get())) {
      switch (array->status().state) {
        case md::ArrayState::active:
          return node.health;
        case md::ArrayState::degraded:
          return std::max(node.health, Health::degraded);
        case md::ArrayState::failed:
          return Health::failed;
      }
    }
    const auto* map = dynamic_cast<const dm::MappedDevice*>(node.device.get());
    if (node.kind != engine::Kind::image && map && lost_snapshot(map->status()))
      return Health::failed;
    return node.health;
  }

  // As dmsetup tells it of a snapshot whose store was full or could not be written.
  static bool lost_snapshot(std::string_view status) {
    return status.find(" snapshot Invalid") != std::string_view::npos ||
           status.find(" snapshot Overflow") != std::string_view::npos;
  }

  Health of_below(const BlockDevice& device) {
    Health worst = Health::active;
    bool some_left = false;
    device.for_each_below([&](BlockDevice& below) {
      worst = std::max(worst, of(below));
      some_left |= of(below) != Health::failed;
    });
    return worst == Health::failed && some_left ? Health::partial : worst;
  }

  engine::Engine& engine_;
  std::unordered_map<const BlockDevice*, Health> known_;
};

json device_of(engine::Node& node, const std::vector<std::string>& users, HealthFinder& health) {
  BlockDevice& device = *node.device;
  json below = json::array();
  device.for_each_below([&](BlockDevice& each) {
    if (const json name = each.name(); std::find(below.begin(), below.end(), name) == below.end())
      below.push_back(name);
  });
  json entry{{"name", node.name},
             {"kind", engine::to_string(node.kind)},
             {"size", device.size()},
             {"read_only", device.read_only()},
             {"logical_block", device.logical_block()},
             {"devices", std::move(below)},
             {"users", users},
             {"state", engine::to_string(health.of(device))}};
  if (!node.problem.empty()) entry["problem"] = node.problem;
  if (node.internal) entry["internal"] = true;
  if (!node.uuid.empty()) entry["uuid"] = node.uuid;
  if (const auto* image = dynamic_cast<const FileImage*>(&device)) {
    entry["path"] = image->path();
    entry["start"] = image->start();
  }
  if (const auto volume = node.volume) {
    entry["volume"] = volume->path();
    entry["open"] = volume->open_count();
  }
  if (const IoCounters* counters = counters_of(node))
    entry["counters"] = to_json(counters->snapshot());
  if (const auto* array = dynamic_cast<const md::Array*>(&device)) {
    entry["array"] = array_of(array->status());
  }
  if (const auto* map = dynamic_cast<const dm::MappedDevice*>(&device)) entry["map"] = map_of(*map);
  return entry;
}

json group_of(const engine::VolumeGroup& group) {
  const lvm::VolumeGroup model = group.model();
  json volumes = json::array();
  for (uint32_t lv = 0; lv < model.lvs.size(); ++lv) {
    const lvm::LogicalVolume& volume = model.lvs[lv];
    if (!model.visible(lv)) continue;
    volumes.push_back({{"name", volume.name},
                       {"uuid", volume.id.dashed()},
                       {"extents", volume.extents()},
                       {"writable", volume.writable()},
                       {"tags", volume.tags}});
  }
  return {{"name", group.name()},
          {"uuid", model.id.dashed()},
          {"seqno", model.seqno},
          {"extent_size", model.extent_size},
          {"free_extents", lvm::free_extents(model)},
          {"tags", model.tags},
          {"logical_volumes", std::move(volumes)}};
}

json account(const config::Optional<config::Account>& account) {
  if (!account) return nullptr;
  return account->value.id ? std::to_string(*account->value.id) : account->value.name;
}

json defined(const engine::Engine& engine) {
  const engine::Engine::AsDefined& said = engine.as_defined();
  return {{"readonly", said.read_only},
          {"mode", said.expose.mode.value},
          {"owner", account(said.expose.owner)},
          {"group", account(said.expose.group)},
          {"hidden", said.expose.hidden.value}};
}

}  // namespace

json status_of(engine::Engine& engine, const Host& host) {
  json devices = json::array();
  HealthFinder health(engine);
  std::optional<std::unordered_map<const engine::Node*, std::vector<std::string>>> users;
  engine.for_each_node([&](engine::Node& node) {
    if (!users) users = engine.graph().all_users();  // here, where the structure stays as it is
    devices.push_back(device_of(node, (*users)[&node], health));
  });
  json unavailable = json::array(), groups = json::array();
  for (const engine::VolumeGroup* group : engine.volume_groups())
    groups.push_back(group_of(*group));
  for (const engine::Unavailable& each : engine.unavailable())
    unavailable.push_back({{"volume", each.path}, {"reason", each.reason}, {"state", "failed"}});
  return {{"version", VOLFS_VERSION},
          {"pid", getpid()},
          {"mountpoint", host.mountpoint},
          {"source", engine.source()},
          {"overlay", engine.overlay() ? json(engine.overlay()->directory()) : json()},
          {"transport", host.transport()},
          {"read_only", engine.read_only()},
          {"defined", defined(engine)},
          {"shows_hidden", engine.shows_hidden()},
          {"volume_groups", std::move(groups)},
          {"devices", std::move(devices)},
          {"unavailable", std::move(unavailable)}};
}

}  // namespace volfs::control
