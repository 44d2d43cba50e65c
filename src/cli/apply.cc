// SPDX-License-Identifier: GPL-2.0-or-later
// volfs apply: brings a running mount to what a changed definition says.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <set>

#include "apply_plan.h"
#include "cli.h"
#include "client.h"
#include "definition_file.h"
#include "display.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

struct ApplyArguments {
  std::string definition, mountpoint;
  bool dry_run = false, yes = false;
};

// Steps on volumes that somebody has open cannot be done: who it is becomes a problem.
void check_users(const std::string& mountpoint, ApplyPlan& plan) {
  std::vector<std::string> volumes;
  for (const ApplyStep& step : plan.steps)
    volumes.insert(volumes.end(), step.volumes.begin(), step.volumes.end());
  for (const std::string& volume : volumes) {
    const auto answer = request(mountpoint, {{"request", "volume.users"}, {"volume", volume}});
    if (!answer || answer->value("open", 0U) == 0) continue;
    std::string users;
    for (const json& user : (*answer)["users"])
      users += fmt::format("{}{} (pid {})", users.empty() ? ": " : ", ", user.value("command", ""),
                           user.value("pid", 0));
    plan.problems.push_back(fmt::format("{}: in use{}", volume, users));
  }
}

// Tries what is to become of the volumes of each group: what there is no room for is a problem.
// What comes after a group has got a device that it misses cannot be tried.
void check_groups(const std::string& mountpoint, ApplyPlan& plan) {
  std::map<std::string, json> changes;
  std::set<std::string> other;
  for (const ApplyStep& step : plan.steps)
    for (const json& body : step.requests) {
      const std::string which = body.value("request", ""), lv = body.value("lv", "");
      if (which == "vg.activate") other.insert(body.value("vg", ""));
      if (!which.starts_with("lv.") || which.ends_with("activate")) continue;
      const std::string group = lv.substr(0, lv.find('/'));
      if (!other.contains(group)) changes[group].push_back(body);
    }
  for (auto& [group, requests] : changes) {
    const auto answer = request(
        mountpoint, {{"request", "vg.check"}, {"vg", group}, {"requests", std::move(requests)}});
    if (!answer) {
      plan.problems.push_back(answer.error().text());
      continue;
    }
    for (const json& text : *answer) plan.problems.push_back(text);
  }
}

void print_plan(const ApplyPlan& plan) {
  for (const ApplyStep& step : plan.steps) {
    const Colour colour = step.mark == '+'   ? Colour::good
                          : step.mark == '~' ? Colour::warning
                                             : Colour::bad;
    fmt::print("{}\n", coloured(fmt::format("{} {}", step.mark, step.text), colour));
  }
  std::fflush(stdout);
}

void print_problems(const ApplyPlan& plan) {
  for (const std::string& problem : plan.problems) fmt::print(stderr, "volfs: {}\n", problem);
}

json plan_json(const ApplyPlan& plan, bool done) {
  json steps = json::array();
  for (const ApplyStep& step : plan.steps)
    steps.push_back({{"mark", std::string(1, step.mark)},
                     {"text", step.text},
                     {"loses_data", step.loses_data},
                     {"requests", step.requests}});
  return {{"steps", std::move(steps)}, {"problems", plan.problems}, {"done", done}};
}

// The plan is told of a failure, too, in the one object there is.
void tell_plan(const ApplyPlan& plan, bool done, Session& session) {
  json all = plan_json(plan, done);
  if (session.failure) all["error"] = to_json(*session.failure);
  session.failure.reset();
  print_json(all);
}

Status carry_out(const std::string& mountpoint, const ApplyStep& step) {
  for (const json& body : step.requests) {
    const auto answer = request(mountpoint, body);
    if (!answer) return fail(Error(answer.error()));
  }
  return {};
}

Status carry_out_all(const std::string& mountpoint, const ApplyPlan& plan) {
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    auto done = carry_out(mountpoint, plan.steps[i]);
    if (done) continue;
    return fail(Error::make(
        done.error().code(),
        fmt::format("{} {}: {} ({} of {} steps are done and stay so)", plan.steps[i].mark,
                    plan.steps[i].text, done.error().text(), i, plan.steps.size())));
  }
  return {};
}

// Whether it may be done, or why not.
Status permitted(const ApplyArguments& arguments, const ApplyPlan& plan) {
  if (arguments.yes) return {};
  bool loses = false;
  for (const ApplyStep& step : plan.steps) loses |= step.loses_data;
  if (isatty(STDIN_FILENO) == 0 || isatty(STDERR_FILENO) == 0)
    return fail(Error::make(EPERM,
                            "nothing was done: without a terminal to ask on, --yes is "
                            "needed"));
  if (confirmed(loses ? "Data may be lost. Do it?" : "Do it?")) return {};
  return fail(Error::make(ECANCELED, "nothing was done"));
}

void apply(const ApplyArguments& arguments, Session& session) {
  const auto definition = load_definition(arguments.definition);
  if (!definition) return session.fail_lines(definition.error(), exit_usage);
  const auto target = find_target(arguments.mountpoint);
  if (!target) return session.fail(target.error());
  const std::string& mountpoint = target->mountpoint;
  const auto status = request(mountpoint, {{"request", "status"}});
  if (!status) return session.fail(status.error());
  const auto check = [&](const std::string& map, const std::string& table) -> Result<std::string> {
    VOLFS_TRY_ASSIGN(
        const json text,
        request(mountpoint, {{"request", "map.check"}, {"map", map}, {"table", table}}));
    return text.is_string() ? text.get<std::string>() : std::string();
  };
  ApplyPlan plan = plan_apply(*definition, directory_of(arguments.definition), *status, check);
  check_users(mountpoint, plan);
  check_groups(mountpoint, plan);
  const bool nothing = plan.steps.empty() && plan.problems.empty();
  if (!session.json) print_plan(plan);
  print_problems(plan);
  if (!session.json && nothing) fmt::print("nothing to do\n");
  bool done = false;
  if (!plan.problems.empty()) {
    session.status = exit_failed;
    session.failure = {EOPNOTSUPP, plan.problems.front(), ""};
  } else if (!arguments.dry_run && !nothing) {
    Status result = permitted(arguments, plan);
    if (result) result = carry_out_all(mountpoint, plan);
    if (!result) session.fail(result.error());
    done = result.has_value();
  }
  if (session.json) tell_plan(plan, done || nothing, session);
}

}  // namespace

void add_apply(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<ApplyArguments>();
  auto* command = app.add_subcommand(
      "apply", "bring a running mount to what a changed definition says, after showing the plan");
  command->add_option("DEFINITION", arguments->definition)->required();
  command->add_option("MOUNTPOINT", arguments->mountpoint)->required();
  command->add_flag("-n,--dry-run", arguments->dry_run, "only print the plan");
  command->add_flag("-y,--yes", arguments->yes, "do not ask");
  add_json_option(*command, session);
  set_examples(*command,
               "  volfs apply lab.yaml /mnt --dry-run     (+ comes, ~ changes, - goes)\n"
               "  volfs apply lab.yaml /mnt\n");
  command->callback([arguments, &session] { apply(*arguments, session); });
}

}  // namespace volfs::cli
