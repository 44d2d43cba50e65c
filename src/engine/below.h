// SPDX-License-Identifier: GPL-2.0-or-later
// The part of a definition that some of its devices stand on.
#pragma once

#include <string>
#include <vector>

#include "volfs/config/definition.h"

namespace volfs::engine {

// DEFINITION with a build order that has only what NAMES ("disk0", "vg0/root") need and what
// these are. Names that there are not add nothing.
config::Definition needed_for(const config::Definition& definition,
                              const std::vector<std::string>& names);

std::string name_of(const config::Definition& definition, const config::Item& item);

}  // namespace volfs::engine
