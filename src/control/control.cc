// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/control/control.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "requests.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/md/array.h"

namespace volfs::control {
namespace {

using nlohmann::json;

// "EBUSY" for EBUSY; the number as text for what has no name.
std::string code_name(int code) {
  const char* name = strerrorname_np(code);
  return name ? name : fmt::format("{}", code);
}

json error_reply(const Error& error) {
  return {
      {"ok", false},
      {"error",
       {{"code", code_name(error.code())}, {"errno", error.code()}, {"message", error.text()}}}};
}

std::string written(const json& reply) {
  // Text from disks need not be UTF-8; a reply always is.
  return reply.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

const RequestType* find_request(std::string_view name) {
  for (const auto list :
       {mount_requests(), map_requests(), array_requests(), lv_requests(), snapshot_requests()})
    for (const RequestType& type : list)
      if (type.name == name) return &type;
  return nullptr;
}

bool knows_key(std::string_view keys, std::string_view key) {
  while (!keys.empty()) {
    const size_t end = std::min(keys.find(','), keys.size());
    if (keys.substr(0, end) == key) return true;
    keys.remove_prefix(std::min(end + 1, keys.size()));
  }
  return false;
}

Result<json> run(const RequestContext& context, std::string_view text) {
  const json body = json::parse(text, nullptr, false);
  if (body.is_discarded())
    return fail_invalid("the request is not JSON; expected an object {\"request\": NAME, ...}");
  if (!body.is_object())
    return fail_invalid(
        fmt::format("the request is a JSON {}; expected an object "
                    "{{\"request\": NAME, ...}}",
                    body.type_name()));
  const Fields fields(body);
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("request"));
  const RequestType* type = find_request(name);
  if (!type) return fail(Error::make(ENOSYS, fmt::format("there is no request '{}'", name)));
  for (const auto& item : body.items())
    if (item.key() != "request" && !knows_key(type->keys, item.key()))
      return fail_invalid(fmt::format("{}: unknown key '{}'; expected {}", name, item.key(),
                                      type->keys.empty() ? "none" : type->keys));
  return type->run(context, fields);
}

template <class Text>
std::string lines_of_maps(engine::Engine& engine, Text text) {
  std::string all;
  engine.for_each_node([&](const engine::Node& node) {
    const auto* mapped = dynamic_cast<const dm::MappedDevice*>(node.device.get());
    if (!mapped) return;
    std::string rows = text(*mapped);
    for (size_t begin = 0; begin < rows.size();) {
      const size_t end = std::min(rows.find('\n', begin), rows.size());
      all += fmt::format("{}: {}\n", node.name, std::string_view(rows).substr(begin, end - begin));
      begin = end + 1;
    }
  });
  return all;
}

}  // namespace

Control::Control(engine::Engine& engine, Host host) : engine_(engine), host_(std::move(host)) {}

std::string Control::handle(std::string_view text) {
  auto result = run({engine_, host_}, text);
  if (!result) return written(error_reply(result.error()));
  return written({{"ok", true}, {"result", std::move(*result)}});
}

std::string Control::table() const {
  return lines_of_maps(engine_, [](const dm::MappedDevice& map) { return map.table(); });
}

std::string Control::status() const {
  return lines_of_maps(engine_, [](const dm::MappedDevice& map) { return map.status(); });
}

std::string Control::mdstat() const {
  // As a kernel with all levels loaded says it.
  std::string text = "Personalities : [linear] [raid0] [raid1] [raid10] [raid6] [raid5] [raid4] \n";
  std::string arrays;
  engine_.for_each_node([&](const engine::Node& node) {
    if (const auto* array = dynamic_cast<const md::Array*>(node.device.get()))
      arrays = array->mdstat() + arrays;  // the newest first
  });
  return text + arrays + "unused devices: <none>\n";
}

std::string Control::status_json() const {
  return status_of(engine_, host_).dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace volfs::control
