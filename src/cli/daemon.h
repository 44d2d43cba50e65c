// SPDX-License-Identifier: GPL-2.0-or-later
// A mount's process: from the sources to the end of the daemon.
#pragma once

#include <string>
#include <vector>

#include "definition_file.h"
#include "mount_options.h"

namespace volfs::cli {

struct MountRequest {
  std::vector<std::string> sources;  // one definition, or images
  std::string mountpoint;
  MountOptions options;
  bool foreground = false;
  bool frozen = false;  // arrays start no sync
  // All that is written goes to an overlay in a new directory, which goes again if the mount fails.
  bool private_overlay = false;
  int verbosity = 0;
};

// Mounts. In the foreground it returns when the mount has ended; else when the files are there (a
// daemon serves them) or it is clear that they will not be. Errors go to standard error. The
// program's exit status: exit_done, exit_failed, exit_usage.
int mount_volumes(const MountRequest& request);
// The same when it is known what the sources are.
int mount_sources(MountRequest request, const Sources& sources);

}  // namespace volfs::cli
