// SPDX-License-Identifier: GPL-2.0-or-later
// The name of a process as ps(1) shows it, by which one volfs sees what another one is up to.
#pragma once

#include <sys/types.h>

#include <string>

namespace volfs {

// What a daemon is called from its unmount on until everything is written; at most 15 bytes.
inline constexpr const char* ending_name = "volfs: ending";

// Any thread; names the whole process. Without /proc it does nothing.
void name_process(const char* name);
// Empty if there is no such process.
std::string process_name(pid_t process);

}  // namespace volfs
