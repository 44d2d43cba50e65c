// SPDX-License-Identifier: GPL-2.0-or-later
// volfs snapshot: snapshots of the volumes of a mount, while they are in use.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli.h"
#include "client.h"
#include "progress.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct SnapshotArguments {
  std::string path, origin, store, size, chunk_size;
  double timeout = 0;
  bool overflow = false, yes = false;
};

Result<json> send(const Target& target, const char* name, json body) {
  if (target.volume.empty())
    return fail_invalid(fmt::format("{}: a mount; expected a snapshot, as {}/NAME",
                                    target.mountpoint, target.mountpoint));
  body["request"] = fmt::format("snapshot.{}", name);
  body["snapshot"] = target.volume;
  return request(target.mountpoint, body);
}

Result<json> create_body(const SnapshotArguments& given, const Target& target) {
  // The origin by its file, or as the mount calls it.
  std::string origin = given.origin;
  if (origin.find('/') != std::string::npos) {
    const auto of_file = find_target(origin);
    if (of_file && of_file->mountpoint == target.mountpoint) origin = of_file->volume;
  }
  json body{{"origin", origin}, {"overflow", given.overflow}};
  // The daemon's working directory is another one.
  if (!given.store.empty())
    body["store"] = std::filesystem::absolute(given.store).lexically_normal().string();
  if (!given.size.empty()) {
    VOLFS_TRY_ASSIGN(body["size"], parse_size(given.size));
  }
  if (!given.chunk_size.empty()) {
    VOLFS_TRY_ASSIGN(body["chunk_size"], parse_size(given.chunk_size));
  }
  return body;
}

void print_state(const json& state) {
  fmt::print("{}: {} of {}", state.value("snapshot", ""), state.value("state", ""),
             state.value("origin", ""));
  if (state.contains("total")) {
    const uint64_t used = state.value("used", uint64_t{0}),
                   total = state.value("total", uint64_t{0});
    fmt::print(", {} of {} used ({:.2f} %), {} of it metadata", format_size_rounded(used),
               format_size_rounded(total),
               100.0 * static_cast<double>(used) / static_cast<double>(total),
               format_size_rounded(state.value("metadata", uint64_t{0})));
  }
  fmt::print("\n");
}

// Bytes that a merge still has to move.
uint64_t left_of(const json& state) {
  return state.value("used", uint64_t{0}) - state.value("metadata", uint64_t{0});
}

Status wait_for_merge(const Target& target, double timeout) {
  const TimePoint deadline =
      timeout == 0 ? never : now() + Nanos(static_cast<int64_t>(timeout * 1e9));
  std::optional<Progress> progress;
  uint64_t total = 0;
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()).count();
    const uint64_t piece = std::clamp<int64_t>(left, 1, 500);
    auto waited = send(target, "wait", {{"timeout_ms", piece}});
    if (waited) return {};
    if (waited.error().code() != ETIMEDOUT || now() >= deadline)
      return fail(std::move(waited.error()));
    const auto state = send(target, "status", json::object());
    if (!state || !state->contains("used")) continue;
    if (!progress) {
      total = left_of(*state);
      progress.emplace("merge", total);
    }
    progress->show(total - std::min(total, left_of(*state)));
  }
}

using Run = std::function<Result<json>(const SnapshotArguments&, const Target&)>;
using Print = std::function<void(const json&)>;

void print_nothing(const json&) {}

// One subcommand of `volfs snapshot`: its options are added by the caller; RUN does it, PRINT shows
// what it returns.
CLI::App* add_one(CLI::App& group, Session& session,
                  const std::shared_ptr<SnapshotArguments>& arguments, const char* name,
                  const char* help, const char* example, Run run, Print print = print_nothing) {
  auto* command = group.add_subcommand(name, help);
  command->add_option("SNAPSHOT", arguments->path, "its file, as /mnt/before")->required();
  add_json_option(*command, session);
  set_examples(*command, example);
  command->callback([arguments, &session, run = std::move(run), print = std::move(print)] {
    const auto target = find_target(arguments->path);
    if (!target) return session.fail(target.error());
    const Result<json> answer = run(*arguments, *target);
    if (!answer) return session.fail(answer.error());
    if (session.json)
      fmt::print("{}\n", answer->dump());
    else
      print(*answer);
  });
  return command;
}

