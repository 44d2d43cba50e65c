// SPDX-License-Identifier: GPL-2.0-or-later
// volfs scan: tells what is on images, and writes a definition of it.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "display.h"
#include "scan_text.h"
#include "volfs/engine/scan.h"

namespace volfs::cli {
namespace {

// One that cannot be opened is told, and keeps nobody from what is on the others.
void leave_out_unreadable(Session& session, std::vector<std::string>& images) {
  std::erase_if(images, [&](const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) session.fail(Error::sys(errno, path));
    if (fd >= 0) close(fd);
    return fd < 0;
  });
}

}  // namespace

void add_scan(CLI::App& app, Session& session) {
  struct Arguments {
    std::vector<std::string> images;
    bool yaml = false, force = false;
  };
  auto arguments = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("scan", "tell what is on images; changes nothing");
  command->add_option("IMAGE", arguments->images, "image files or block devices")->required();
  command->add_flag("--yaml", arguments->yaml, "write a definition of it");
  command->add_flag("--force", arguments->force, "say what `volfs mount -o force` would assemble");
  add_json_option(*command, session);
  set_examples(*command,
               "  volfs scan sda.img sdb.img\n"
               "  volfs scan sda.img sdb.img --yaml > found.yaml\n");
  command->callback([arguments, &session] {
    if (!session.json) leave_out_unreadable(session, arguments->images);
    if (arguments->images.empty()) return;
    // As `volfs mount` does; but in a definition what is cut off has a place.
    const auto scan = engine::scan_images(
        arguments->images, {.force = arguments->force, .pad = arguments->yaml && !session.json});
    if (!scan) return session.fail(scan.error());
    if (arguments->yaml && !session.json)
      for (const config::Image& image : scan->definition.images)
        if (!is_utf8(image.path.value) || !is_utf8(image.name.value))
          return session.fail(image.path.value +
                              ": is not UTF-8 text, so that no definition can name it");
    if (session.json)
      print_json(scan_json(*scan));
    else if (arguments->yaml)
      print_scan_yaml(*scan);
    else
      print_scan(*scan);
  });
}

}  // namespace volfs::cli
