// SPDX-License-Identifier: GPL-2.0-or-later
// volfs array: mdadm's commands on the arrays of a mount.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "cli.h"
#include "client.h"
#include "definition_file.h"
#include "progress.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct ArrayArguments {
  std::string path, device, with;
  std::vector<std::string> devices;
  std::map<std::string, std::string> words;  // of an array to create, by the request's key
  size_t raid_devices = 0, spare_devices = 0;
  bool assume_clean = false, force = false, read_only = false;
  std::optional<double> timeout;
  bool re_add = false, yes = false;
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

bool send(Session& session, const std::string& path, const std::string& name, json body) {
  const auto target = find_array(path);
  if (!target) return session.fail(target.error()), false;
  body["request"] = name;
  body["array"] = target->volume;
  const auto answer = request(target->mountpoint, body);
  if (!answer) return session.fail(answer.error()), false;
  warn_of_problems(*answer);
  tell(session, *answer);
  return true;
}

// Whether the definition in the file SOURCE has DEVICE in ARRAY.
bool lists(const std::string& source, const std::string& array, const std::string& device) {
  const auto definition = load_definition(source);
  if (!definition) return false;
  return std::ranges::any_of(definition->arrays, [&](const config::Array& each) {
    if (each.name.value != array) return false;
    const auto is_it = [&](const config::ArrayDevice& one) { return one.device.value == device; };
    return std::ranges::any_of(each.devices, is_it) || std::ranges::any_of(each.spares, is_it);
  });
}

// What was mounted does not follow what is done to the mount.
void tell_unlisted(const std::string& path, const std::string& device) {
  const auto target = find_array(path);
  if (!target) return;
  const auto status = request(target->mountpoint, {{"request", "status"}});
  if (!status) return;
  const std::string source = status->value("source", "");
  if (!is_definition(source))
    fmt::print(stderr,
               "volfs: '{}' has {} now: give its image, too, when these images are mounted again\n",
               target->volume, device);
  else if (!lists(source, target->volume, device))
    fmt::print(
        stderr,
        "volfs: {} does not list {} as one of the devices or spares of '{}': write it there, "
        "or the next mount is without it\n",
        source, device, target->volume);
}

