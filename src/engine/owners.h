// SPDX-License-Identifier: GPL-2.0-or-later
// Who has a device of the mount to itself, as the checks of definitions know it (volfs.yaml(5)).
#pragma once

#include <string>

#include "volfs/engine/engine.h"

namespace volfs::engine {

// "array 'md0'", "volume group 'vg0'", "snapshot 'before'", "logical volume 'vg0-root'": whose
// member, physical volume, store or inner volume NODE is; "" if it is nobody's. NODE stays
// meanwhile. Any thread.
std::string owner_of(Engine& engine, const Node& node);
// Volume groups only.
std::string group_of(Engine& engine, const Node& node);

}  // namespace volfs::engine
