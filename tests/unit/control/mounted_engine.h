// SPDX-License-Identifier: GPL-2.0-or-later
// An engine on two small images, and the control of it, without a mount.
#pragma once

#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "support/temp_dir.h"
#include "volfs/config/parser.h"
#include "volfs/control/control.h"

namespace volfs::control {

struct MountedEngine {
  test::TempDir directory;
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<Control> control;

  MountedEngine() {
    for (const char* name : {"disk0", "disk1"})
      std::ofstream(directory.path(name)) << std::string(64 * 1024, '\0');
    const auto definition = config::parse(R"(
volfs: 1
images: {disk0: disk0, disk1: disk1}
maps:
  data: {table: "0 64 linear disk0 0"}
  other: {table: "0 64 linear disk1 8"}
  top: {table: "0 8 linear other 0"}
)",
                                          "lab.yaml", config::TableScanner{});
    if (!definition) std::abort();
    engine::AssembleOptions options;
    options.directory = directory.path(".");
    auto assembled = engine::Engine::assemble(*definition, options);
    if (!assembled) std::abort();
    engine = std::move(*assembled);
    control = std::make_unique<Control>(*engine, Host{"/nowhere", [] { return "threads"; }, -1});
  }

  nlohmann::json ask(const std::string& text) const {
    return nlohmann::json::parse(control->handle(text));
  }
};

}  // namespace volfs::control
