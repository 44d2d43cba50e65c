// SPDX-License-Identifier: GPL-2.0-or-later
// volfs lv: lvm2's commands on the logical volumes of a mount, with lvm2's options and units.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli.h"
#include "client.h"
#include "progress.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct LvArguments {
  std::string path, name, size, extents, type, stripe_size, region_size, origin, chunk_size, alloc,
      permission, activation, to, syncaction;
  unsigned stripes = 0;
  std::optional<unsigned> mirrors;
  std::vector<std::string> pvs, tags, untagged;
  bool force = false, yes = false, dry_run = false, background = false, nosync = false;
};

// A number without a unit counts in lvm2's unit for the option.
std::string with_unit(const std::string& text, const char* unit) {
  const bool plain =
      !text.empty() && (text.back() == '.' || (text.back() >= '0' && text.back() <= '9'));
  return plain ? text + unit : text;
}

Status put_size(json& body, const char* key, const std::string& text, const char* unit) {
  if (text.empty()) return {};
  VOLFS_TRY_ASSIGN(body[key], in(fmt::format("'{}'", text), parse_size(with_unit(text, unit))));
  return {};
}

void put_text(json& body, const char* key, const std::string& text) {
  if (!text.empty()) body[key] = text;
}

// -L counts in MiB, -l in extents.
Status put_amount(json& body, const LvArguments& given) {
  if (given.size.empty() == given.extents.empty())
    return fail_invalid("expected one of -L SIZE (as 128M) and -l EXTENTS (as 32 or 100%FREE)");
  put_text(body, "size", given.size.empty() ? "" : with_unit(given.size, "MiB"));
  put_text(body, "extents", given.extents);
  if (!given.pvs.empty()) body["pvs"] = given.pvs;
  put_text(body, "alloc", given.alloc);
  return {};
}

Result<json> create_body(const LvArguments& given) {
  json body = json::object();
  VOLFS_TRY(put_amount(body, given));
  put_text(body, "type", given.type);
  put_text(body, "origin", given.origin);
  if (given.stripes != 0) body["stripes"] = given.stripes;
  if (given.mirrors) body["mirrors"] = *given.mirrors;
  VOLFS_TRY(put_size(body, "stripe_size", given.stripe_size, "KiB"));
  VOLFS_TRY(put_size(body, "region_size", given.region_size, "MiB"));
  VOLFS_TRY(put_size(body, "chunk_size", given.chunk_size, "KiB"));
  if (!given.tags.empty()) body["tags"] = given.tags;
  if (given.permission == "r") body["readonly"] = true;
  if (given.nosync) body["nosync"] = true;
  return body;
}

// The path may be that of the volume, or of its group with -n NAME.
Result<json> send(const LvArguments& given, const std::string& name, json body) {
  const std::string path = given.name.empty() ? given.path : given.path + "/" + given.name;
  VOLFS_TRY_ASSIGN(const Target target, find_target(path));
  const bool whole = name == "lv.activate" || name == "lv.deactivate";
  if (whole && !target.volume.empty() && target.volume.find('/') == target.volume.npos) {
    body["request"] = "vg" + name.substr(name.find('.'));
    body["vg"] = target.volume;
    return request(target.mountpoint, body);
  }
  if (body.contains("activation"))
    return fail_invalid(fmt::format("{}: --activationmode is for a whole group", path));
  if (target.volume.find('/') == target.volume.npos)
    return fail_invalid(
        fmt::format("{}: expected a logical volume, as {}/vg0/root", path, target.mountpoint));
  body["request"] = name;
  body["lv"] = target.volume;
  return request(target.mountpoint, body);
}

using Body = std::function<Result<json>(const LvArguments&)>;

