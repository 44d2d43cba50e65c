// SPDX-License-Identifier: GPL-2.0-or-later
// volfs create: makes what a definition describes and is missing.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "definition_file.h"
#include "display.h"
#include "volfs/engine/create.h"

namespace volfs::cli {
namespace {

struct CreateArguments {
  std::string path;
  bool dry_run = false, force = false, yes = false;
};

void create(const CreateArguments& arguments, Session& session) {
  const auto definition = load_definition(arguments.path);
  if (!definition) return session.fail_lines(definition.error(), exit_usage);
  const auto plan = engine::plan_creation(
      *definition, {.directory = directory_of(arguments.path), .force = arguments.force});
  if (!plan) return session.fail_lines(plan.error().to_string(), exit_failed);
  std::vector<std::string> lost;
  for (const engine::CreateStep& step : *plan)
    lost.insert(lost.end(), step.loses.begin(), step.loses.end());
  if (!arguments.dry_run)
    if (auto may = may_lose(lost, "Overwrite it?", arguments.yes); !may)
      return session.fail(may.error());
  nlohmann::json done = nlohmann::json::array();
  for (const engine::CreateStep& step : *plan) {
    if (!arguments.dry_run) {
      if (auto made = step.run(); !made) return session.fail(made.error());
    }
    if (session.json)
      done.push_back(step.text);
    else
      fmt::print("{}{}\n", arguments.dry_run ? "would " : "", step.text);
    if (!session.json && arguments.dry_run)
      for (const std::string& each : step.loses) fmt::print("  what is lost: {}\n", each);
  }
  if (session.json)
    print_json({{"dry_run", arguments.dry_run}, {"steps", done}, {"loses", lost}});
  else if (plan->empty())
    fmt::print("nothing to do\n");
}

}  // namespace

void add_create(CLI::App& app, Session& session) {
  auto arguments = std::make_shared<CreateArguments>();
  auto* command =
      app.add_subcommand("create", "make the images of a definition and what belongs on them");
  command->add_option("DEFINITION", arguments->path)->required();
  command->add_flag("-n,--dry-run", arguments->dry_run, "print what would be done, and do nothing");
  command->add_flag("--force", arguments->force,
                    "overwrite devices that hold something; asks before");
  command->add_flag("-y,--yes", arguments->yes, "do not ask");
  add_json_option(*command, session);
  set_examples(*command,
               "  volfs create lab.yaml --dry-run\n"
               "  volfs create lab.yaml\n");
  command->callback([arguments, &session] { create(*arguments, session); });
}

}  // namespace volfs::cli
