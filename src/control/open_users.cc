// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/control/open_users.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <memory>

namespace volfs::control {
namespace {

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, void (*)(DIR*)> directory(opendir(path.c_str()), [](DIR* opened) {
    if (opened) closedir(opened);
  });
  if (!directory) return names;
  while (const dirent* entry = readdir(directory.get()))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  return names;
}

std::string link_target(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof target);
  return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

struct Wanted {
  const std::string& path;
  Below below;
  const std::string& except;
  bool operator()(const std::string& found) const {
    if (found == except) return false;
    if (found == path) return true;
    return below == Below::yes && found.starts_with(path) && found[path.size()] == '/';
  }
};

bool maps(const std::string& process, const Wanted& wanted) {
  std::ifstream lines(process + "/maps");
  for (std::string line; std::getline(lines, line);)
    if (const size_t at = line.find('/'); at != std::string::npos && wanted(line.substr(at)))
      return true;
  return false;
}

bool has_open(const std::string& process, const Wanted& wanted) {
  const std::string folder = process + "/fd/";
  for (const std::string& number : names_in(folder))
    if (wanted(link_target(folder + number))) return true;
  for (const char* directory : {"/cwd", "/root"})
    if (wanted(link_target(process + directory))) return true;
  return maps(process, wanted);
}

}  // namespace

std::vector<OpenUser> open_users(const std::string& path, Below below, const std::string& except) {
  const Wanted wanted{path, below, except};
  std::vector<OpenUser> users;
  for (const std::string& name : names_in("/proc")) {
    const pid_t pid = static_cast<pid_t>(std::strtol(name.c_str(), nullptr, 10));
    const std::string process = "/proc/" + name;
    if (pid > 0 && pid != getpid() && has_open(process, wanted))
      users.push_back({pid, first_line(process + "/comm")});
  }
  for (const std::string& name : names_in("/sys/block"))
    if (name.starts_with("loop") && wanted(first_line("/sys/block/" + name + "/loop/backing_file")))
      users.push_back({0, name});
  std::ranges::sort(users, {}, &OpenUser::pid);
  return users;
}

std::string to_string(const std::vector<OpenUser>& users) {
  std::string all;
  for (const OpenUser& user : users) {
    all += all.empty() ? "" : ", ";
    all += user.pid > 0 ? fmt::format("{} (pid {})", user.command, user.pid) : user.command;
  }
  return all;
}

}  // namespace volfs::control