// Asks QUESTION first, unless --yes was given.
Result<json> send_confirmed(const SnapshotArguments& arguments, const Target& target,
                            const char* name, const std::string& question,
                            std::string_view not_done) {
  if (!arguments.yes && !confirmed(question))
    return fail(Error::make(
        ECANCELED, fmt::format("{}: {}; --yes does it without asking", target.volume, not_done)));
  return send(target, name, json::object());
}

Result<json> create_snapshot(const SnapshotArguments& arguments, const Target& target) {
  VOLFS_TRY_ASSIGN(json body, create_body(arguments, target));
  return send(target, "create", std::move(body));
}

Result<json> remove_snapshot(const SnapshotArguments& arguments, const Target& target) {
  return send_confirmed(arguments, target, "remove",
                        fmt::format("Drop the snapshot {} and what it kept?", target.volume),
                        "not dropped");
}

Result<json> merge_snapshot(const SnapshotArguments& arguments, const Target& target) {
  VOLFS_TRY_ASSIGN(const json state, send(target, "status", json::object()));
  const std::string lost = fmt::format("what was written to {} since {} was taken",
                                       state.value("origin", "its origin"), target.volume);
  VOLFS_TRY(may_lose({lost}, "Merge it?", arguments.yes));
  return send(target, "merge", json::object());
}

Result<json> snapshot_status(const SnapshotArguments&, const Target& target) {
  return send(target, "status", json::object());
}

Result<json> wait_for_snapshot(const SnapshotArguments& arguments, const Target& target) {
  VOLFS_TRY(wait_for_merge(target, arguments.timeout));
  return json();
}

void add_create_options(CLI::App& create, SnapshotArguments& arguments) {
  create.add_option("--origin", arguments.origin, "a volume of the mount")->required();
  create.add_option(
      "--cow", arguments.store,
      "the file that keeps what the origin loses; default: SNAPSHOT.cow beside the definition");
  create.add_option("--size", arguments.size,
                    "of a new file; default: it cannot get full, and takes only what is used");
  create.add_option("--chunk-size", arguments.chunk_size, "a power of two; default: 16KiB");
  create.add_flag("--overflow", arguments.overflow,
                  "a write to it that finds no room makes it read-only, not invalid (PO)");
}

}  // namespace

void add_snapshot(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<SnapshotArguments>();
  auto* group = app.add_subcommand("snapshot", "take, drop and merge snapshots of volumes in use");
  group->require_subcommand(1);
  set_examples(*group,
               "  volfs snapshot create /mnt/before --origin md0\n"
               "  volfs snapshot status /mnt/before\n"
               "  volfs snapshot merge /mnt/before && volfs snapshot wait /mnt/before\n"
               "  volfs snapshot remove /mnt/before\n");
  const auto add = [&](const char* name, const char* help, const char* example, Run run,
                       Print print = print_nothing) {
    return add_one(*group, session, arguments, name, help, example, std::move(run),
                   std::move(print));
  };
  add_create_options(
      *add("create", "take a snapshot: what was written before is in it, nothing later",
           "  volfs snapshot create /mnt/before --origin md0 --cow before.cow\n"
           "  volfs snapshot create /mnt/before --origin /mnt/vg0/root --size 2GiB\n",
           create_snapshot),
      *arguments);
  auto* remover = add("remove", "drop a snapshot and what it kept",
                      "  volfs snapshot remove /mnt/before --yes\n", remove_snapshot);
  auto* merger =
      add("merge", "make the origin what the snapshot shows, in the background",
          "  volfs snapshot merge /mnt/before --yes && volfs snapshot wait /mnt/before\n",
          merge_snapshot);
  for (CLI::App* command : {remover, merger})
    command->add_flag("-y,--yes", arguments->yes, "do not ask");
  add("status", "tell the state, and how full the store is",
      "  volfs snapshot status /mnt/before\n", snapshot_status, print_state);
  auto* waiter = add("wait", "wait until a merge is done",
                     "  volfs snapshot wait /mnt/before --timeout 600\n", wait_for_snapshot);
  waiter->add_option("--timeout", arguments->timeout, "seconds; 0: without end")
      ->check(CLI::Range(0.0, 86400.0));
}

}  // namespace volfs::cli
