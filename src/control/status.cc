// SPDX-License-Identifier: GPL-2.0-or-later
// status.json: everything, for programs. volfs(1) documents it; keys are only ever added.
#include <unistd.h>

#include "requests.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/md/array.h"

namespace volfs::control {
namespace {

using nlohmann::json;

json counters_of(engine::Volume& volume) {
  const auto& counters = volume.counters();
  return {
      {"reads", counters.reads.load()},           {"writes", counters.writes.load()},
      {"flushes", counters.flushes.load()},       {"discards", counters.discards.load()},
      {"bytes_read", counters.bytes_read.load()}, {"bytes_written", counters.bytes_written.load()},
      {"errors", counters.errors.load()}};
}

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
             {"members", std::move(members)},
             {"sync", std::move(sync)}};
  if (s.bitmap)
    entry["bitmap"] = {{"chunk", s.bitmap->chunk}, {"dirty_chunks", s.bitmap->dirty_bits}};
  return entry;
}

json device_of(engine::Engine& engine, engine::Node& node) {
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
             {"users", engine.graph().users(device)},
             {"state", node.problem.empty() ? "active" : "failed"}};
  if (!node.problem.empty()) entry["problem"] = node.problem;
  if (!node.uuid.empty()) entry["uuid"] = node.uuid;
  if (const auto volume = node.volume) {
    entry["volume"] = volume->path();
    entry["open"] = volume->open_count();
    entry["counters"] = counters_of(*volume);
  }
  if (const auto* array = dynamic_cast<const md::Array*>(&device)) {
    const md::ArrayStatus status = array->status();
    entry["array"] = array_of(status);
    if (node.problem.empty()) entry["state"] = md::array_state_name(status.state);
  }
  if (const auto* map = dynamic_cast<const dm::MappedDevice*>(&device)) entry["map"] = map_of(*map);
  return entry;
}

}  // namespace

json status_of(engine::Engine& engine, const Host& host) {
  json devices = json::array();
  engine.for_each_node([&](engine::Node& node) { devices.push_back(device_of(engine, node)); });
  json unavailable = json::array();
  for (const engine::Unavailable& each : engine.unavailable())
    unavailable.push_back({{"volume", each.path}, {"reason", each.reason}});
  return {{"version", VOLFS_VERSION},      {"pid", getpid()},
          {"mountpoint", host.mountpoint}, {"source", engine.source()},
          {"transport", host.transport},   {"read_only", engine.read_only()},
          {"devices", std::move(devices)}, {"unavailable", std::move(unavailable)}};
}

}  // namespace volfs::control
