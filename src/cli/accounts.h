// SPDX-License-Identifier: GPL-2.0-or-later
// Users and groups by number or name, as options give them.
#pragma once

#include <sys/types.h>

#include <string>

#include "volfs/error.h"

namespace volfs::cli {

// ENOENT names what there is not.
Result<uid_t> user_number(const std::string& text);
Result<gid_t> group_number(const std::string& text);

}  // namespace volfs::cli
