// SPDX-License-Identifier: GPL-2.0-or-later
// What a definition says otherwise than a running mount is, and only a new mount can follow.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "volfs/config/definition.h"

namespace volfs::cli {

// The words of a list, each once.
std::set<std::string> texts_of(const std::vector<config::Text>& list);

// A line for each: what it is on the mount, what in the definition, and that it takes a new mount.
std::vector<std::string> fixed_differences(const config::Definition& definition,
                                           const nlohmann::json& status);

}  // namespace volfs::cli
