// SPDX-License-Identifier: GPL-2.0-or-later
// volfs mount --rescue: everything that can be had of a pile of images, and a report of the rest.
#pragma once

#include "daemon.h"

namespace volfs::cli {

// Assembles what is on the images as far as it goes (dirty, degraded, partial), with an overlay
// that takes all writes, in a directory of its own unless the options name one; nothing is synced
// until that is asked for. Images that cannot be read are left out. Prints the report, as JSON or
// text; returns as mount_volumes() does.
int rescue(MountRequest request, bool as_json);

}  // namespace volfs::cli
