// SPDX-License-Identifier: GPL-2.0-or-later
// What the subcommands share. Each one lives in a file of its own: it adds itself to the program,
// and when it is chosen parses, calls and prints.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"

namespace volfs::cli {

// Exit statuses of the program.
inline constexpr int exit_done = 0;
inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 2;  // bad usage or a bad definition

// What the chosen subcommand leaves behind for main().
struct Session {
  int status = exit_done;
  bool json = false;
  int verbosity = 0;

  // "volfs: TEXT" to standard error, and the exit status of a failure; with --json, main() prints
  // the first one to standard output at the end.
  void fail(const Error& error, int exit_status = exit_failed);
  void fail(std::string_view text, int exit_status = exit_failed);
  // The same of text that is complete: lines of "FILE:LINE:COLUMN: ..." or "volfs: ...", each with
  // its newline. QUIET: it is on standard error already.
  void fail_lines(std::string_view lines, int exit_status, bool quiet = false);

  struct Failure {
    int code = 0;
    std::string message, place;
  };
  std::optional<Failure> failure;
};

// What --json prints of a failure: {"code": "EBUSY", "message": ..., "place": ...}.
nlohmann::json to_json(const Session::Failure& failure);

// Adds --json to a command.
void add_json_option(CLI::App& command, Session& session);
// A footer of examples for --help.
void set_examples(CLI::App& command, std::string_view examples);
// Whether the person at the terminal says yes; false without asking if there is no terminal.
bool confirmed(std::string_view question);
// Leave to do what loses LOST ("disk3: ext4 file system, ..."), a line each: given if there is
// nothing to lose or with YES; else what would be lost is shown on standard error, and the person
// at the terminal is asked QUESTION. ECANCELED, which names what would be lost, without one or if
// the answer is no.
Status may_lose(const std::vector<std::string>& lost, std::string_view question, bool yes);

void add_mount(CLI::App& app, Session& session);
void add_umount(CLI::App& app, Session& session);
void add_check(CLI::App& app, Session& session);
void add_create(CLI::App& app, Session& session);
void add_status(CLI::App& app, Session& session);
void add_array(CLI::App& app, Session& session);
void add_inspect(CLI::App& app, Session& session);
void add_lv(CLI::App& app, Session& session);
void add_map(CLI::App& app, Session& session);
void add_apply(CLI::App& app, Session& session);
void add_graph(CLI::App& app, Session& session);
void add_image(CLI::App& app, Session& session);
void add_top(CLI::App& app, Session& session);
void add_scan(CLI::App& app, Session& session);
void add_snapshot(CLI::App& app, Session& session);
void add_overlay(CLI::App& app, Session& session);

// The program under the names mount.volfs and mount.fuse.volfs, with mount(8)'s arguments and
// exit statuses.
int mount_helper(int argc, char** argv);

}  // namespace volfs::cli
