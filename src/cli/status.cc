// SPDX-License-Identifier: GPL-2.0-or-later
// volfs status, tree and where: looking at a mount.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "client.h"
#include "display.h"
#include "tree.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

void print_status(const json& status) {
  size_t width = 4, state_width = 5;
  for (const json& device : status["devices"]) {
    width = std::max(width, columns_of(device.value("name", "")));
    state_width = std::max(state_width, columns_of(state_of(device)));
  }
  // On a terminal long names give way to the columns behind them.
  constexpr size_t between = 24, least = 20;
  width = std::min(width, std::max(least, room_behind(between + state_width)));
  fmt::print("{}  {:<8}  {:>10}  {}\n", padded("NAME", width), "KIND", "SIZE", "STATE");
  for (const json& device : status["devices"]) {
    const std::string state = state_of(device);
    fmt::print("{}  {:<8}  {:>10}  {}\n", padded(device.value("name", ""), width, true),
               device.value("kind", ""), format_size_rounded(device.value("size", uint64_t{0})),
               coloured(shortened(state, room_behind(width + between)), colour_of_state(state)));
  }
}

void print_where(const json& where) {
  for (const json& extent : where["extents"]) {
    fmt::print("{} {} {}", extent.value("offset", uint64_t{0}), extent.value("length", uint64_t{0}),
               extent.value("kind", ""));
    if (extent.contains("device"))
      fmt::print(" {} {}", extent.value("device", ""), extent.value("device_offset", uint64_t{0}));
    fmt::print("\n");
  }
}

void print_where_back(const json& where) {
  for (const json& extent : where["extents"])
    fmt::print("{} {} {} {}\n", extent.value("offset", uint64_t{0}),
               extent.value("length", uint64_t{0}), extent.value("volume", ""),
               extent.value("volume_offset", uint64_t{0}));
  for (const json& volume : where["unknown"])
    fmt::print(stderr, "volfs: {}: not looked at: it is suspended\n", volume.get<std::string>());
}

// Asks the mount that PATH lies in, and prints the answer.
void ask(Session& session, const std::string& path, json body,
         const std::function<void(const json&)>& print) {
  const auto mountpoint = find_mount(path);
  if (!mountpoint) return session.fail(mountpoint.error());
  if (body.contains("volume")) body["volume"] = find_target(path)->volume;
  const auto answer = request(*mountpoint, body);
  if (!answer) return session.fail(answer.error());
  if (session.json)
    print_json(*answer);
  else
    print(*answer);
}

}  // namespace

void add_status(CLI::App& app, Session& session) {
  auto path = std::make_shared<std::string>();
  auto* status = app.add_subcommand("status", "list the devices of a mount");
  status->add_option("MOUNTPOINT", *path)->required();
  add_json_option(*status, session);
  set_examples(*status, "  volfs status /mnt\n  volfs status /mnt --json\n");
  status->callback(
      [path, &session] { ask(session, *path, {{"request", "status"}}, print_status); });

  auto* tree = app.add_subcommand("tree", "show what stands on what, as lsblk");
  tree->add_option("MOUNTPOINT", *path)->required();
  add_json_option(*tree, session);
  set_examples(*tree, "  volfs tree /mnt\n");
  tree->callback([path, &session] { ask(session, *path, {{"request", "status"}}, print_tree); });

  struct Range {
    std::string offset, length = "1", image;
  };
  auto range = std::make_shared<Range>();
  auto* where = app.add_subcommand(
      "where", "tell which image bytes back those of a volume, or the other way");
  where->add_option("VOLUME", *path, "a volume's file, as /mnt/vg0/root; with --image the mount")
      ->required();
  where->add_option("OFFSET", range->offset, "a size, as 4096, 1MiB or 8s")->required();
  where->add_option("LENGTH", range->length, "a size")->capture_default_str();
  where->add_option("--image", range->image,
                    "tell which volumes' bytes lie at an offset of this image or device");
  add_json_option(*where, session);
  set_examples(*where,
               "  volfs where /mnt/scratch 1MiB\n"
               "  volfs where /mnt/scratch 0 1GiB      (offset length kind device offset)\n"
               "  volfs where /mnt --image disk0 1MiB  (offset length volume offset)\n");
  where->callback([path, range, &session] {
    const auto offset = parse_size(range->offset), length = parse_size(range->length);
    if (!offset) return session.fail(offset.error(), exit_usage);
    if (!length) return session.fail(length.error(), exit_usage);
    if (!range->image.empty())
      return ask(session, *path,
                 {{"request", "where.back"},
                  {"device", range->image},
                  {"offset", *offset},
                  {"length", *length}},
                 print_where_back);
    ask(session, *path,
        {{"request", "where"}, {"volume", ""}, {"offset", *offset}, {"length", *length}},
        print_where);
  });
}

}  // namespace volfs::cli
