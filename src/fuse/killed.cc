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

namespace {

// Sets of signals as /proc shows them.
struct Signals {
  uint64_t pending = 0, of_all_threads = 0, blocked = 0, ignored = 0;
};

uint64_t field(const char* text, const char* name) {
  const char* const line = std::strstr(text, name);
  return line ? std::strtoull(line + std::strlen(name), nullptr, 16) : 0;
}

// All empty when it cannot be told.
Signals signals_of(pid_t thread) {
  if (thread <= 0) return {};
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/status", static_cast<int>(thread));
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char text[4096];
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return {};
  text[n] = '\0';
  return {field(text, "\nSigPnd:"), field(text, "\nShdPnd:"), field(text, "\nSigBlk:"),
          field(text, "\nSigIgn:")};
}

}  // namespace

bool was_killed(pid_t thread) {
  return (signals_of(thread).pending >> (SIGKILL - 1) & 1) != 0;
}

bool was_signalled(pid_t thread) {
  const Signals all = signals_of(thread);
  return ((all.pending | all.of_all_threads) & ~all.blocked & ~all.ignored) != 0;
}

}  // namespace volfs::fuse
