// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/backing/file_identity.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "volfs/sync.h"

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

}  // namespace volfs
