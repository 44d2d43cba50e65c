// SPDX-License-Identifier: GPL-2.0-or-later
// Levels of arrays, as definitions and as md name them.
#pragma once

#include <cstdint>

#include "volfs/config/definition.h"

namespace volfs::engine {

// md's number of a level.
int32_t md_level(config::ArrayLevel level);

}  // namespace volfs::engine
