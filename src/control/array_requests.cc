// SPDX-License-Identifier: GPL-2.0-or-later
// Requests on arrays: what mdadm does to a running one.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "requests.h"
#include "volfs/md/array.h"

namespace volfs::control {
namespace {

using nlohmann::json;

// The array stays while it is worked with.
struct Pinned {
  engine::Graph::Pin pin;
  md::Array* array;
};
Result<Pinned> pinned(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("array"));
  VOLFS_TRY_ASSIGN(auto pin, context.engine.graph().pin(name));
  auto* array = dynamic_cast<md::Array*>(pin->device.get());
  if (!array) return fail(Error::make(ENOTTY, fmt::format("{} is no array", name)));
  return Pinned{std::move(pin), array};
}

template <Status (md::Array::*work)(std::string_view)>
Result<json> on_member(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Pinned target, pinned(context, fields));
  VOLFS_TRY_ASSIGN(const std::string device, fields.text("device"));
  VOLFS_TRY((target.array->*work)(device));
  return json();
}

Result<json> add(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string array, fields.text("array"));
  VOLFS_TRY_ASSIGN(const std::string device, fields.text("device"));
  VOLFS_TRY_ASSIGN(const bool re_add, fields.flag_or("re_add", false));
  VOLFS_TRY(context.engine.array_add(array, device, re_add));
  return json();
}

Result<json> replace(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Pinned target, pinned(context, fields));
  VOLFS_TRY_ASSIGN(const std::string device, fields.text("device"));
  VOLFS_TRY_ASSIGN(const std::string with, fields.text_or("with", ""));
  VOLFS_TRY(target.array->replace(device, with));
  return json();
}

template <Status (md::Array::*work)()>
Result<json> start(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Pinned target, pinned(context, fields));
  VOLFS_TRY((target.array->*work)());
  return json();
}

Result<engine::NewArray> new_array(const Fields& fields) {
  engine::NewArray array;
  VOLFS_TRY_ASSIGN(array.name, fields.text("array"));
  VOLFS_TRY_ASSIGN(array.devices, fields.texts("devices"));
  VOLFS_TRY_ASSIGN(array.force, fields.flag_or("force", false));
  return array;
}

Result<json> create(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(engine::NewArray array, new_array(fields));
  VOLFS_TRY_ASSIGN(array.spares, fields.texts("spares"));
  for (const char* key : {"level", "layout", "chunk", "metadata", "bitmap", "bitmap_chunk",
                          "consistency", "size", "data_offset", "name", "homehost", "uuid"}) {
    VOLFS_TRY_ASSIGN(const std::string value, fields.text_or(key, ""));
    if (!value.empty()) array.words.emplace_back(key, value);
  }
  VOLFS_TRY_ASSIGN(const bool clean, fields.flag_or("assume_clean", false));
  if (clean) array.words.emplace_back("assume_clean", "true");
  VOLFS_TRY(context.engine.array_create(array));
  return json();
}

Result<json> assemble(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(engine::NewArray array, new_array(fields));
  VOLFS_TRY_ASSIGN(array.read_only, fields.flag_or("readonly", false));
  VOLFS_TRY_ASSIGN(array.activate, fields.flag_or("activate", true));
  VOLFS_TRY_ASSIGN(const auto problems, context.engine.array_assemble(array));
  return json{{"problems", problems}};
}

Result<json> stop(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("array"));
  VOLFS_TRY(context.engine.array_stop(name));
  return json();
}

Result<json> idle(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Pinned target, pinned(context, fields));
  target.array->cancel_check();
  target.array->release_sync();
  return json();
}

Result<json> frozen(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Pinned target, pinned(context, fields));
  target.array->hold_sync(true);
  return json();
}

// An array that is waited for may be stopped, so it is kept for a moment only; the wait ends then.
// While it is about to be stopped it cannot be found, and may yet stay.
Result<Pinned> pinned_again(const RequestContext& context, const Fields& fields, uint64_t serial) {
  while (true) {
    auto target = pinned(context, fields);
    if (target && target->pin->serial == serial) return target;
    bool there = false;
    context.engine.for_each_node([&](const engine::Node& node) { there |= node.serial == serial; });
    if (target || !there) break;
    sleep_for(std::chrono::milliseconds(20));
  }
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("array"));
  return fail(Error::make(ENODEV, fmt::format("{}: was stopped while it was waited for", name)));
}

