// SPDX-License-Identifier: GPL-2.0-or-later
// What building and creating arrays share.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"
#include "volfs/engine/create.h"
#include "volfs/engine/engine.h"
#include "volfs/md/array.h"

namespace volfs::engine {

// md's number of a level.
int32_t md_level(config::ArrayLevel level);
md::SuperblockVersion md_version(config::ArrayMetadata metadata);
// Which superblock of several ARRAY means.
md::SuperblockChoice choice_of(const config::Array& array);

// Adds the step that makes ARRAY, unless it is there. COMING names the devices that earlier steps
// make. What stands in the way goes to PROBLEMS.
void plan_array(const config::Definition& definition, const config::Array& array,
                const CreateOptions& options, const std::set<std::string>& coming,
                std::vector<CreateStep>& steps, config::Diagnostics& problems);

// Makes the members of ARRAY on DEVICES, those of its list and then the spares, null where one is
// missing. With WIPE the signatures on them go first.
Status write_members(const config::Array& array, const std::vector<BlockDevice*>& devices,
                     bool wipe);
// What a device holds that a new array would overwrite.
Result<Contents> contents_of(BlockDevice& device);

}  // namespace volfs::engine
