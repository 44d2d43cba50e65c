// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <memory>

#include "volfs/dm/table.h"
#include "volfs/dm/target.h"

namespace volfs::dm {

// The target of a row, in a table of ROWS. The error begins with the type.
Result<std::unique_ptr<Target>> make_target(const TableRow& row, size_t rows,
                                            const TargetContext& context);

}  // namespace volfs::dm
