// SPDX-License-Identifier: GPL-2.0-or-later
// volfs check: says what a definition means and whether it can be mounted; touches nothing.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli.h"
#include "definition_file.h"
#include "display.h"
#include "tree.h"
#include "volfs/control/control.h"
#include "volfs/engine/create.h"
#include "volfs/engine/engine.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

// Everything was opened for reading only; says what a mount would say.
void tell_as_mounted(nlohmann::json& status, engine::Engine& engine, bool read_only) {
  status["read_only"] = read_only;
  for (auto& device : status["devices"]) {
    const engine::Node* node = engine.graph().find(device.value("name", ""));
    device["read_only"] = read_only || (node && node->read_only_wanted);
  }
}

void check(const std::string& path, Session& session) {
  const auto definition = load_definition(path);
  if (!definition) return session.fail_lines(definition.error(), exit_usage);
  const std::string directory = directory_of(path);
  const auto missing = engine::missing_images(*definition, directory);
  if (!missing.empty()) {
    // What depends on the sizes of disks cannot be told before they are there.
    const auto plan = engine::plan_creation(*definition, {.directory = directory, .force = true});
    if (!plan) return session.fail_lines(plan.error().to_string(), exit_usage);
    if (session.json) {
      print_json({{"missing", missing}});
      return;
    }
    fmt::print("{}: a valid definition; `volfs create` makes what is missing:\n", path);
    for (const std::string& image : missing) fmt::print("  {}\n", image);
    return;
  }
  engine::AssembleOptions options;
  options.directory = directory;
  options.read_only = true;
  options.probe = true;
  const auto engine = engine::Engine::assemble(*definition, options);
  if (!engine) return session.fail_lines(engine.error().to_string(), exit_usage);
  auto status = nlohmann::json::parse(control::Control(**engine, {}).status_json());
  tell_as_mounted(status, **engine, definition->readonly.value);
  if (session.json)
    print_json(status);
  else
    print_tree(status);
}

}  // namespace

void add_check(CLI::App& app, Session& session) {
  auto path = std::make_shared<std::string>();
  auto* command =
      app.add_subcommand("check", "check a definition and show its tree; touch nothing");
  command->add_option("DEFINITION", *path)->required();
  add_json_option(*command, session);
  set_examples(*command, "  volfs check lab.yaml\n");
  command->callback([path, &session] { check(*path, session); });
}

}  // namespace volfs::cli
