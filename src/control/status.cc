// SPDX-License-Identifier: GPL-2.0-or-later
// status.json: everything, for programs. volfs(1) documents it; keys are only ever added.
#include <unistd.h>

#include "requests.h"
#include "volfs/dm/mapped_device.h"

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