CLI::App* add_one(CLI::App& lv, Session& session, const std::shared_ptr<LvArguments>& arguments,
                  const char* name, const char* help, const char* example, Body body) {
  auto* command = lv.add_subcommand(name, help);
  command->add_option("VOLUME", arguments->path, "a volume's file, as /mnt/vg0/root")->required();
  add_json_option(*command, session);
  set_examples(*command, example);
  command->callback(
      [arguments, &session, request = fmt::format("lv.{}", name), body = std::move(body)] {
        auto fields = body(*arguments);
        if (!fields)
          return session.fail(fields.error(),
                              fields.error().code() == ECANCELED ? exit_failed : exit_usage);
        const auto answer = send(*arguments, request, std::move(*fields));
        if (!answer) return session.fail(answer.error());
        if (session.json) fmt::print("{}\n", answer->dump());
      });
  return command;
}

void add_amount(CLI::App& command, LvArguments& arguments) {
  command.add_option("-L,--size", arguments.size, "size, as 128M or 1.5GiB; MiB without a unit");
  command.add_option("-l,--extents", arguments.extents,
                     "extents, or a share: 100%FREE, 50%VG, 10%PVS, 20%ORIGIN, 150%LV");
}

void add_place(CLI::App& command, LvArguments& arguments) {
  command.add_option("PV", arguments.pvs, "devices to take room on, or @TAG");
  command.add_option("--alloc", arguments.alloc, "normal, contiguous, cling or anywhere")
      ->check(CLI::IsMember({"inherit", "normal", "contiguous", "cling", "anywhere"}));
}

void add_attributes(CLI::App& command, LvArguments& arguments) {
  command.add_option("-p,--permission", arguments.permission, "r or rw")
      ->check(CLI::IsMember({"r", "rw"}));
  command.add_option("--addtag", arguments.tags, "a tag")->allow_extra_args(false);
}

void add_create(CLI::App& command, LvArguments& arguments) {
  add_amount(command, arguments);
  add_place(command, arguments);
  command.add_option("-n,--name", arguments.name, "its name; VOLUME is the group then");
  command.add_option("--type", arguments.type, "linear, striped, raid1, raid5, ..., error, zero");
  command.add_option("-i,--stripes", arguments.stripes, "stripes of data")
      ->check(CLI::Range(1U, 253U));
  command.add_option("-I,--stripesize", arguments.stripe_size,
                     "bytes of a stripe; KiB without a unit");
  command.add_option("-m,--mirrors", arguments.mirrors, "copies besides the first");
  command.add_option("-R,--regionsize", arguments.region_size,
                     "what a sync counts in; MiB without a unit");
  command.add_flag("--nosync", arguments.nosync,
                   "do not sync a new raid: do not read what you did not write");
  command.add_option("-s,--snapshot", arguments.origin,
                     "make a snapshot of this volume of the group");
  command.add_option("-c,--chunksize", arguments.chunk_size, "of a snapshot; KiB without a unit");
  add_attributes(command, arguments);
}

Result<json> amount_body(const LvArguments& given) {
  json body = json::object();
  VOLFS_TRY(put_amount(body, given));
  return body;
}

// Leave to lose all of a volume, or its end; it is told how large it is and what it bears.
Status may_lose_data(const LvArguments& given, std::string_view what, std::string_view question) {
  if (given.yes) return {};
  VOLFS_TRY_ASSIGN(const Target target, find_target(given.path));
  VOLFS_TRY_ASSIGN(const json status, request(target.mountpoint, {{"request", "status"}}));
  std::string lost = fmt::format("{} of {}", what, target.volume);
  for (const json& device : status["devices"])
    if (device.value("volume", "") == target.volume)
      lost += ", " + format_size(device.value("size", uint64_t{0}));
  if (const auto found = contents_of(target.mountpoint, {target.volume}); found && !found->empty())
    lost += fmt::format(" ({})", found->front());
  return may_lose({lost}, question, false);
}

Result<json> change_body(const LvArguments& given) {
  json body = json::object();
  if (!given.tags.empty()) body["add_tags"] = given.tags;
  if (!given.untagged.empty()) body["remove_tags"] = given.untagged;
  put_text(body, "permission", given.permission);
  put_text(body, "syncaction", given.syncaction);
  if (body.empty())
    return fail_invalid("expected --addtag, --deltag, --permission or --syncaction");
  return body;
}

