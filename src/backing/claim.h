// SPDX-License-Identifier: GPL-2.0-or-later
// The right to use a file: one writing process, or many reading ones. A process holds one claim
// a file, whatever it opens of it, and keeps it until the last user of it has gone.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>

#include "volfs/backing/file_identity.h"
#include "volfs/error.h"
#include "volfs/unique_fd.h"

namespace volfs {

class Claim {
 public:
  // EBUSY if another process has it; for a volfs that is ending it is waited, 10 s at most. Without
  // LOCK it is only opened. A claim for reading becomes one for writing when WRITE asks.
  static Result<std::shared_ptr<Claim>> take(const std::string& path, bool write, bool lock);
  // Buffered; open for reading, and for writing if any claimant writes. For looking at tables.
  int fd() const { return fd_.get(); }

 private:
  static Status lock_file(int fd, const std::string& path, bool write);
  UniqueFd fd_;
  bool write_ = false;
};

// stat() of what PATH names, which must be a regular file or a block device.
Result<struct stat> stat_image(const std::string& path);

}  // namespace volfs
