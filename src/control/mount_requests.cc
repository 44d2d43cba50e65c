// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on the mount as a whole.
#include <fmt/format.h>
#include <unistd.h>

#include <array>

#include "requests.h"
#include "schema.h"
#include "volfs/control/open_users.h"
#include "volfs/units.h"

namespace volfs::control {
namespace {

using nlohmann::json;

Result<json> info(const RequestContext& context, const Fields&) {
  return json{{"version", VOLFS_VERSION},
              {"pid", getpid()},
              {"report_fd", context.host.report_fd},
              {"mountpoint", context.host.mountpoint},
              {"source", context.engine.source()}};
}

Result<json> sync(const RequestContext& context, const Fields&) {
  VOLFS_TRY(context.engine.sync());
  return json();
}

Result<json> status(const RequestContext& context, const Fields&) {
  return status_of(context.engine, context.host);
}

Result<json> list_requests(const RequestContext&, const Fields&) {
  json all = json::object();
  for (const RequestType* type : all_requests())
    all[std::string(type->name)] = json_schema(type->name, type->keys);
  return all;
}

// Who has a volume open.
Result<json> users(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string path, fields.text("volume"));
  const auto volume = context.engine.catalog().find(path);
  if (!volume) return fail_sys(ENOENT, path);
  json all = json::array();
  for (const OpenUser& user : open_users(context.host.mountpoint + "/" + path))
    all.push_back({{"pid", user.pid}, {"command", user.command}});
  return json{{"volume", path}, {"open", volume->open_count()}, {"users", std::move(all)}};
}

// Whoever follows events lets go of the mount, so that it can be unmounted.
Result<json> ending(const RequestContext& context, const Fields&) {
  context.engine.events().publish({"mount.ending", "", {}});
  context.engine.events().end();
  return json();
}

const char* kind_name(const Extent& extent, const engine::Node* node) {
  if (extent.kind == Extent::Kind::zero) return "zero";
  if (extent.kind == Extent::Kind::error) return "error";
  if (!node) return "device";
  return engine::to_string(node->kind).data();
}

// Where a byte of a volume is: the extents of [offset, offset+length).
Result<json> where(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string path, fields.text("volume"));
  VOLFS_TRY_ASSIGN(const uint64_t offset, fields.number("offset"));
  VOLFS_TRY_ASSIGN(const uint64_t length, fields.number_or("length", 1));
  const auto volume = context.engine.catalog().find(path);
  if (!volume || !volume->open()) return fail_sys(ENOENT, path);
  const std::unique_ptr<engine::Volume, void (*)(engine::Volume*)> opened(
      volume.get(), [](engine::Volume* each) { each->close(); });
  if (!range_within(offset, length, volume->size()))
    return fail_invalid(fmt::format("{}: {} bytes at {}: expected an end at {} at most", path,
                                    length, offset, volume->size()));
  Mapping mapping;
  volume->device().map(Op::read, offset, length, Wait::yes, mapping);
  json extents = json::array();
  uint64_t at = offset;
  for (const Extent& extent : mapping.extents()) {
    const engine::Node* node =
        extent.device ? context.engine.graph().find(*extent.device) : nullptr;
    json entry{{"offset", at}, {"length", extent.length}, {"kind", kind_name(extent, node)}};
    if (extent.device) {
      entry["device"] = extent.device->name();
      entry["device_offset"] = extent.offset;
    }
    extents.push_back(std::move(entry));
    at += extent.length;
  }
  return json{{"volume", path}, {"extents", std::move(extents)}};
}

constexpr std::array requests{
    RequestType{"mount.ending", "", ending},
    RequestType{"mount.info", "", info},
    RequestType{"mount.requests", "", list_requests},
    RequestType{"mount.sync", "", sync},
    RequestType{"status", "", status},
    RequestType{"volume.users", "volume:name", users},
    RequestType{"where", "volume:name,offset:number,length:number?", where},
};

}  // namespace

std::span<const RequestType> mount_requests() {
  return requests;
}

}  // namespace volfs::control
