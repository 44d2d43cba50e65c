// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>

#include "volfs/backing/image.h"
#include "volfs/unique_fd.h"
#include "volfs/units.h"

namespace volfs {

Status create_image(const std::string& path, uint64_t size) {
  if (size == 0 || size % sector_size != 0 || size > max_device_size)
    return fail_invalid(
        fmt::format("{}: size {}: expected a multiple of 512 bytes, not 0", path, size));
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) return fail_sys(errno, path + ": create");
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    return fail_sys(error, fmt::format("{}: create with {}", path, format_size(size)));
  }
  return {};
}

}  // namespace volfs
