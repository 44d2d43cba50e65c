// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/backing/file_identity.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "volfs/sync.h"
#include "volfs/unique_fd.h"

namespace volfs {
namespace {

struct Served {
  Mutex mutex;
  std::vector<dev_t> devices;
};

Served& served() {
  static auto* const all = new Served;  // outlives what is destroyed at exit
  return *all;
}

}  // namespace

ServedFileSystem::ServedFileSystem(dev_t device) : device_(device) {
  const std::lock_guard lock(served().mutex);
  served().devices.push_back(device);
}

ServedFileSystem::~ServedFileSystem() {
  const std::lock_guard lock(served().mutex);
  std::erase(served().devices, device_);
}

bool ServedFileSystem::has(const FileIdentity& file) {
  const std::lock_guard lock(served().mutex);
  return file.device != 0 &&
         std::ranges::find(served().devices, file.device) != served().devices.end();
}

FileIdentity FileIdentity::of(const struct stat& st) {
  if (S_ISBLK(st.st_mode)) return {0, static_cast<ino_t>(st.st_rdev)};
  return {st.st_dev, st.st_ino};
}

std::optional<FileIdentity> FileIdentity::at(const std::string& path) {
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0) return std::nullopt;
  return of(st);
}

// The kernel tells the file's device in the layout of its 32-bit numbers.
std::optional<FileIdentity> FileIdentity::behind_loop(const std::string& path) {
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0 || !S_ISBLK(st.st_mode)) return std::nullopt;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  loop_info64 info{};
  if (!fd || ::ioctl(fd.get(), LOOP_GET_STATUS64, &info) != 0) return std::nullopt;
  const auto number = static_cast<unsigned>(info.lo_device);
  return FileIdentity{
      makedev((number & 0xfff00) >> 8, (number & 0xff) | ((number >> 12) & 0xfff00)),
      static_cast<ino_t>(info.lo_inode)};
}

}  // namespace volfs
