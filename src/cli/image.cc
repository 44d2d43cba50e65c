// SPDX-License-Identifier: GPL-2.0-or-later
// volfs image: images that join and leave a running mount; volfs events: what happens on it.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "client.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct ImageArguments {
  std::string mountpoint, name, path, offset, length;
  unsigned partition = 0;
  bool read_only = false, direct = false, no_activate = false;
};

Result<json> added(const ImageArguments& arguments) {
  char* const whole = realpath(arguments.path.c_str(), nullptr);
  if (!whole) return fail_sys(errno, arguments.path);
  json body{{"request", "mount.add_image"}, {"image", arguments.name}, {"path", whole}};
  free(whole);
  if (arguments.read_only) body["readonly"] = true;
  if (arguments.direct) body["direct"] = true;
  if (arguments.no_activate) body["activate"] = false;
  if (arguments.partition > 0) body["partition"] = arguments.partition;
  if (!arguments.offset.empty()) {
    VOLFS_TRY_ASSIGN(body["offset"], parse_size(arguments.offset));
  }
  if (!arguments.length.empty()) {
    VOLFS_TRY_ASSIGN(body["length"], parse_size(arguments.length));
  }
  return body;
}

void send(Session& session, const std::string& path, const Result<json>& body) {
  if (!body) return session.fail(body.error());
  const auto target = find_target(path);
  if (!target) return session.fail(target.error());
  const auto answer = request(target->mountpoint, *body);
  if (!answer) return session.fail(answer.error());
  warn_of_problems(*answer);
  if (session.json) fmt::print("{}\n", answer->dump());
}

Status follow(const std::string& path) {
  VOLFS_TRY_ASSIGN(const Target target, find_target(path));
  const std::string events = target.mountpoint + "/.volfs/events";
  const int fd = open(events.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail_sys(errno, events);
  char buffer[65536];
  ssize_t got = 0;
  while ((got = read(fd, buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR)) {
    if (got < 0) continue;
    std::fwrite(buffer, 1, static_cast<size_t>(got), stdout);
    if (std::fflush(stdout) != 0) break;
  }
  const int error = got < 0 ? errno : 0;
  close(fd);
  if (error != 0) return fail_sys(error, events);
  return {};
}

}  // namespace

void add_image(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<ImageArguments>();
  auto* image = app.add_subcommand("image", "images that join and leave a mount");
  image->require_subcommand(1);
  set_examples(*image,
               "  volfs image add /mnt disk4 disk4.img\n"
               "  volfs array add /mnt/md0 disk4\n"
               "  volfs image remove /mnt disk3\n");
  auto* add = image->add_subcommand("add", "let an image or block device join");
  add->add_option("MOUNTPOINT", arguments->mountpoint)->required();
  add->add_option("NAME", arguments->name, "what it is called on the mount")->required();
  add->add_option("PATH", arguments->path, "a file or block device")->required();
  add->add_flag("-r,--readonly", arguments->read_only, "write nothing to it");
  add->add_flag("--direct", arguments->direct, "past the page cache (O_DIRECT)");
  add->add_option("--partition", arguments->partition, "only this partition of it");
  add->add_option("--offset", arguments->offset, "from here on, a size");
  add->add_option("--length", arguments->length, "so much of it, a size");
  add->add_flag("--no-activate", arguments->no_activate,
                "leave the volume group on it alone, if there is one");
  add_json_option(*add, session);
  add->callback([arguments, &session] { send(session, arguments->mountpoint, added(*arguments)); });
  auto* remove = image->add_subcommand("remove", "let go of an image that nothing stands on");
  remove->add_option("MOUNTPOINT", arguments->mountpoint)->required();
  remove->add_option("NAME", arguments->name)->required();
  add_json_option(*remove, session);
  remove->callback([arguments, &session] {
    send(session, arguments->mountpoint,
         json{{"request", "mount.remove_image"}, {"image", arguments->name}});
  });

  auto path = std::make_shared<std::string>();
  auto* events = app.add_subcommand("events", "follow what happens on a mount, as lines of JSON");
  events->add_option("MOUNTPOINT", *path)->required();
  add_json_option(*events, session);
  set_examples(*events, "  volfs events /mnt | jq -r .event\n");
  events->callback([path, &session] {
    if (auto done = follow(*path); !done) session.fail(done.error());
  });
}

}  // namespace volfs::cli
