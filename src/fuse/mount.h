// SPDX-License-Identifier: GPL-2.0-or-later
// What can be said about a mount before and after it was tried, and libfuse's words in our log.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "volfs/error.h"
#include "volfs/fuse/server.h"

struct fuse_args;

namespace volfs::fuse {

// The absolute path of the mount point, or why nothing can be mounted there: it is missing, no
// directory, a mount of ours already or the rest of a server that died, /dev/fuse or fusermount3
// is missing, or /etc/fuse.conf does not allow what is asked.
Result<std::string> check_mount_point(const Options& options);

// Whether the text of an fuse.conf lets ordinary users say allow_other.
bool conf_allows_other(const std::string& text);
// Whether a mount of TYPE is on PATH, by the text of a mountinfo file.
bool is_mounted(const std::string& mountinfo, const std::string& path, const std::string& type);

// A mount as the kernel numbers it; device 0: none.
struct MountIdentity {
  uint64_t id = 0;  // 0: not told (before Linux 5.8)
  dev_t device = 0;
  bool operator==(const MountIdentity&) const = default;
};
// The mount that PATH leads to. No server is asked, so that it may be ours.
MountIdentity mount_at(const std::string& path);
// Where MOUNT is now, by the text of a mountinfo file: it may have been moved. Empty: nowhere.
std::string place_of(const std::string& mountinfo, const MountIdentity& mount);
std::string mountinfo();

// The value of the argument "-o" for libfuse: names first, then what was given. "ro" is ours to
// enforce, as the control file must stay writable.
std::string mount_options(const Options& options);

// Routes libfuse's messages to our log; while one lives in a thread, its messages are collected
// instead, to become the text of an error.
class FuseMessages {
 public:
  FuseMessages();
  ~FuseMessages();
  FuseMessages(const FuseMessages&) = delete;
  FuseMessages& operator=(const FuseMessages&) = delete;
  const std::string& text() const { return text_; }

 private:
  friend struct FuseLog;
  std::string text_;
};

}  // namespace volfs::fuse
