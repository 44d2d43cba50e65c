// SPDX-License-Identifier: GPL-2.0-or-later
// Which file it is, under whatever path: a symbolic link, a hard link or a bind mount is no other
// file, and two nodes of one block device are one device.
#pragma once

#include <sys/stat.h>

#include <compare>
#include <optional>
#include <string>

namespace volfs {

struct FileIdentity {
  dev_t device = 0;  // of a block device: 0
  ino_t inode = 0;   // of a block device: its number
  static FileIdentity of(const struct stat& st);
  // Of what PATH names, links followed; nothing if it cannot be looked at.
  static std::optional<FileIdentity> at(const std::string& path);
  // Of the file that a loop device, or a partition of one, shows; nothing of what is none.
  static std::optional<FileIdentity> behind_loop(const std::string& path);
  auto operator<=>(const FileIdentity&) const = default;
};

// While one lives, files of the file system DEVICE are no images: this process serves them, and
// would wait for itself. Any thread.
class ServedFileSystem {
 public:
  explicit ServedFileSystem(dev_t device);
  ~ServedFileSystem();
  ServedFileSystem(const ServedFileSystem&) = delete;
  ServedFileSystem& operator=(const ServedFileSystem&) = delete;

  static bool has(const FileIdentity& file);

 private:
  const dev_t device_;
};

}  // namespace volfs
