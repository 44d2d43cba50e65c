// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>

#include "volfs/backing/image.h"
#include "volfs/unique_fd.h"
#include "volfs/units.h"

namespace volfs {
namespace {

Status check_image_size(const std::string& path, uint64_t size) {
  if (size == 0 || size % sector_size != 0 || size > max_device_size)
    return fail_invalid(
        fmt::format("{}: size {}: expected a multiple of 512 bytes, not 0", path, size));
  return {};
}

}  // namespace

Status create_image(const std::string& path, uint64_t size) {
  VOLFS_TRY(check_image_size(path, size));
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return fail_sys(errno, path + ": create");
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return fail_sys(error, fmt::format("{}: create with {}", path, format_size(size)));
  }
  return {};
}

Status size_empty_image(const std::string& path, uint64_t size) {
  VOLFS_TRY(check_image_size(path, size));
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return fail_sys(errno, path);
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return fail_sys(errno, path);
  if (!S_ISREG(status.st_mode) || status.st_size != 0)
    return fail(Error::make(EEXIST, path + ": expected an empty file"));
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    return fail_sys(errno, fmt::format("{}: extend to {}", path, format_size(size)));
  return {};
}

}  // namespace volfs
