// SPDX-License-Identifier: GPL-2.0-or-later
// Which programs have a file of the mount open, as far as /proc shows it.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace volfs::control {

struct OpenUser {
  pid_t pid = 0;        // 0: the kernel, as for a loop device
  std::string command;  // its name; of a loop device: "loop0"
};

enum class Below : bool { no, yes };

// Those that have the file PATH open or mapped, or a loop device on it, in the order of their
// numbers; with Below::yes those that have anything in the directory PATH open or work there. Other
// users' programs are seen only by root; nothing waits for the mount itself. The file EXCEPT does
// not count.
std::vector<OpenUser> open_users(const std::string& path, Below below = Below::no,
                                 const std::string& except = {});

// "fio (pid 4711), loop0"; empty if nobody was found.
std::string to_string(const std::vector<OpenUser>& users);

}  // namespace volfs::control
