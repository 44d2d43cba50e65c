// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "cli.h"
#include "unmount.h"
#include "volfs/log.h"

namespace volfs::cli {

void Session::fail(std::string_view text, int exit_status) {
  fmt::print(stderr, "volfs: {}\n", text);
  status = exit_status;
}
void Session::fail(const Error& error, int exit_status) {
  fail(error.text(), exit_status);
}

void add_json_option(CLI::App& command, Session& session) {
  command.add_flag("--json", session.json, "print JSON");
}

void set_examples(CLI::App& command, std::string_view examples) {
  command.footer(fmt::format("Examples:\n{}", examples));
}

bool confirmed(std::string_view question) {
  if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) return false;
  fmt::print(stderr, "{} [y/N] ", question);
  std::string answer;
  return std::getline(std::cin, answer) && (answer == "y" || answer == "Y" || answer == "yes");
}

Status may_lose(const std::vector<std::string>& lost, std::string_view question, bool yes) {
  if (lost.empty() || yes) return {};
  std::string all;
  for (const std::string& each : lost) all += (all.empty() ? "" : "; ") + each;
  if (isatty(STDIN_FILENO) == 0 || isatty(STDERR_FILENO) == 0)
    return fail(Error::make(
        ECANCELED, fmt::format("nothing was done: this would be lost: {}; --yes does it", all)));
  fmt::print(stderr, "This will be lost:\n");
  for (const std::string& each : lost) fmt::print(stderr, "  {}\n", each);
  if (confirmed(question)) return {};
  return fail(Error::make(ECANCELED, "nothing was done"));
}

namespace {

int run(int argc, char** argv) {
  CLI::App app{"volfs: LVM, device-mapper and MD RAID volumes of disk images as files", "volfs"};
  Session session;
  app.set_version_flag("--version", "volfs " VOLFS_VERSION);
  app.add_flag("-v,--verbose", session.verbosity, "say more; twice for debugging");
  app.require_subcommand(1);
  app.fallthrough();
  set_examples(app,
               "  volfs mount lab.yaml /mnt        mount what a definition describes\n"
               "  volfs umount /mnt                unmount; all is on disk at return\n"
               "  volfs check lab.yaml             say what a definition means, touch nothing\n"
               "  volfs create lab.yaml            make the images and what belongs on them\n");
  app.parse_complete_callback([&] {
    if (session.verbosity > 1) log_level(LogLevel::debug);
  });
  add_mount(app, session);
  add_umount(app, session);
  add_check(app, session);
  add_create(app, session);
  add_status(app, session);
  add_array(app, session);
  add_inspect(app, session);
  add_lv(app, session);
  add_map(app, session);
  add_scan(app, session);
  add_snapshot(app, session);
  add_top(app, session);
  add_graph(app, session);
  add_image(app, session);
  add_apply(app, session);
  add_overlay(app, session);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // CLI11 misses a command before it looks at a word that is none.
    const auto named = [&](CLI::App* command) { return command->check_name(argv[1]); };
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(named).empty()) {
      session.fail(fmt::format("there is no command '{}'; `volfs --help` lists them", argv[1]));
      return exit_usage;
    }
    if (argc > 2 && argv[1][0] != '-' && argv[2][0] != '-') {
      CLI::App* const group = app.get_subcommand(argv[1]);
      const auto below = [&](CLI::App* command) { return command->check_name(argv[2]); };
      if (!group->get_subcommands({}).empty() && group->get_subcommands(below).empty()) {
        session.fail(fmt::format("there is no command '{0} {1}'; `volfs {0} --help` lists them",
                                 argv[1], argv[2]));
        return exit_usage;
      }
    }
    // --help and --version come this way too, with status 0.
    return app.exit(error) == 0 ? exit_done : exit_usage;
  }
  if (std::fflush(stdout) != 0) session.fail("standard output: write failed");
  return session.status;
}

}  // namespace
}  // namespace volfs::cli

int main(int argc, char** argv) try {
  // A caller may have closed the standard streams; nothing else may get their numbers.
  int fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO) fd = dup(fd);
  if (fd >= 0) close(fd);
  const std::string name = argc > 0 ? argv[0] : "";
  const std::string base = name.substr(name.find_last_of('/') + 1);
  if (base.starts_with("mount.")) return volfs::cli::mount_helper(argc, argv);
  if (base.starts_with("umount.")) return volfs::cli::umount_helper(argc, argv);
  return volfs::cli::run(argc, argv);
} catch (const std::exception& error) {  // no memory, or our mistake
  std::fprintf(stderr, "volfs: %s\n", error.what());
  return volfs::cli::exit_failed;
}
