// SPDX-License-Identifier: GPL-2.0-or-later
#include "small_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "volfs/unique_fd.h"

namespace volfs::engine {

Status sync_directory_of(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const UniqueFd file(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file) return fail_sys(errno, directory);
  if (::fsync(file.get()) != 0 && errno != EINVAL) return fail_sys(errno, directory + ": fsync");
  return {};
}

Status replace_file(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  {
    const UniqueFd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file) return fail_sys(errno, fresh);
    for (size_t done = 0; done < text.size();) {
      const ssize_t n = ::write(file.get(), text.data() + done, text.size() - done);
      if (n < 0) return fail_sys(errno, fresh);
      done += static_cast<size_t>(n);
    }
    if (::fsync(file.get()) != 0) return fail_sys(errno, fresh + ": fsync");
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) return fail_sys(errno, path);
  return sync_directory_of(path);
}

Result<std::string> read_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return fail_sys(errno, path);
  std::string text;
  std::array<char, 65536> piece{};
  ssize_t n = 0;
  while ((n = ::read(file.get(), piece.data(), piece.size())) > 0)
    text.append(piece.data(), static_cast<size_t>(n));
  if (n < 0) return fail_sys(errno, path);
  return text;
}

Status remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_sys(errno, path);
  return sync_directory_of(path);
}

}  // namespace volfs::engine
