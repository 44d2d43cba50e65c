// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on maps: what dmsetup does.
#include <array>

#include "requests.h"
#include "volfs/dm/mapped_device.h"

namespace volfs::control {
namespace {

using nlohmann::json;

Result<json> create_map(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY_ASSIGN(const std::string table, fields.text("table"));
  engine::NewMap options;
  VOLFS_TRY_ASSIGN(options.uuid, fields.text_or("uuid", ""));
  VOLFS_TRY_ASSIGN(options.read_only, fields.flag_or("readonly", false));
  VOLFS_TRY_ASSIGN(options.hidden, fields.flag_or("hidden", false));
  VOLFS_TRY(context.engine.map_create(name, table, options));
  return json();
}

// A table beside the active one, or in its place.
template <Status (engine::Engine::*take)(std::string_view, std::string_view, bool)>
Result<json> load(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY_ASSIGN(const std::string table, fields.text("table"));
  VOLFS_TRY_ASSIGN(const bool read_only, fields.flag_or("readonly", false));
  VOLFS_TRY((context.engine.*take)(name, table, read_only));
  return json();
}

Result<json> check(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY_ASSIGN(const std::string table, fields.text("table"));
  VOLFS_TRY_ASSIGN(const bool read_only, fields.flag_or("readonly", false));
  VOLFS_TRY_ASSIGN(std::string text, context.engine.map_check(name, table, read_only));
  return json(std::move(text));
}

Result<json> clear(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY(context.engine.map_clear(name));
  return json();
}

Result<json> suspend(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY_ASSIGN(const bool flush, fields.flag_or("flush", true));
  VOLFS_TRY_ASSIGN(const uint64_t timeout_ms, fields.number_or("timeout_ms", 0));
  VOLFS_TRY(context.engine.map_suspend(name, flush, std::chrono::milliseconds(timeout_ms)));
  return json();
}

Result<json> resume(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY(context.engine.map_resume(name));
  return json();
}

Result<json> message(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY_ASSIGN(const uint64_t sector, fields.number_or("sector", 0));
  VOLFS_TRY_ASSIGN(const std::string text, fields.text("message"));
  VOLFS_TRY_ASSIGN(const std::string answer, context.engine.map_message(name, sector, text));
  return json(answer);
}

Result<json> remove_map(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY(context.engine.map_remove(name));
  return json();
}

Result<json> rename_map(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY_ASSIGN(const std::string to, fields.text("to"));
  VOLFS_TRY(context.engine.map_rename(name, to));
  return json();
}

// The rows of one map's table or status.
template <std::string (dm::MappedDevice::*rows)(dm::MappedDevice::Which) const>
Result<json> print(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("map"));
  VOLFS_TRY_ASSIGN(const bool inactive, fields.flag_or("inactive", false));
  const auto which = inactive ? dm::MappedDevice::Which::inactive : dm::MappedDevice::Which::active;
  json text;
  VOLFS_TRY(context.engine.with_map(
      name, [&](const dm::MappedDevice& map) { text = (map.*rows)(which); }));
  return text;
}

constexpr std::array map_rows{
    RequestType{"map.create", "map:name,table:text,uuid:text?,readonly:flag?,hidden:flag?",
                create_map},
    RequestType{"map.load", "map:name,table:text,readonly:flag?", load<&engine::Engine::map_load>},
    RequestType{"map.swap", "map:name,table:text,readonly:flag?", load<&engine::Engine::map_swap>},
    RequestType{"map.check", "map:name,table:text,readonly:flag?", check},
    RequestType{"map.clear", "map:name", clear},
    RequestType{"map.suspend", "map:name,flush:flag?,timeout_ms:ms?", suspend},
    RequestType{"map.resume", "map:name", resume},
    RequestType{"map.message", "map:name,sector:number?,message:text", message},
    RequestType{"map.remove", "map:name", remove_map},
    RequestType{"map.rename", "map:name,to:name", rename_map},
    RequestType{"map.table", "map:name,inactive:flag?", print<&dm::MappedDevice::table>},
    RequestType{"map.status", "map:name,inactive:flag?", print<&dm::MappedDevice::status>},
};

}  // namespace

std::span<const RequestType> map_requests() {
  return map_rows;
}

}  // namespace volfs::control
