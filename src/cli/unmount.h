// SPDX-License-Identifier: GPL-2.0-or-later
// Taking a mount off the tree.
#pragma once

#include <string>

#include "volfs/error.h"

namespace volfs::cli {

enum class Detach : bool { no, yes };

// umount2(2) if we may, else fusermount3. EBUSY when the mount is in use; Detach::yes takes it off
// the tree all the same (it ends with its last user).
Status unmount(const std::string& mountpoint, Detach detach);

// The program under the names umount.volfs and umount.fuse.volfs, with umount(8)'s arguments and
// exit statuses.
int umount_helper(int argc, char** argv);

}  // namespace volfs::cli
