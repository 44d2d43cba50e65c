// SPDX-License-Identifier: GPL-2.0-or-later
// Whether devices may stand on each other.
#pragma once

#include "volfs/block_device.h"
#include "volfs/error.h"

namespace volfs::dm {

class Table;

// ELOOP if a device below TABLE stands on SELF, or if SELF with the table would be higher than
// max_stack_depth. Other tables may change meanwhile, so that a bound on the way down stays needed.
Status check_stack(const Table& table, const BlockDevice& self);

}  // namespace volfs::dm
