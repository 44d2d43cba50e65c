// SPDX-License-Identifier: GPL-2.0-or-later
// What building and creating arrays share.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"
#include "volfs/engine/create.h"

namespace volfs::engine {

// md's number of a level.
int32_t md_level(config::ArrayLevel level);

// Adds the step that makes ARRAY, unless it is there. COMING names the devices that earlier steps
// make. What stands in the way goes to PROBLEMS.
void plan_array(const config::Definition& definition, const config::Array& array,
                const CreateOptions& options, const std::set<std::string>& coming,
                std::vector<CreateStep>& steps, config::Diagnostics& problems);

}  // namespace volfs::engine
