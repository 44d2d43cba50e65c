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

// As md's consistency_policy.
const char* consistency_policy(const md::ArrayStatus& s) {
  if (s.has_ppl) return "ppl";
  if (s.bitmap) return "bitmap";
  return s.geometry.level > 0 ? "resync" : "none";
}

json members_of(const md::ArrayStatus& s) {
  json members = json::array();
  for (const md::MemberStatus& m : s.members) {
    json member{{"device", m.device},
                {"number", m.number},
                {"state", md::member_state_name(m.state)},
                {"write_mostly", m.write_mostly},
                {"failfast", m.failfast},
                {"data_offset", m.data_offset},
                {"read_errors", m.read_errors}};
    if (m.slot) member["slot"] = *m.slot;
    if (m.replacement) member["replacement"] = true;
    if (m.to_replace) member["to_replace"] = true;
    members.push_back(std::move(member));
  }
  return members;
}

json sync_of(const md::ArrayStatus& s) {
  json sync{{"action", md::sync_action_name(s.sync.action)}, {"pending", s.sync.pending}};
  if (s.sync.action != md::SyncAction::idle) {
    sync["position"] = s.sync.position;
    sync["size"] = s.sync.size;
    sync["speed"] = s.sync.speed;
    sync["seconds_left"] = s.sync.seconds_left;
  }
  return sync;
}

// In lvs' words.
json raid_of(const md::ArrayStatus& s) {
  return {{"raid_sync_action", md::sync_action_name(s.sync.action)},
          {"raid_mismatch_count", s.mismatches / sector_size},
          {"members", members_of(s)},
          {"sync", sync_of(s)}};
}

json array_of(const md::ArrayStatus& s) {
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
             {"consistency_policy", consistency_policy(s)},
             {"component_size", s.member_size},
             {"write_behind", s.bitmap ? s.bitmap->write_behind : 0},
             {"members", members_of(s)},
             {"sync", sync_of(s)}};
  if (s.bitmap)
    entry["bitmap"] = {{"chunk", s.bitmap->chunk}, {"dirty_chunks", s.bitmap->dirty_bits}};
  return entry;
}

using engine::Health;

// As dmsetup tells it of a snapshot whose store was full or could not be written.
bool is_lost_snapshot(const engine::Node& node) {
  const auto* map = dynamic_cast<const dm::MappedDevice*>(node.device.get());
  if (!map || node.kind == engine::Kind::image) return false;
  const std::string status = map->status();
  return status.find(" snapshot Invalid") != std::string::npos ||
         status.find(" snapshot Overflow") != std::string::npos;
}

// The health of devices with what they stand on. Engine's structure does not change meanwhile.
class HealthFinder {
 public:
  explicit HealthFinder(engine::Engine& engine) : engine_(engine) {}

  Health of(const BlockDevice& device) {
    if (const auto known = known_.find(&device); known != known_.end()) return known->second;
    const engine::Node* node = engine_.graph().find(device);
    Health health = node ? own(*node) : Health::active;
    // An array tells what it makes of the state of its members.
    const auto* map = dynamic_cast<const dm::MappedDevice*>(&device);
    if (!dynamic_cast<const md::Array*>(&device) && !(map && map->array_status()))
      health = std::max(health, of_below(device));
    known_.emplace(&device, health);
    return health;
  }

 private:
  static Health worse(Health health, md::ArrayState state) {
    switch (state) {
      case md::ArrayState::active:
        return health;
      case md::ArrayState::degraded:
        return std::max(health, Health::degraded);
      case md::ArrayState::failed:
        break;
    }
    return Health::failed;
  }

