// SPDX-License-Identifier: GPL-2.0-or-later
// volfs mount, and the same as mount(8)'s helper.
#include <fmt/format.h>
#include <getopt.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "client.h"
#include "daemon.h"
#include "definition_file.h"
#include "display.h"
#include "rescue.h"
#include "volfs/log.h"
#include "volfs/unique_fd.h"

namespace volfs::cli {
namespace {

// mount(8)'s exit statuses.
constexpr int mount_usage = 1, mount_failure = 32;

constexpr const char* helper_usage =
    "Usage: mount.volfs SOURCE DIR [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]\n"
    "Called by mount(8) for the types volfs and fuse.volfs; see mount.volfs(8).\n";

// What programs want to know of a new mount.
void tell_mounted(Session& session, const std::string& path) {
  const auto target = find_target(path);
  if (!target) return session.fail(target.error());
  const auto status = request(target->mountpoint, {{"request", "status"}});
  if (!status) return session.fail(status.error());
  nlohmann::json volumes = nlohmann::json::array();
  for (const auto& device : (*status)["devices"])
    if (device.contains("volume")) volumes.push_back(device["volume"]);
  print_json({{"mountpoint", target->mountpoint},
              {"read_only", (*status)["read_only"]},
              {"overlay", (*status)["overlay"]},
              {"volumes", std::move(volumes)},
              {"unavailable", (*status)["unavailable"]}});
}

// What is said on standard error while it lives, until it is read: passed on then.
class Listener {
 public:
  Listener() : heard_(memfd_create("volfs-messages", MFD_CLOEXEC)), before_(dup(STDERR_FILENO)) {
    if (heard_ && before_) dup2(heard_.get(), STDERR_FILENO);
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() {
    if (before_) dup2(before_.get(), STDERR_FILENO);
  }
  std::string read() {
    std::string text;
    if (!heard_ || !before_) return text;
    dup2(before_.get(), STDERR_FILENO);
    char buffer[4096];
    ssize_t got = 0;
    while ((got = pread(heard_.get(), buffer, sizeof buffer, static_cast<off_t>(text.size()))) > 0)
      text.append(buffer, static_cast<size_t>(got));
    fmt::print(stderr, "{}", text);
    return text;
  }

 private:
  const UniqueFd heard_, before_;
};

// The daemon, another process, says what keeps it from mounting: that becomes the failure.
void mount_and_listen(const MountRequest& request, Session& session) {
  Listener listener;
  session.status = mount_volumes(request);
  const std::string said = listener.read();
  if (session.status != exit_done) session.fail_lines(said, session.status, true);
}

}  // namespace

void add_mount(CLI::App& app, Session& session) {
  struct Arguments {
    std::vector<std::string> paths, options;
    bool foreground = false, rescue = false;
  };
  auto arguments = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("mount", "mount the volumes of a definition, or of images, as files");
  command
      ->add_option("SOURCE... MOUNTPOINT", arguments->paths,
                   "a definition or images, and a directory")
      ->required()
      ->expected(2, -1);
  command->add_option("-o", arguments->options, "mount options, as ro,allow_other")
      ->allow_extra_args(false);
  auto* foreground =
      command->add_flag("-f,--foreground", arguments->foreground, "stay in the foreground");
  command
      ->add_flag("--rescue", arguments->rescue,
                 "assemble images as far as it goes, write nothing to them, and report")
      ->excludes(foreground);
  add_json_option(*command, session);
  set_examples(
      *command,
      "  volfs mount lab.yaml /mnt\n"
      "  volfs mount lab.yaml /mnt -o ro,allow_other\n"
      "  volfs mount sda.img sdb.img /mnt     (the arrays and volumes on them; read-only)\n"
      "  volfs mount --rescue sd?.img /mnt     (whatever state they are in; images unchanged)\n"
      "  volfs mount -f lab.yaml /mnt     (messages on standard error, Ctrl-C unmounts)\n"
      "  mount -t volfs lab.yaml /mnt     (through mount.volfs)\n");
  command->callback([arguments, &session] {
    MountRequest request;
    request.sources = arguments->paths;
    request.mountpoint = request.sources.back();
    request.sources.pop_back();
    request.foreground = arguments->foreground;
    request.verbosity = session.verbosity;
    for (const std::string& text : arguments->options)
      if (auto parsed = parse_mount_options(text, request.options); !parsed)
        return session.fail(parsed.error(), exit_usage);
    // mount(8) gives its helper rw, whether asked to or not.
    if (request.options.metadata_seqno && request.options.read_only == false)
      return session.fail(
          "mount options 'rw' and 'metadata=' exclude each other: older metadata is shown "
          "read-only",
          exit_usage);
    if (arguments->rescue) {
      for (const std::string& source : request.sources)
        if (is_definition(source))
          return session.fail(fmt::format("{}: --rescue takes images, not a definition", source),
                              exit_usage);
      if (request.options.read_only == true || request.options.metadata_seqno)
        return session.fail("--rescue writes nothing to the images; it cannot be ro or metadata=",
                            exit_usage);
      session.status = rescue(request, session.json);
      return;
    }
    if (session.json && !request.foreground)
      mount_and_listen(request, session);
    else
      session.status = mount_volumes(request);
    if (session.json && session.status == exit_done && !request.foreground)
      tell_mounted(session, request.mountpoint);
  });
}

int mount_helper(int argc, char** argv) {
  const auto usage = [](const char* text) {
    fmt::print(stderr, "{}", text);
    return mount_usage;
  };
  MountRequest request;
  bool fake = false, sloppy = false;
  std::vector<std::string> options;
  optind = 1;
  // mount(8) puts the options behind the two names; getopt reorders.
  for (int c = 0; (c = getopt(argc, argv, "sfnvhVN:t:o:")) != -1;) {
    switch (c) {
      case 's':
        sloppy = true;
        break;
      case 'f':
        fake = true;
        break;
      case 'n':
        break;  // there is no mtab to leave alone
      case 'v':
        ++request.verbosity;
        break;
      case 'N':
      case 't':
        break;
      case 'o':
        options.emplace_back(optarg);
        break;
      case 'V':
        fmt::print("mount.volfs {}\n", VOLFS_VERSION);
        return 0;
      case 'h':
        fmt::print("{}", helper_usage);
        return 0;
      default:
        return usage(helper_usage);
    }
  }
  if (argc - optind != 2) return usage(helper_usage);
  request.sources = {argv[optind]};
  request.mountpoint = argv[optind + 1];
  for (const std::string& text : options) {
    if (auto parsed = parse_mount_options(text, request.options, sloppy); !parsed) {
      fmt::print(stderr, "mount.volfs: {}\n", parsed.error().text());
      return mount_usage;
    }
  }
  if (fake) return 0;
  switch (mount_volumes(request)) {
    case exit_done:
      return 0;
    case exit_usage:
      return mount_usage;
    default:
      return mount_failure;
  }
}

}  // namespace volfs::cli
