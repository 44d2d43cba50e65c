// SPDX-License-Identifier: GPL-2.0-or-later
#include "mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fuse_log.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>

#include "volfs/log.h"

namespace volfs::fuse {
namespace {

thread_local FuseMessages* collector = nullptr;

std::string contents(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

// Backslash and comma separate options for libfuse; a line break would break /proc/mounts.
std::string escaped(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == ',' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

// mountinfo writes blanks and the like as \ooo.
std::string unescaped(std::string_view field) {
  std::string out;
  for (size_t i = 0; i < field.size(); ++i) {
    const std::string digits(field.substr(i + 1, 3));
    if (field[i] == '\\' && digits.size() == 3) {
      out += static_cast<char>(std::strtol(digits.c_str(), nullptr, 8));
      i += 3;
    } else {
      out += field[i];
    }
  }
  return out;
}

bool has_fusermount() {
  const char* path = std::getenv("PATH");
  std::istringstream directories(path ? path : "");
  for (std::string each; std::getline(directories, each, ':');)
    if (access((each + "/fusermount3").c_str(), X_OK) == 0) return true;
  return access("/usr/bin/fusermount3", X_OK) == 0 || access("/bin/fusermount3", X_OK) == 0;
}

bool asks_for_others(const Options& options) {
  for (const std::string& each : options.options)
    if (each == "allow_other" || each == "allow_root") return true;
  return false;
}

Status check_machine(const Options& options) {
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENODEV || error == ENXIO)
      return fail(Error::make(error,
                              "/dev/fuse is missing: this machine or container has no FUSE (load "
                              "the module fuse, or give the container --device /dev/fuse)"));
    return fail_sys(error, "/dev/fuse");
  }
  close(fd);
  if (geteuid() == 0) return {};
  if (!has_fusermount())
    return fail(Error::make(ENOENT,
                            "fusermount3 is missing, without which only root can mount: install "
                            "the package fuse3"));
  if (asks_for_others(options) && !conf_allows_other(contents("/etc/fuse.conf")))
    return fail(Error::make(EPERM,
                            "allow_other and allow_root need a line user_allow_other in "
                            "/etc/fuse.conf"));
  return {};
}

}  // namespace

bool conf_allows_other(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t begin = line.find_first_not_of(" \t");
    if (begin == std::string::npos) continue;
    const size_t end = line.find_last_not_of(" \t\r");
    if (line.substr(begin, end - begin + 1) == "user_allow_other") return true;
  }
  return false;
}

bool is_mounted(const std::string& mountinfo, const std::string& path, const std::string& type) {
  // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE SUPEROPTIONS
  bool found = false;
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string skip, at, word;
    if (!(fields >> skip >> skip >> skip >> skip >> at)) continue;
    if (unescaped(at) != path) continue;
    while (fields >> word && word != "-") continue;
    // The last one on a path is the one that is seen.
    if (fields >> word) found = word == type;
  }
  return found;
}

MountIdentity mount_at(const std::string& path) {
  struct statx status{};
  if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_MNT_ID, &status) !=
      0)
    return {};
  return {(status.stx_mask & STATX_MNT_ID) != 0 ? status.stx_mnt_id : 0,
          makedev(status.stx_dev_major, status.stx_dev_minor)};
}

std::string place_of(const std::string& mountinfo, const MountIdentity& mount) {
  const std::string number = fmt::format("{}:{}", major(mount.device), minor(mount.device));
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    uint64_t id = 0;
    std::string parent, device, root, at;
    if (!(fields >> id >> parent >> device >> root >> at) || device != number) continue;
    if (mount.id == 0 || mount.id == id) return unescaped(at);
  }
  return {};
}

std::string mountinfo() {
  return contents("/proc/self/mountinfo");
}

Result<std::string> check_mount_point(const Options& options) {
  const std::string& given = options.mountpoint;
  struct stat status{};
  struct statfs asked{};
  // The kernel answers stat from memory for a while when the server is dead; statfs it must ask.
  int error = stat(given.c_str(), &status) != 0 ? errno : 0;
  // Whoever asks while the connection is being taken down is told ECONNABORTED.
  if (error == 0 && statfs(given.c_str(), &asked) != 0 &&
      (errno == ENOTCONN || errno == ECONNABORTED))
    error = ENOTCONN;
  if (error == ECONNABORTED) error = ENOTCONN;
  if (error != 0) {
    if (error == ENOTCONN)
      return fail(Error::make(
          error,
          fmt::format("{}: the mount of a server that died is still here (Transport endpoint "
                      "is not connected): run `volfs umount {}` first",
                      given, given)));
    return fail(Error::sys(error, "mount point").in(given));
  }
  if (!S_ISDIR(status.st_mode)) return fail(Error::sys(ENOTDIR, "mount point").in(given));
  char* const resolved = realpath(given.c_str(), nullptr);
  if (!resolved) return fail(Error::sys(errno, "mount point").in(given));
  std::string path = resolved;
  std::free(resolved);
  if (is_mounted(mountinfo(), path, "fuse.volfs"))
    return fail(Error::make(EBUSY, fmt::format("{}: volfs is already mounted here", given)));
  if (geteuid() != 0 && access(path.c_str(), W_OK) != 0)
    return fail(Error::make(
        EACCES, fmt::format("{}: a mount point must be writable for the user who mounts", given)));
  VOLFS_TRY(in(given, check_machine(options)));
  return path;
}

std::string mount_options(const Options& options) {
  std::string all = "fsname=" + escaped(options.source) + ",subtype=volfs,default_permissions";
  for (const std::string& each : options.options) {
    if (each == "ro" || each == "rw" || each == "default_permissions" || each.empty()) continue;
    all += ',' + each;
  }
  return all;
}

struct FuseLog {
  static void log(fuse_log_level level, const char* format, va_list arguments)
      __attribute__((format(printf, 2, 0))) {
    char text[1024];
    const int length = std::vsnprintf(text, sizeof text, format, arguments);
    if (length < 0) return;
    std::string_view message(text, std::min<size_t>(length, sizeof text - 1));
    while (!message.empty() && (message.back() == '\n' || message.back() == '.'))
      message.remove_suffix(1);
    if (message.starts_with("fuse: ")) message.remove_prefix(6);
    if (collector && level <= FUSE_LOG_ERR) {
      if (!collector->text_.empty()) collector->text_ += "; ";
      collector->text_ += message;
      return;
    }
    if (level <= FUSE_LOG_ERR)
      log_error("fuse: {}", message);
    else if (level <= FUSE_LOG_NOTICE)
      log_warning("fuse: {}", message);
    else
      log_debug("fuse: {}", message);
  }
};

FuseMessages::FuseMessages() {
  collector = this;
  fuse_set_log_func(FuseLog::log);
}
FuseMessages::~FuseMessages() {
  collector = nullptr;
}

}  // namespace volfs::fuse
