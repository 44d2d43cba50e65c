// SPDX-License-Identifier: GPL-2.0-or-later
// The part of `volfs create` that makes volume groups.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"
#include "volfs/engine/create.h"

namespace volfs::engine {

// Appends to STEPS what makes GROUP, or those of its volumes that are not there. COMING: names of
// the images, arrays and groups that earlier steps will make. DEFINITION outlives the steps.
void plan_volume_group(const config::Definition& definition, const config::VolumeGroup& group,
                       const CreateOptions& options, const std::set<std::string>& coming,
                       std::vector<CreateStep>& steps, config::Diagnostics& problems);

}  // namespace volfs::engine