// Whether a spare would be put to use, if that were not held back.
bool spare_is_wanted(const md::ArrayStatus& status) {
  const auto& members = status.members;
  const bool wanted = status.state == md::ArrayState::degraded ||
                      std::ranges::any_of(members, &md::MemberStatus::to_replace);
  return wanted &&
         std::ranges::count(members, md::MemberState::spare, &md::MemberStatus::state) > 0;
}

Result<json> wait_array(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const uint64_t timeout_ms, fields.number_or("timeout_ms", 0));
  const TimePoint deadline =
      fields.has("timeout_ms") ? now() + std::chrono::milliseconds(timeout_ms) : never;
  constexpr Nanos slice = std::chrono::milliseconds(200);
  VOLFS_TRY_ASSIGN(auto first, pinned(context, fields));
  const uint64_t serial = first.pin->serial;
  std::optional<Pinned> target(std::move(first));
  while (!target->array->wait_sync(std::min(deadline, now() + slice))) {
    if (context.abandoned()) return fail(Error::make(ECANCELED, "nobody waits any more"));
    if (now() >= deadline)
      return fail(Error::make(ETIMEDOUT, target->array->name() + ": still being synced"));
    target.reset();
    VOLFS_TRY_ASSIGN(auto again, pinned_again(context, fields, serial));
    target.emplace(std::move(again));
  }
  const md::ArrayStatus status = target->array->status();
  if (status.state == md::ArrayState::failed)
    return fail(Error::make(EIO, target->array->name() + ": the array has failed"));
  if (status.sync.held && (status.sync.pending || spare_is_wanted(status)))
    return fail(Error::make(EBUSY, fmt::format("{}: is frozen, and something is to be synced; "
                                               "array.idle lets that go on",
                                               target->array->name())));
  return json{{"mismatch_cnt", status.mismatches / sector_size}};
}

Result<json> speed(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Pinned target, pinned(context, fields));
  const md::ArrayStatus now = target.array->status();
  VOLFS_TRY_ASSIGN(const uint64_t min, fields.number_or("min", now.sync_speed_min));
  VOLFS_TRY_ASSIGN(const uint64_t max, fields.number_or("max", now.sync_speed_max));
  VOLFS_TRY(target.array->set_sync_speed(min, max));
  return json();
}

Result<json> mdstat(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const Pinned target, pinned(context, fields));
  return json(target.array->mdstat());
}

constexpr std::array array_rows{
    RequestType{"array.fail", "array:name,device:name", on_member<&md::Array::fail>},
    RequestType{"array.remove", "array:name,device:name", on_member<&md::Array::remove>},
    RequestType{"array.create",
                "array:name,devices:list,level:text,spares:list?,layout:text?,chunk:text?,"
                "metadata:text?,bitmap:text?,bitmap_chunk:text?,consistency:text?,size:text?,"
                "data_offset:text?,name:text?,homehost:text?,uuid:text?,assume_clean:flag?,"
                "force:flag?",
                create},
    RequestType{"array.assemble",
                "array:name,devices:list,force:flag?,readonly:flag?,activate:flag?", assemble},
    RequestType{"array.add", "array:name,device:name,re_add:flag?", add},
    RequestType{"array.replace", "array:name,device:name,with:name?", replace},
    RequestType{"array.check", "array:name", start<&md::Array::check>},
    RequestType{"array.repair", "array:name", start<&md::Array::repair>},
    RequestType{"array.idle", "array:name", idle},
    RequestType{"array.frozen", "array:name", frozen},
    RequestType{"array.speed", "array:name,min:number?,max:number?", speed},
    RequestType{"array.stop", "array:name", stop},
    RequestType{"array.wait", "array:name,timeout_ms:ms?", wait_array},
    RequestType{"array.mdstat", "array:name", mdstat},
};

}  // namespace

std::span<const RequestType> array_requests() {
  return array_rows;
}

}  // namespace volfs::control
