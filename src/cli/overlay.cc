// SPDX-License-Identifier: GPL-2.0-or-later
// volfs overlay: what a mount with -o overlay=DIR has written, and what becomes of it.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli.h"
#include "display.h"
#include "progress.h"
#include "volfs/engine/overlay.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using engine::Overlay;
using nlohmann::json;

// How many ranges of an image are shown to people.
constexpr size_t most_ranges = 8;

struct OverlayArguments {
  std::string directory;
  bool yes = false, dry_run = false, force = false;
};

const char* state_name(Overlay::State state) {
  switch (state) {
    case Overlay::State::open:
      return "open";
    case Overlay::State::committing:
      return "a commit was interrupted";
    case Overlay::State::committed:
    case Overlay::State::discarding:
      return "being removed";
  }
  return "?";
}

json to_json(const Overlay& overlay, const std::vector<Overlay::Change>& changes) {
  json images = json::array();
  for (const Overlay::Change& change : changes) {
    json ranges = json::array();
    for (const Overlay::Range& range : change.ranges)
      ranges.push_back({{"offset", range.offset}, {"length", range.length}});
    images.push_back(
        {{"image", change.image}, {"bytes", change.bytes}, {"ranges", std::move(ranges)}});
  }
  return {{"directory", overlay.directory()},
          {"state", state_name(overlay.state())},
          {"images", std::move(images)}};
}

void print_changes(const Overlay& overlay, const std::vector<Overlay::Change>& changes) {
  if (overlay.state() != Overlay::State::open)
    fmt::print("{}: {}\n", overlay.directory(), state_name(overlay.state()));
  for (const Overlay::Change& change : changes) {
    if (change.bytes == 0) {
      fmt::print("{}: nothing\n", change.image);
      continue;
    }
    fmt::print("{}: {} in {} place{}\n", change.image, format_size_rounded(change.bytes),
               change.ranges.size(), change.ranges.size() == 1 ? "" : "s");
    const size_t shown = std::min(change.ranges.size(), most_ranges);
    for (size_t i = 0; i < shown; ++i)
      fmt::print("  {} at {}\n", format_size(change.ranges[i].length), change.ranges[i].offset);
    if (shown < change.ranges.size()) fmt::print("  and {} more\n", change.ranges.size() - shown);
  }
}

uint64_t total_of(const std::vector<Overlay::Change>& changes) {
  uint64_t total = 0;
  for (const Overlay::Change& change : changes) total += change.bytes;
  return total;
}

void show(const OverlayArguments& arguments, Session& session) {
  const auto overlay = Overlay::open(arguments.directory, false, false);
  if (!overlay) return session.fail(overlay.error());
  const auto changes = (*overlay)->changes();
  if (!changes) return session.fail(changes.error());
  if (session.json)
    print_json(to_json(**overlay, *changes));
  else
    print_changes(**overlay, *changes);
}

// After a commit or discard, or what would have been one.
void tell_done(const OverlayArguments& arguments, const Session& session, json what) {
  if (!session.json) return;
  what["done"] = !arguments.dry_run;
  print_json(what);
}

// Asks unless --yes was given; says what keeps it from going on.
bool may(const OverlayArguments& arguments, Session& session, const std::string& question) {
  if (arguments.yes || confirmed(question)) return true;
  session.fail(
      fmt::format("{}: nothing was changed; --yes does it without asking", arguments.directory));
  return false;
}

void commit(const OverlayArguments& arguments, Session& session) {
  const auto overlay = Overlay::open(arguments.directory, false, true);
  if (!overlay) return session.fail(overlay.error());
  const auto changes = (*overlay)->changes();
  if (!changes) return session.fail(changes.error());
  json what = to_json(**overlay, *changes);
  if (!session.json) print_changes(**overlay, *changes);
  if (auto able = (*overlay)->check_commit(arguments.force, *changes); !able)
    return session.fail(able.error());
  if (arguments.dry_run) return tell_done(arguments, session, std::move(what));
  if (!may(arguments, session,
           fmt::format("Write {} into the images?", format_size_rounded(total_of(*changes)))))
    return;
  std::optional<Progress> progress;
  const auto done = (*overlay)->commit(arguments.force, [&](uint64_t bytes, uint64_t total) {
    if (!progress) progress.emplace("commit", total);
    progress->show(bytes);
  });
  progress.reset();
  if (!done) return session.fail(done.error());
  tell_done(arguments, session, std::move(what));
}

void discard(const OverlayArguments& arguments, Session& session) {
  const auto overlay = Overlay::open(arguments.directory, false, true);
  if (!overlay) return session.fail(overlay.error());
  // What is to be forgotten is shown, if it can still be read.
  const auto changes = (*overlay)->changes();
  json what = to_json(**overlay, changes ? *changes : std::vector<Overlay::Change>());
  if (!changes)
    fmt::print(stderr, "volfs: {}\n", changes.error().text());
  else if (!session.json)
    print_changes(**overlay, *changes);
  if (arguments.dry_run) return tell_done(arguments, session, std::move(what));
  if (!may(arguments, session,
           fmt::format("Forget all that was written to {}?", arguments.directory)))
    return;
  if (auto done = (*overlay)->discard(); !done) return session.fail(done.error());
  tell_done(arguments, session, std::move(what));
}

}  // namespace

void add_overlay(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<OverlayArguments>();
  auto* group =
      app.add_subcommand("overlay", "what mounts with -o overlay=DIR wrote: look, commit, discard");
  group->require_subcommand(1);
  set_examples(*group,
               "  volfs mount sda.img sdb.img /mnt -o overlay=changes     (try what you like)\n"
               "  volfs overlay status changes\n"
               "  volfs overlay discard changes     (the images are as they were)\n"
               "  volfs overlay commit changes      (the images get it)\n");
  const auto add = [&](const char* name, const char* help, const char* example,
                       void (*run)(const OverlayArguments&, Session&)) {
    auto* command = group->add_subcommand(name, help);
    command->add_option("DIR", arguments->directory, "the overlay's directory")->required();
    set_examples(*command, example);
    command->callback([arguments, &session, run] { run(*arguments, session); });
    return command;
  };
  auto* status = add("status", "tell what a commit would change in which image, and where",
                     "  volfs overlay status changes --json\n", show);
  add_json_option(*status, session);
  auto* committing = add(
      "commit", "write the changes into the images; goes on where it was interrupted",
      "  volfs overlay commit changes --dry-run\n  volfs overlay commit changes --yes\n", commit);
  committing->add_flag("--force", arguments->force,
                       "although an image was changed behind the overlay");
  auto* discarding =
      add("discard", "forget the changes", "  volfs overlay discard changes --yes\n", discard);
  for (CLI::App* command : {committing, discarding}) {
    command->add_flag("-n,--dry-run", arguments->dry_run, "only tell what would become of what");
    command->add_flag("-y,--yes", arguments->yes, "do not ask");
    add_json_option(*command, session);
  }
}

}  // namespace volfs::cli
