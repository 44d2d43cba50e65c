// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <sys/types.h>

namespace volfs::fuse {

// Whether the thread has SIGKILL pending, which is how the kernel ends a program for any fatal
// signal. False when it cannot be told.
bool was_killed(pid_t thread);
// Whether it has any signal pending that it neither blocks nor ignores. False when it cannot be
// told.
bool was_signalled(pid_t thread);

}  // namespace volfs::fuse
