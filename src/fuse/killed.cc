// SPDX-License-Identifier: GPL-2.0-or-later
#include "killed.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace volfs::fuse {

bool was_killed(pid_t thread) {
  if (thread <= 0) return false;
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/status", static_cast<int>(thread));
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char text[4096];
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return false;
  text[n] = '\0';
  const char* line = std::strstr(text, "\nSigPnd:");
  if (!line) return false;
  const uint64_t pending = std::strtoull(line + 8, nullptr, 16);
  return (pending >> (SIGKILL - 1) & 1) != 0;
}

}  // namespace volfs::fuse
