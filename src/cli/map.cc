// SPDX-License-Identifier: GPL-2.0-or-later
// volfs map: dmsetup's commands on the maps of a mount.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "client.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct MapArguments {
  std::string path;
  std::string table, uuid, to;
  std::vector<std::string> words;
  uint64_t sector = 0;
  double timeout = 0;
  bool read_only = false, no_flush = false, inactive = false;
};

Result<std::string> standard_input() {
  std::string text;
  char buffer[65536];
  ssize_t got = 0;
  while ((got = read(STDIN_FILENO, buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<size_t>(got));
  if (got < 0) return fail_sys(errno, "standard input");
  return text;
}

// A table: --table's text, a file is read by the shell; without it standard input, as dmsetup.
Result<std::string> table_text(const MapArguments& arguments) {
  if (!arguments.table.empty()) return arguments.table;
  return standard_input();
}

Result<json> send(const std::string& path, const char* name, json body) {
  VOLFS_TRY_ASSIGN(const Target target, find_target(path));
  if (target.volume.empty())
    return fail_invalid(
        fmt::format("{}: a mount; expected one of its maps, as {}/NAME", path, target.mountpoint));
  body["request"] = name;
  body["map"] = target.volume;
  return request(target.mountpoint, body);
}

// A target's answer may lack the end of its last line; dmsetup adds it, too.
void print_lines(const std::string& text) {
  fmt::print("{}{}", text, text.empty() || text.ends_with('\n') ? "" : "\n");
}

using MapBody = std::function<Result<json>(const MapArguments&)>;

// One subcommand of `volfs map`: its options are added by the caller, BODY makes the request.
CLI::App* add_one(CLI::App& map, Session& session, const std::shared_ptr<MapArguments>& arguments,
                  const char* name, const char* help, const char* example, MapBody body) {
  auto* command = map.add_subcommand(name, help);
  command->add_option("MAP", arguments->path, "a map's file, as /mnt/scratch")->required();
  add_json_option(*command, session);
  set_examples(*command, example);
  const std::string request_name = std::string("map.") + name;
  command->callback([arguments, &session, request_name, body = std::move(body)] {
    auto fields = body(*arguments);
    if (!fields) return session.fail(fields.error());
    const auto answer = send(arguments->path, request_name.c_str(), std::move(*fields));
    if (!answer) return session.fail(answer.error());
    if (session.json)
      fmt::print("{}\n", answer->dump());
    else if (answer->is_string())
      print_lines(answer->get<std::string>());
  });
  return command;
}

Result<json> no_fields(const MapArguments&) {
  return json::object();
}

}  // namespace

void add_map(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<MapArguments>();
  auto* map = app.add_subcommand("map", "device-mapper tables of a running mount, as dmsetup");
  map->require_subcommand(1);
  set_examples(*map,
               "  echo '0 2048 linear disk0 0' | volfs map create /mnt/new\n"
               "  volfs map suspend /mnt/scratch && volfs map load /mnt/scratch < table &&\n"
               "    volfs map resume /mnt/scratch\n"
               "  volfs map table /mnt/scratch\n");
  const auto with_table = [](const MapArguments& given) -> Result<json> {
    VOLFS_TRY_ASSIGN(const std::string table, table_text(given));
    json body{{"table", table}, {"readonly", given.read_only}};
    if (!given.uuid.empty()) body["uuid"] = given.uuid;
    return body;
  };
  const auto add = [&](const char* name, const char* help, const char* example, MapBody body) {
    return add_one(*map, session, arguments, name, help, example, std::move(body));
  };
  auto* create = add("create", "make a map of the table on standard input",
                     "  echo '0 2048 linear disk0 0' | volfs map create /mnt/new\n", with_table);
  auto* load = add("load", "load a table; `resume` makes it the active one",
                   "  volfs map load /mnt/scratch < table\n", with_table);
  for (CLI::App* command : {create, load}) {
    command->add_option("--table", arguments->table, "the table, instead of standard input");
    command->add_flag("-r,--readonly", arguments->read_only, "make it read-only");
  }
  create->add_option("-u,--uuid", arguments->uuid, "its uuid");
  add("clear", "drop a loaded table that is not active yet", "  volfs map clear /mnt/scratch\n",
      no_fields);
  auto* suspend = add("suspend", "hold back new I/O, wait for what is under way, flush",
                      "  volfs map suspend /mnt/scratch --timeout 10\n",
                      [](const MapArguments& given) -> Result<json> {
                        return json{{"flush", !given.no_flush},
                                    {"timeout_ms", static_cast<uint64_t>(given.timeout * 1000)}};
                      });
  suspend->add_flag("--noflush", arguments->no_flush, "do not flush");
  suspend->add_option("--timeout", arguments->timeout, "seconds to wait at most")
      ->check(CLI::Range(0.0, 86400.0));
  add("resume", "let I/O go on, through a loaded table if there is one",
      "  volfs map resume /mnt/scratch\n", no_fields);
  add("remove", "remove a map that nobody uses", "  volfs map remove /mnt/scratch\n", no_fields);
  auto* rename =
      add("rename", "give a map another name", "  volfs map rename /mnt/scratch newname\n",
          [](const MapArguments& given) -> Result<json> { return json{{"to", given.to}}; });
  rename->add_option("NEWNAME", arguments->to)->required();
  auto* message = add("message", "send a message to a target",
                      "  volfs map message /mnt/dusty 0 addbadblock 8\n",
                      [](const MapArguments& given) -> Result<json> {
                        return json{{"sector", given.sector},
                                    {"message", fmt::format("{}", fmt::join(given.words, " "))}};
                      });
  message->add_option("SECTOR", arguments->sector, "a sector of the target")->required();
  message->add_option("WORD", arguments->words, "the message")->required()->expected(1, 65536);
  const auto which = [](const MapArguments& given) -> Result<json> {
    return json{{"inactive", given.inactive}};
  };
  for (CLI::App* command :
       {add("table", "print the table", "  volfs map table /mnt/scratch --inactive\n", which),
        add("status", "print the targets' status", "  volfs map status /mnt/scratch\n", which)})
    command->add_flag("--inactive", arguments->inactive, "of the loaded table");
}

}  // namespace volfs::cli
