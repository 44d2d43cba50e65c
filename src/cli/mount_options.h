// SPDX-License-Identifier: GPL-2.0-or-later
// The options of -o, as `volfs mount` and mount(8) give them. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"
#include "volfs/fuse/server.h"

namespace volfs::cli {

struct MountOptions {
  std::optional<bool> read_only;  // ro, rw; absent: as the source says
  bool writeback_cache = false;
  bool direct_io = false;
  bool hidden = false;  // show internal devices too
  bool force = false;   // assemble what is only safe to assemble when told to
  bool debug = false;
  fuse::Transport transport = fuse::Transport::automatic;
  unsigned threads = 0;                     // 0: chosen
  unsigned max_background = 0;              // 0: chosen
  std::optional<unsigned> metadata_seqno;   // metadata=: which copy of LVM's metadata to believe
  std::optional<unsigned> mode;             // permission bits of the files
  std::optional<std::string> owner, group;  // uid=, gid=: a number or a name
  std::string overlay;                      // a directory; empty: none
  std::vector<std::string> for_kernel;      // what goes to fusermount3 or mount(2)
};

// Takes one -o argument ("ro,allow_other,x-systemd.automount") into OPTIONS. EINVAL names the
// option and what was expected. Options that only concern mount(8), fstab and systemd are dropped.
// With SLOPPY unknown ones are dropped too, as mount -s asks.
Status parse_mount_options(std::string_view text, MountOptions& options, bool sloppy = false);

}  // namespace volfs::cli
