// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on the mount as a whole.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>

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

Result<json> status_mount(const RequestContext& context, const Fields&) {
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
Result<json> ending(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const bool lazy, fields.flag_or("lazy", false));
  for (const auto& volume : context.engine.catalog().volumes())
    if (const uint64_t open = volume->open_count(); open > 0 && !lazy)
      return fail(Error::make(EBUSY, fmt::format("{}: in use: {} open file{}", volume->path(), open,
                                                 open == 1 ? "" : "s")));
  context.engine.events().publish({"mount.ending", "", {}});
  context.engine.events().end();
  return json();
}

Result<json> add_image(const RequestContext& context, const Fields& fields) {
  engine::NewImage image;
  VOLFS_TRY_ASSIGN(image.name, fields.text("image"));
  VOLFS_TRY_ASSIGN(image.path, fields.text("path"));
  VOLFS_TRY_ASSIGN(image.read_only, fields.flag_or("readonly", false));
  VOLFS_TRY_ASSIGN(image.direct, fields.flag_or("direct", false));
  VOLFS_TRY_ASSIGN(const uint64_t partition, fields.positive_or("partition", 0));
  if (partition > 65535) return fail_invalid("'partition' is more than 65535");
  image.partition = static_cast<unsigned>(partition);
  VOLFS_TRY_ASSIGN(image.offset, fields.number_or("offset", 0));
  VOLFS_TRY_ASSIGN(image.length, fields.positive_or("length", 0));
  VOLFS_TRY_ASSIGN(image.pad, fields.positive_or("pad", 0));
  VOLFS_TRY_ASSIGN(image.activate, fields.flag_or("activate", true));
  VOLFS_TRY_ASSIGN(const auto problems, context.engine.image_add(image));
  return json{{"problems", problems}};
}

Result<json> remove_image(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("image"));
  VOLFS_TRY(context.engine.image_remove(name));
  return json();
}

// What would be lost if something else were made of a device.
Result<json> contents(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("device"));
  VOLFS_TRY_ASSIGN(const engine::Contents found, context.engine.contents(name));
  json out{{"device", name}, {"contents", found.text}};
  if (!found.array.empty()) out["array"] = found.array;
  return out;
}

constexpr std::array mount_rows{
    RequestType{"device.contents", "device:name", contents},
    RequestType{"mount.add_image",
                "image:name,path:path,readonly:flag?,direct:flag?,partition:number?,offset:number?,"
                "length:number?,pad:number?,activate:flag?",
                add_image},
    RequestType{"mount.ending", "lazy:flag?", ending},
    RequestType{"mount.info", "", info},
    RequestType{"mount.remove_image", "image:name", remove_image},
    RequestType{"mount.requests", "", list_requests},
    RequestType{"mount.sync", "", sync},
    RequestType{"status", "", status_mount},
    RequestType{"volume.users", "volume:name", users},
};

}  // namespace

std::span<const RequestType> mount_requests() {
  return mount_rows;
}

}  // namespace volfs::control
