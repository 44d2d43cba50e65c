// SPDX-License-Identifier: GPL-2.0-or-later
// Files that tell the next mount something, and are there, or gone, even after a power cut.
#pragma once

#include <string>

#include "volfs/error.h"

namespace volfs::engine {

// Puts TEXT in the place of the file at PATH, at one instant and durably; PATH.new is written
// meanwhile.
Status replace_file(const std::string& path, const std::string& text);
Result<std::string> read_file(const std::string& path);
// Durably. None there is no error.
Status remove_file(const std::string& path);
// What was made, renamed or removed beside PATH is so for good.
Status sync_directory_of(const std::string& path);

}  // namespace volfs::engine
