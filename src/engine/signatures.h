// SPDX-License-Identifier: GPL-2.0-or-later
// What a device bears, as libblkid finds it, whether it is an image or made of others.
#pragma once

#include <vector>

#include "volfs/backing/partitions.h"
#include "volfs/block_device.h"
#include "volfs/error.h"

namespace volfs::engine {

// Of a device that is no image, its first and last mebibyte are looked at.
Result<std::vector<Signature>> signatures_on(BlockDevice& device);

// Overwrites the sectors that make what signatures_on finds recognisable, until it finds nothing
// (as wipefs does). EBUSY if something stays.
Status wipe_signatures(BlockDevice& device);

}  // namespace volfs::engine
