// SPDX-License-Identifier: GPL-2.0-or-later
// The devices of a mount's status as people read them.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace volfs::cli {

// STATUS is what the request "status" gives.
void print_tree(const nlohmann::json& status);
// What it is: "image", "raid5", "lv striped".
std::string type_of(const nlohmann::json& device);
// "active", "degraded recover 12.3%", "active suspended ro".
std::string state_of(const nlohmann::json& device);
// The sync that runs: "recover 12.3%"; empty if none does.
// What it tells of the array in it: its own, or of a raid volume; null if there is none.
const nlohmann::json* array_in(const nlohmann::json& device);
std::string sync_of(const nlohmann::json& device);

}  // namespace volfs::cli