Result<json> activate_body(const LvArguments& given) {
  json body = json::object();
  put_text(body, "activation", given.activation);
  return body;
}

// The merge into an origin, as the status has it: how far it is, in bytes of the store; nothing if
// it is over.
Result<std::optional<std::pair<uint64_t, uint64_t>>> merge_state(const Target& target,
                                                                 const std::string& origin) {
  const std::string group = target.volume.substr(0, target.volume.find('/'));
  const std::string snapshot = target.volume.substr(group.size() + 1);
  VOLFS_TRY_ASSIGN(const json status, request(target.mountpoint, {{"request", "status"}}));
  bool merging = false;
  for (const json& each : status["volume_groups"])
    for (const json& volume : each["logical_volumes"])
      merging |= each["name"] == group && volume.value("merging", "") == snapshot;
  if (!merging) return std::nullopt;
  for (const json& device : status["devices"]) {
    if (device.value("volume", "") != group + "/" + origin) continue;
    const std::string text = device["map"].value("status", "");
    unsigned long long used = 0, metadata = 0;
    if (std::sscanf(text.c_str(), "%*u %*u %*s %llu/%*u %llu", &used, &metadata) == 2)
      return std::pair<uint64_t, uint64_t>{used * sector_size, metadata * sector_size};
    if (text.find("Merge failed") != std::string::npos || text.find("Invalid") != std::string::npos)
      return fail(Error::make(EIO, fmt::format("{}: the merge failed", target.volume)));
  }
  return std::pair<uint64_t, uint64_t>{0, 0};
}

// The name of what a snapshot is of; "" if it is none.
Result<std::string> origin_of(const Target& target) {
  VOLFS_TRY_ASSIGN(const json status, request(target.mountpoint, {{"request", "status"}}));
  for (const json& group : status["volume_groups"])
    for (const json& volume : group["logical_volumes"])
      if (group.value("name", "") + "/" + volume.value("name", "") == target.volume)
        return volume.value("origin", "");
  return std::string();
}

Status merge(const LvArguments& given) {
  VOLFS_TRY_ASSIGN(const Target target, find_target(given.path));
  VOLFS_TRY_ASSIGN(const std::string origin, origin_of(target));
  if (!origin.empty()) {
    const std::string lost =
        fmt::format("what was written to {}/{} since {} was taken",
                    target.volume.substr(0, target.volume.find('/')), origin, target.volume);
    if (given.dry_run) {
      fmt::print(stderr, "This would be lost:\n  {}\n", lost);
      return {};
    }
    VOLFS_TRY(may_lose({lost}, "Merge it?", given.yes));
  }
  VOLFS_TRY(send(given, "lv.merge", json::object()));
  if (given.background) return {};
  std::optional<Progress> progress;
  uint64_t all = 0;
  while (true) {
    VOLFS_TRY_ASSIGN(const auto state, merge_state(target, origin));
    if (!state) return {};
    const uint64_t left = state->first - std::min(state->first, state->second);
    if (!progress && left > 0) progress.emplace("merge", all = left);
    if (progress) progress->show(all - std::min(all, left));
    sleep_for(std::chrono::milliseconds(200));
  }
}

void add_merge(CLI::App& lv, Session& session, const std::shared_ptr<LvArguments>& arguments) {
  auto* command = lv.add_subcommand("merge", "write what a snapshot holds back into its origin");
  command->add_option("VOLUME", arguments->path, "a snapshot's file, as /mnt/vg0/before")
      ->required();
  command->add_flag("-b,--background", arguments->background, "do not wait until it is done");
  add_json_option(*command, session);
  command->add_flag("-n,--dry-run", arguments->dry_run, "only show what would be lost");
  command->add_flag("-y,--yes", arguments->yes, "do not ask");
  set_examples(*command, "  volfs lv merge /mnt/vg0/before --yes\n");
  command->callback([arguments, &session] {
    if (auto done = merge(*arguments); !done) return session.fail(done.error());
    if (session.json) fmt::print("null\n");
  });
}