  static Health own(const engine::Node& node) {
    if (const auto* array = dynamic_cast<const md::Array*>(node.device.get()))
      return worse(node.health, array->status().state);
    const auto* map = dynamic_cast<const dm::MappedDevice*>(node.device.get());
    if (const auto raid = map ? map->array_status() : nullptr)
      return worse(node.health, raid->state);
    return is_lost_snapshot(node) ? Health::failed : node.health;
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

json given(const engine::ImageSource& source) {
  return {{"path", source.path},     {"partition", source.partition},
          {"offset", source.offset}, {"length", source.length},
          {"pad", source.pad},       {"readonly", source.read_only},
          {"direct", source.direct}};
}

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
  if (!node.problem.empty())
    entry["problem"] = node.problem;
  else if (is_lost_snapshot(node))
    entry["problem"] =
        "its store was full or could not be written: nothing of the snapshot is left";
  if (node.internal) entry["internal"] = true;
  if (!node.uuid.empty()) entry["uuid"] = node.uuid;
  if (node.source) entry["given"] = given(*node.source);
  if (const auto* image = dynamic_cast<const FileImage*>(&device)) {
    entry["path"] = image->path();
    entry["start"] = image->start();
    entry["file_size"] = image->file_size();
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
  if (const auto* map = dynamic_cast<const dm::MappedDevice*>(&device)) {
    entry["map"] = map_of(*map);
    if (const auto raid = map->array_status()) entry["raid"] = raid_of(*raid);
  }
  return entry;
}

const char* to_string(lvm::ActivationMode mode) {
  switch (mode) {
    case lvm::ActivationMode::complete:
      return "complete";
    case lvm::ActivationMode::degraded:
      return "degraded";
    case lvm::ActivationMode::partial:
      break;
  }
  return "partial";
}

json volume_of(const engine::VolumeGroup& group, const lvm::VolumeGroup& model, uint32_t lv,
               const lvm::SnapshotLinks& links, const std::vector<std::string>& devices) {
  const lvm::LogicalVolume& volume = model.lvs[lv];
  const engine::VolumeGroup::Setup& setup = group.setup();
  const auto own = setup.own_modes.find(volume.name);
  const lvm::VolumeShape shape = lvm::shape_of(model, lv, links);
  json entry{{"name", volume.name},
             {"uuid", volume.id.dashed()},
             {"extents", volume.extents()},
             {"writable", volume.writable()},
             {"tags", volume.tags},
             {"alloc", volume.allocation_policy.empty() ? "inherit" : volume.allocation_policy},
             {"activation", to_string(own == setup.own_modes.end() ? setup.mode : own->second)},
             {"hidden", group.unseen(volume.id)},
             {"type", shape.type},
             {"stripes", shape.stripes},
             {"mirrors", shape.mirrors},
             {"stripe_size", shape.stripe_size},
             {"region_size", shape.region_size},
             {"nosync", lvm::has(volume.status, "NOTSYNCED")},
             {"physical_volumes", json::array()}};
  for (const uint32_t pv : lvm::pvs_below(model, lv))
    if (pv < devices.size() && !devices[pv].empty())
      entry["physical_volumes"].push_back(devices[pv]);
  for (const uint32_t link : links.of_origin[lv])
    if (const lvm::Segment& snapshot = model.lvs[link].segments.front(); snapshot.merging)
      entry["merging"] = model.lvs[*snapshot.cow].name;
  if (shape.chunk_size > 0) {
    entry["origin"] = shape.origin;
    entry["chunk_size"] = shape.chunk_size;
  }
  return entry;
}

json group_of(const engine::VolumeGroup& group) {
  const lvm::VolumeGroup model = group.model();
  json volumes = json::array(), pvs = json::array();
  const lvm::SnapshotLinks links(model);
  const std::vector<std::string> devices = group.devices();
  for (uint32_t lv = 0; lv < model.lvs.size(); ++lv)
    if (model.visible(lv, links)) volumes.push_back(volume_of(group, model, lv, links, devices));
  for (size_t pv = 0; pv < std::min(devices.size(), model.pvs.size()); ++pv)
    pvs.push_back({{"device", devices[pv].empty() ? json() : json(devices[pv])},
                   {"uuid", model.pvs[pv].id.dashed()},
                   {"tags", model.pvs[pv].tags},
                   {"allocatable", model.pvs[pv].allocatable()}});
  return {{"name", group.name()},
          {"uuid", model.id.dashed()},
          {"seqno", model.seqno},
          {"extent_size", model.extent_size},
          {"free_extents", lvm::free_extents(model)},
          {"tags", model.tags},
          {"alloc", model.allocation_policy.empty() ? "normal" : model.allocation_policy},
          {"activation", to_string(group.setup().mode)},
          {"readonly", group.setup().wanted_read_only},
          {"physical_volumes", std::move(pvs)},
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
  for (const auto& group : engine.volume_groups()) groups.push_back(group_of(*group));
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
