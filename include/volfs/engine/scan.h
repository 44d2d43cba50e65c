// SPDX-License-Identifier: GPL-2.0-or-later
// Finding what is on images: partition tables and LVM physical volumes. The answer is a definition,
// the same that could be written by hand.
#pragma once

#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/error.h"

namespace volfs::engine {

struct Scan {
  config::Definition definition;     // paths absolute, places not given
  std::vector<std::string> remarks;  // for people: what was found and is not part of it
};

// Opens the images read-only, changes nothing. Errors name the image.
Result<Scan> scan_images(const std::vector<std::string>& paths);

}  // namespace volfs::engine
