// SPDX-License-Identifier: GPL-2.0-or-later
// The devices of a mount, as lsblk draws them.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace volfs::cli {

// STATUS is what status.json holds. To standard output.
void print_tree(const nlohmann::json& status);
// What a user calls the state: "active", "active suspended ro".
std::string state_of(const nlohmann::json& device);

}  // namespace volfs::cli
