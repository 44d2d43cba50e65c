// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/process_name.h"

#include <fstream>

namespace volfs {

void name_process(const char* name) {
  std::ofstream("/proc/self/comm") << name;
}

std::string process_name(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace volfs
