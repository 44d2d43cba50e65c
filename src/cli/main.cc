// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli.h"
#include "client.h"
#include "display.h"
#include "unmount.h"
#include "volfs/log.h"

namespace volfs::cli {

namespace {

// That of the system's words with which the first line ends; 0 if it ends with others.
int code_of_line(std::string_view lines) {
  const std::string_view line = lines.substr(0, lines.find('\n'));
  constexpr int last = EHWPOISON;
  for (int code = 1; code <= last; ++code)
    if (const char* words = strerrordesc_np(code);
        words && line.ends_with(fmt::format(": {}", words)))
      return code;
  return 0;
}

// Where there is no better one.
int code_of_status(int exit_status) {
  return exit_status == exit_usage ? EINVAL : EIO;
}

}  // namespace

void Session::fail(std::string_view text, int exit_status) {
  fail(Error::make(code_of_status(exit_status), std::string(text)), exit_status);
}

void Session::fail(const Error& error, int exit_status) {
  fmt::print(stderr, "volfs: {}\n", error.text());
  status = exit_status;
  if (!failure) failure = {error.code(), error.text(), place_of_refusal()};
}

void Session::fail_lines(std::string_view lines, int exit_status, bool quiet) {
  if (!quiet) fmt::print(stderr, "{}", lines);
  status = exit_status;
  if (failure) return;
  constexpr std::string_view own = "volfs: ";
  while (lines.ends_with('\n')) lines.remove_suffix(1);
  const int code = code_of_line(lines);
  failure = {code != 0 ? code : code_of_status(exit_status), std::string(lines), ""};
  if (lines.starts_with(own))
    failure->message = lines.substr(own.size());
  else if (const size_t end = lines.find(": "); end != std::string_view::npos)
    failure->place = lines.substr(0, end);
}

nlohmann::json to_json(const Session::Failure& failure) {
  const char* const name = strerrorname_np(failure.code);
  return {{"code", name ? name : std::to_string(failure.code)},
          {"message", failure.message},
          {"place", failure.place}};
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

// Tells what went wrong in JSON, too, if that was asked for.
int ended(Session& session) {
  if (session.json && session.failure) print_json({{"error", to_json(*session.failure)}});
  if (std::fflush(stdout) != 0) session.fail("standard output: write failed");
  return session.status;
}

int refuse_usage(const CLI::App& app, Session& session, const CLI::ParseError& error, int argc,
                 char** argv) {
  // CLI11 misses a command before it looks at a word that is none.
  const auto named = [&](const CLI::App* command) { return command->check_name(argv[1]); };
  if (argc > 1 && argv[1][0] != '-' && app.get_subcommands(named).empty()) {
    session.fail(fmt::format("there is no command '{}'; `volfs --help` lists them", argv[1]),
                 exit_usage);
    return ended(session);
  }
  if (argc > 2 && argv[1][0] != '-' && argv[2][0] != '-') {
    const CLI::App* const group = app.get_subcommand(argv[1]);
    const auto below = [&](const CLI::App* command) { return command->check_name(argv[2]); };
    if (!group->get_subcommands({}).empty() && group->get_subcommands(below).empty()) {
      session.fail(fmt::format("there is no command '{0} {1}'; `volfs {0} --help` lists them",
                               argv[1], argv[2]),
                   exit_usage);
      return ended(session);
    }
  }
  // --help and --version come this way too, with status 0.
  if (app.exit(error) == 0) return exit_done;
  session.fail_lines(fmt::format("volfs: {}\n", error.what()), exit_usage, true);
  return ended(session);
}

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
    // A command that was not understood was not asked for JSON either, unless one looks.
    const std::vector<std::string_view> words(argv, argv + argc);
    session.json = std::ranges::find(words, "--json") != words.end();
    return refuse_usage(app, session, error, argc, argv);
  }
  return ended(session);
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
