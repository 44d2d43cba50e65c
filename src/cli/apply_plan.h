// SPDX-License-Identifier: GPL-2.0-or-later
// What it takes to bring a running mount to what a definition says.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "volfs/config/definition.h"

namespace volfs::cli {

struct ApplyStep {
  char mark = '+';                       // + comes, ~ changes, - goes
  std::string text;                      // "map scratch: 8 MiB"
  std::vector<nlohmann::json> requests;  // in this order
  bool loses_data = false;               // what is stored may be gone afterwards
  std::string volume;                    // nobody may have it open; empty: does not matter
};

struct ApplyPlan {
  std::vector<ApplyStep> steps;       // in the order in which they can be done
  std::vector<std::string> problems;  // what the definition says and a running mount cannot become
};

// Asks the mount whether a table means the same as the one that a map has: the text of the first as
// dmsetup would print it, or empty if it cannot be tried.
using CheckTable = std::function<std::string(const std::string& map, const std::string& table)>;

// STATUS is the mount's; DIRECTORY what the definition's relative paths start at.
ApplyPlan plan_apply(const config::Definition& definition, const std::string& directory,
                     const nlohmann::json& status, const CheckTable& check);

}  // namespace volfs::cli
