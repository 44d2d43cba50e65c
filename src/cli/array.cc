// SPDX-License-Identifier: GPL-2.0-or-later
// volfs array: mdadm's commands on the arrays of a mount.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli.h"
#include "client.h"
#include "progress.h"
#include "volfs/sync.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct ArrayArguments {
  std::string path, device, with;
  double timeout = 0;
  bool re_add = false;
};

Result<Target> find_array(const std::string& path) {
  auto target = find_target(path);
  if (target && target->volume.empty())
    return fail(Error::invalid(fmt::format("{}: a mount; expected one of its arrays, as {}/md0",
                                           path, target->mountpoint)));
  return target;
}

void tell(Session& session, const json& answer) {
  if (session.json)
    fmt::print("{}\n", answer.dump());
  else if (answer.is_string())
    fmt::print("{}", answer.get<std::string>());
  else if (answer.is_object() && answer.contains("mismatch_cnt"))
    fmt::print("mismatch_cnt {}\n", answer["mismatch_cnt"].get<uint64_t>());
}

void send(Session& session, const std::string& path, const std::string& name, json body) {
  const auto target = find_array(path);
  if (!target) return session.fail(target.error());
  body["request"] = name;
  body["array"] = target->volume;
  const auto answer = request(target->mountpoint, body);
  if (!answer) return session.fail(answer.error());
  tell(session, *answer);
}

// How far an array's sync has come.
class SyncProgress {
 public:
  explicit SyncProgress(const Target& target) : target_(target) {}

  void look() {
    const auto status = request(target_.mountpoint, {{"request", "status"}});
    if (!status) return;
    for (const json& device : (*status)["devices"])
      if (device.value("volume", "") == target_.volume && device.contains("array"))
        show(device["array"]["sync"]);
  }

 private:
  void show(const json& sync) {
    const std::string action = sync.value("action", "idle");
    if (action == "idle") return;
    if (action != action_) progress_.emplace(action, sync.value("size", uint64_t{0}));
    action_ = action;
    progress_->show(sync.value("position", uint64_t{0}));
  }

  const Target& target_;
  std::string action_;
  std::optional<Progress> progress_;
};

// Waits by turns, and shows between them how far it has come.
void wait(Session& session, const std::string& path, double seconds) {
  constexpr Nanos turn = std::chrono::milliseconds(500);
  const auto target = find_array(path);
  if (!target) return session.fail(target.error());
  const TimePoint deadline =
      seconds == 0 ? never
                   : now() + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  SyncProgress progress(*target);
  while (true) {
    const Nanos left = std::min<Nanos>(turn, deadline - now());
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count();
    const auto answer = request(target->mountpoint, {{"request", "array.wait"},
                                                     {"array", target->volume},
                                                     {"timeout_ms", std::max<int64_t>(ms, 1)}});
    if (answer) return tell(session, *answer);
    if (answer.error().code() != ETIMEDOUT || now() >= deadline)
      return session.fail(answer.error());
    progress.look();
  }
}

CLI::App* add_one(CLI::App& array, Session& session,
                  const std::shared_ptr<ArrayArguments>& arguments, const char* name,
                  const char* help) {
  auto* command = array.add_subcommand(name, help);
  command->add_option("ARRAY", arguments->path, "an array's file, as /mnt/md0")->required();
  add_json_option(*command, session);
  return command;
}

}  // namespace

void add_array(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<ArrayArguments>();
  auto* array = app.add_subcommand("array", "work with the arrays of a mount, as mdadm does");
  array->require_subcommand(1);
  set_examples(*array,
               "  volfs array fail /mnt/md0 disk1\n"
               "  volfs array remove /mnt/md0 disk1\n"
               "  volfs array add /mnt/md0 disk3\n"
               "  volfs array check /mnt/md0 && volfs array wait /mnt/md0\n");
  const auto on_device = [&](const char* name, const char* help) {
    auto* command = add_one(*array, session, arguments, name, help);
    command->add_option("DEVICE", arguments->device, "the member, by its name")->required();
    command->callback([arguments, &session, request = fmt::format("array.{}", name)] {
      json body{{"device", arguments->device}};
      if (arguments->re_add) body["re_add"] = true;
      if (!arguments->with.empty()) body["with"] = arguments->with;
      send(session, arguments->path, request, std::move(body));
    });
    return command;
  };
  on_device("fail", "mark a member faulty");
  on_device("remove", "take a faulty member or a spare away");
  on_device("add", "add a device: a spare, or a former member that comes back")
      ->add_flag("--re-add", arguments->re_add, "only as a former member, by the bitmap");
  on_device("replace", "have a spare take over from a member, which serves meanwhile")
      ->add_option("--with", arguments->with, "the spare; default: any, as soon as there is one");
  const auto plain = [&](const char* name, const char* help) {
    add_one(*array, session, arguments, name, help)
        ->callback([arguments, &session, request = fmt::format("array.{}", name)] {
          send(session, arguments->path, request, json::object());
        });
  };
  plain("check", "compare the copies, or data and parity");
  plain("repair", "as check, and make them agree");
  plain("idle", "end a check or repair; let sync go on that was frozen");
  plain("frozen", "stop sync, and start none until idle");
  plain("stop", "take the array down; it must not be in use");
  plain("mdstat", "print what /proc/mdstat would say of it");
  auto* waiting = add_one(*array, session, arguments, "wait", "wait until nothing is to be synced");
  waiting->add_option("--timeout", arguments->timeout, "seconds; 0: without end")
      ->check(CLI::Range(0.0, 86400.0));
  waiting->callback([arguments, &session] { wait(session, arguments->path, arguments->timeout); });
}

}  // namespace volfs::cli