Result<json> nothing(const LvArguments&) {
  return json::object();
}

}  // namespace

void add_lv(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<LvArguments>();
  auto* lv = app.add_subcommand("lv", "logical volumes of a running mount, as lvm2");
  lv->require_subcommand(1);
  set_examples(*lv,
               "  volfs lv create /mnt/vg0/data -L 1G\n"
               "  volfs lv create -n fast -i 2 -l 50%FREE /mnt/vg0 disk0 disk1\n"
               "  volfs lv create /mnt/vg0/before -s root -L 200M\n"
               "  volfs lv extend /mnt/vg0/data -L +500M\n");
  const auto add = [&](const char* name, const char* help, const char* example, Body body) {
    return add_one(*lv, session, arguments, name, help, example, std::move(body));
  };
  add_create(*add("create", "make a volume or a snapshot",
                  "  volfs lv create /mnt/vg0/data -L 1G\n"
                  "  volfs lv create /mnt/vg0/before -s root -l 20%ORIGIN\n",
                  create_body),
             *arguments);
  auto* extend = add("extend", "make a volume larger",
                     "  volfs lv extend /mnt/vg0/data -l +100%FREE\n", amount_body);
  add_amount(*extend, *arguments);
  add_place(*extend, *arguments);
  auto* reduce =
      add("reduce", "make a volume smaller; what lies behind its new end is lost",
          "  volfs lv reduce /mnt/vg0/data -L 500M --yes\n",
          [](const LvArguments& given) -> Result<json> {
            VOLFS_TRY_ASSIGN(json body, amount_body(given));
            VOLFS_TRY(may_lose_data(given, "what lies behind the new end", "Cut it off?"));
            body["force"] = given.force;
            return body;
          });
  add_amount(*reduce, *arguments);
  reduce->add_flag("-f,--force", arguments->force, "even if it is in use");
  auto* remove =
      add("remove", "remove a volume that nobody uses, and its data",
          "  volfs lv remove /mnt/vg0/data --yes\n", [](const LvArguments& given) -> Result<json> {
            VOLFS_TRY(may_lose_data(given, "the data", "Remove it?"));
            return json{{"snapshots", given.force}};
          });
  remove->add_flag("-f,--force", arguments->force, "with its snapshots");
  for (CLI::App* command : {reduce, remove})
    command->add_flag("-y,--yes", arguments->yes, "do not ask");
  add("rename", "give a volume another name", "  volfs lv rename /mnt/vg0/data archive\n",
      [](const LvArguments& given) -> Result<json> { return json{{"to", given.to}}; })
      ->add_option("NEWNAME", arguments->to)
      ->required();
  add_merge(*lv, session, arguments);
  auto* change = add(
      "change", "change a volume's tags and permission, or scrub a raid",
      "  volfs lv change /mnt/vg0/data --addtag backup --permission r\n"
      "  volfs lv change /mnt/vg0/safe --syncaction check    (volfs status counts mismatches)\n",
      change_body);
  add_attributes(*change, *arguments);
  change->add_option("--deltag", arguments->untagged, "a tag that goes")->allow_extra_args(false);
  change->add_option("--syncaction", arguments->syncaction, "check or repair, of a raid")
      ->check(CLI::IsMember({"check", "repair"}));
  add("activate", "show a volume again, or a whole group",
      "  volfs lv activate /mnt/vg0/data\n  volfs lv activate /mnt/vg1\n", activate_body)
      ->add_option("--activationmode", arguments->activation, "of a group that misses devices")
      ->check(CLI::IsMember({"complete", "degraded", "partial"}));
  add("deactivate", "take a volume's file away, or a whole group; the disks stay as they are",
      "  volfs lv deactivate /mnt/vg0/data\n  volfs lv deactivate /mnt/vg1\n", nothing);
}

}  // namespace volfs::cli
