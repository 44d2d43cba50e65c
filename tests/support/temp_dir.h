// SPDX-License-Identifier: GPL-2.0-or-later
// A directory of a test's own that is gone with it. It is made where TMPDIR says, or in /var/tmp:
// there a file system is on a disk, mostly, which O_DIRECT and io_uring need.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace volfs::test {

class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string path(const std::string& name) const { return (path_ / name).string(); }
  // Makes a sparse file; its path.
  std::string file(const std::string& name, uint64_t size) const;

 private:
  std::filesystem::path path_;
};

}  // namespace volfs::test
