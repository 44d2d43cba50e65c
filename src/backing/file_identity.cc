// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/backing/file_identity.h"

namespace volfs {

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