// Leave to overwrite what devices hold, unless they are the array's own.
Status may_overwrite(const ArrayArguments& arguments, const std::vector<std::string>& devices) {
  if (arguments.yes) return {};
  VOLFS_TRY_ASSIGN(const Target target, find_array(arguments.path));
  VOLFS_TRY_ASSIGN(const json status, request(target.mountpoint, {{"request", "status"}}));
  std::string own;
  for (const json& device : status["devices"])
    if (device.value("name", "") == target.volume && device.contains("array"))
      own = device["array"].value("uuid", "");
  VOLFS_TRY_ASSIGN(const auto lost, contents_of(target.mountpoint, devices, own));
  return may_lose(lost, fmt::format("Overwrite it for {}?", arguments.path), false);
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
void wait(Session& session, const std::string& path, const std::optional<double>& seconds) {
  constexpr Nanos turn = std::chrono::milliseconds(500);
  const auto target = find_array(path);
  if (!target) return session.fail(target.error());
  const TimePoint deadline =
      seconds ? now() + std::chrono::milliseconds(static_cast<int64_t>(*seconds * 1000)) : never;
  SyncProgress progress(*target);
  while (true) {
    const Nanos left = std::min<Nanos>(turn, deadline - now());
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count();
    const auto answer = request(target->mountpoint, {{"request", "array.wait"},
                                                     {"array", target->volume},
                                                     {"timeout_ms", std::max<int64_t>(ms, 0)}});
    if (answer) return tell(session, *answer);
    if (answer.error().code() != ETIMEDOUT || now() >= deadline)
      return session.fail(answer.error());
    progress.look();
  }
}

// mdadm's words for levels and sizes, as a definition has them: a number is a level, or KiB.
std::string level_of(const std::string& word) {
  if (word == "mirror") return "raid1";
  if (word == "stripe") return "raid0";
  return parse_u64(word) ? "raid" + word : word;
}
std::string size_in_kib(const std::string& word) {
  return parse_u64(word) ? word + "KiB" : word;
}

void create_array(Session& session, const ArrayArguments& arguments) {
  json body{{"assume_clean", arguments.assume_clean}, {"force", arguments.force}};
  for (const auto& [key, value] : arguments.words) {
    if (value.empty()) continue;
    const bool size =
        key == "chunk" || key == "size" || key == "data_offset" || key == "bitmap_chunk";
    body[key] = key == "level" ? level_of(value) : size ? size_in_kib(value) : value;
  }
  const size_t count = arguments.devices.size();
  const size_t spares = arguments.spare_devices;
  if (spares >= count || (arguments.raid_devices != 0 && arguments.raid_devices + spares != count))
    return session.fail(
        fmt::format("{} device{} given; expected {} for the array and {} spare{}", count,
                    count == 1 ? " is" : "s are",
                    arguments.raid_devices != 0 ? std::to_string(arguments.raid_devices) : "some",
                    spares, spares == 1 ? "" : "s"),
        exit_usage);
  const auto split = arguments.devices.end() - static_cast<ptrdiff_t>(spares);
  body["devices"] = std::vector<std::string>(arguments.devices.begin(), split);
  body["spares"] = std::vector<std::string>(split, arguments.devices.end());
  if (arguments.force) {
    std::vector<std::string> devices = arguments.devices;
    std::erase(devices, "missing");
    if (auto may = may_overwrite(arguments, devices); !may) return session.fail(may.error());
  }
  send(session, arguments.path, "array.create", std::move(body));
}

void add_create_array(CLI::App& command, Session& session,
                      const std::shared_ptr<ArrayArguments>& arguments) {
  const auto word = [&](const char* option, const char* key, const char* help) {
    return command.add_option(option, arguments->words[key], help);
  };
  command.add_option("DEVICE", arguments->devices, "devices of the mount by name, or missing")
      ->required();
  word("-l,--level", "level", "linear, 0, 1, 4, 5, 6, 10, raid0 ...")->required();
  command.add_option("-n,--raid-devices", arguments->raid_devices,
                     "how many of them; default: all");
  command.add_option("-x,--spare-devices", arguments->spare_devices,
                     "how many, the last ones, are spares");
  word("-c,--chunk", "chunk", "KiB, or a size as 64KiB");
  word("-p,--layout", "layout", "as left-symmetric or f2");
  word("-e,--metadata", "metadata", "0.90, 1.0, 1.1, 1.2");
  word("-b,--bitmap", "bitmap", "internal or none");
  word("--bitmap-chunk", "bitmap_chunk", "KiB, or a size");
  word("-k,--consistency-policy", "consistency", "resync, bitmap or ppl");
  word("-z,--size", "size", "of each member to use: KiB, or a size");
  word("--data-offset", "data_offset", "KiB, or a size");
  word("-N,--name", "name", "in the superblock; default: that of its file");
  word("--homehost", "homehost", "in the superblock");
  word("-u,--uuid", "uuid", "as mdadm writes it");
  command.add_flag("--assume-clean", arguments->assume_clean, "no first sync: the devices agree");
  command.add_flag("--force", arguments->force, "overwrite what the devices hold; asks before");
  command.add_flag("-y,--yes", arguments->yes, "do not ask");
  command.callback([arguments, &session] { create_array(session, *arguments); });
}

void add_assemble_array(CLI::App& command, Session& session,
                        const std::shared_ptr<ArrayArguments>& arguments) {
  command.add_option("DEVICE", arguments->devices, "its members, devices of the mount by name")
      ->required();
  command.add_flag("-f,--force", arguments->force,
                   "though it is dirty and degraded, or members "
                   "are out of date");
  command.add_flag("-o,--readonly", arguments->read_only, "write nothing to them");
  command.callback([arguments, &session] {
    send(session, arguments->path, "array.assemble",
         {{"devices", arguments->devices},
          {"force", arguments->force},
          {"readonly", arguments->read_only}});
  });
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
               "  volfs array create /mnt/md1 --level=5 --chunk=64 disk4 disk5 disk6\n"
               "  volfs array assemble /mnt/md2 disk7 disk8\n"
               "  volfs array fail /mnt/md0 disk1\n"
               "  volfs array remove /mnt/md0 disk1\n"
               "  volfs array add /mnt/md0 disk3\n"
               "  volfs array check /mnt/md0 && volfs array wait /mnt/md0\n");
  add_create_array(*add_one(*array, session, arguments, "create",
                            "make an array of devices of the mount, and set it up"),
                   session, arguments);
  add_assemble_array(*add_one(*array, session, arguments, "assemble",
                              "set up an array that is on devices of the mount"),
                     session, arguments);
  const auto on_device = [&](const char* name, const char* help) {
    auto* command = add_one(*array, session, arguments, name, help);
    command->add_option("DEVICE", arguments->device, "the member, by its name")->required();
    command->callback([arguments, &session, request = fmt::format("array.{}", name)] {
      if (request == "array.add")
        if (auto may = may_overwrite(*arguments, {arguments->device}); !may)
          return session.fail(may.error());
      json body{{"device", arguments->device}};
      if (arguments->re_add) body["re_add"] = true;
      if (!arguments->with.empty()) body["with"] = arguments->with;
      const bool sent = send(session, arguments->path, request, std::move(body));
      if (sent && request == "array.add") tell_unlisted(arguments->path, arguments->device);
    });
    return command;
  };
  on_device("fail", "mark a member faulty");
  on_device("remove", "take a faulty member or a spare away");
  auto* add = on_device("add", "add a device: a spare, or a former member that comes back");
  add->add_flag("--re-add", arguments->re_add, "only as a former member, by the bitmap");
  add->add_flag("-y,--yes", arguments->yes,
                "do not ask before what the device holds is overwritten");
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
  waiting
      ->add_option("--timeout", arguments->timeout,
                   "seconds; 0: only look; without it: without end")
      ->check(CLI::Range(0.0, 86400.0));
  waiting->callback([arguments, &session] { wait(session, arguments->path, arguments->timeout); });
}

}  // namespace volfs::cli
