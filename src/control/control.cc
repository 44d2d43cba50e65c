// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/control/control.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "requests.h"
#include "schema.h"
#include "volfs/control/open_users.h"
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

json error_reply(const Mistake& mistake) {
  const Error& error = mistake.error;
  json entry{{"code", code_name(error.code())},
             {"errno", error.code()},
             {"message", error.text()},
             {"place", mistake.place}};
  return {{"ok", false}, {"error", std::move(entry)}};
}

std::string written(const json& reply) {
  // Text from disks need not be UTF-8; a reply always is.
  return reply.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

const RequestType* find_request(std::string_view name) {
  for (const RequestType* type : all_requests())
    if (type->name == name) return type;
  return nullptr;
}

// Where an error of the engine belongs: a row of the request's table ("table:2"), or the device
// that the request is about.
std::string place_of(const Error& error, const std::string& subject) {
  constexpr std::string_view row = "table:";
  const std::string_view text = error.text();
  const size_t at = text.find(row);
  if (at != std::string_view::npos && (at == 0 || text.substr(0, at).ends_with(": "))) {
    const size_t end = text.find_first_not_of("0123456789", at + row.size());
    if (end != std::string_view::npos && end > at + row.size() && text[end] == ':')
      return std::string(text.substr(at, end - at));
  }
  return subject;
}

// Adds to the refusal of a volume that is open who has it open.
Error with_users(const RequestContext& context, Error error) {
  if (error.code() != EBUSY || context.host.mountpoint.empty()) return error;
  // The request may be about another device.
  const size_t end = error.text().find(": in use");
  if (end == std::string::npos) return error;
  std::string path = error.text().substr(0, end);
  if (const size_t before = path.rfind(": "); before != path.npos) path.erase(0, before + 2);
  const auto volume = context.engine.catalog().find(path);
  if (!volume || volume->open_count() == 0) return error;
  const std::string users = to_string(open_users(context.host.mountpoint + "/" + volume->path()));
  if (users.empty()) return error;
  return Error::make(EBUSY, fmt::format("{}: {}", error.text(), users));
}

std::expected<json, Mistake> run(const RequestContext& context, std::string_view text) {
  const auto body = parse_request(text);
  if (!body) return std::unexpected(body.error());
  const Fields fields(*body);
  const auto name = fields.text("request");
  if (!name) return std::unexpected(Mistake{"request", name.error()});
  const RequestType* type = find_request(*name);
  if (!type)
    return std::unexpected(Mistake{
        "request", Error::make(ENOSYS, fmt::format("there is no request '{}'; mount.requests "
                                                   "lists them",
                                                   *name))});
  if (auto mistake = check_keys(*name, type->keys, *body)) return std::unexpected(*mistake);
  auto result = type->run(context, fields);
  if (result) return std::move(*result);
  const std::string subject = subject_of(type->keys, *body);
  Error error = with_users(context, std::move(result.error()));
  std::string place = place_of(error, subject);
  return std::unexpected(Mistake{std::move(place), std::move(error)});
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

std::vector<const RequestType*> all_requests() {
  std::vector<const RequestType*> all;
  for (const auto list : {mount_requests(), where_requests(), map_requests(), array_requests(),
                          lv_requests(), snapshot_requests()})
    for (const RequestType& type : list) all.push_back(&type);
  return all;
}

Control::Control(engine::Engine& engine, Host host) : engine_(engine), host_(std::move(host)) {}

std::string Control::handle(std::string_view text, const std::function<bool()>& abandoned) {
  const RequestContext context{engine_, host_, abandoned ? abandoned : [] { return false; }};
  auto result = run(context, text);
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
