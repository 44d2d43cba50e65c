// SPDX-License-Identifier: GPL-2.0-or-later
// What it takes to bring a running mount to what a definition says.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/error.h"

namespace volfs::cli {

struct ApplyStep {
  char mark = '+';                       // + comes, ~ changes, - goes
  std::string text;                      // "map scratch: 8 MiB"
  std::vector<nlohmann::json> requests;  // in this order
  bool loses_data = false;               // what is stored may be gone afterwards
  std::vector<std::string> volumes;      // nobody may have them open
};

struct ApplyPlan {
  std::vector<ApplyStep> steps;       // in the order in which they can be done
  std::vector<std::string> problems;  // what the definition says and a running mount cannot become
};

// Has the mount try a table for a map: its text as dmsetup would print it. EOPNOTSUPP if it cannot
// be tried, ENXIO if a device that it names is not there (yet).
using CheckTable =
    std::function<Result<std::string>(const std::string& map, const std::string& table)>;

// STATUS is the mount's; DIRECTORY what the definition's relative paths start at.
ApplyPlan plan_apply(const config::Definition& definition, const std::string& directory,
                     const nlohmann::json& status, const CheckTable& check);

}  // namespace volfs::cli
