// SPDX-License-Identifier: GPL-2.0-or-later
#include "backing/claim.h"

#include <fcntl.h>
#include <linux/magic.h>

#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

#include "volfs/log.h"
#include "volfs/process_name.h"
#include "volfs/sync.h"

namespace volfs {
namespace {

struct Claims {
  Mutex mutex;
  std::map<FileIdentity, std::weak_ptr<Claim>> claims;
};

Claims& claims() {
  static auto* const all = new Claims;  // outlives what is destroyed at exit
  return *all;
}

// A reader locks this byte alone, so that programs which lock bytes of their own (qemu) may read
// together with us; a writer locks them all.
constexpr off_t reader_byte = off_t{1} << 60;

int set_lock(int fd, short type) {
  struct flock range{};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  if (type == F_RDLCK) {
    range.l_start = reader_byte;
    range.l_len = 1;
  }
  return ::fcntl(fd, F_OFD_SETLK, &range) == 0 ? 0 : errno;
}

bool is_busy(int error) {
  return error == EAGAIN || error == EACCES;
}

enum class Holder { none, serving, ending };

// Whether another volfs, of a user into whose processes we may look, has the file open.
Holder holder_of(const FileIdentity& identity) {
  Holder found = Holder::none;
  std::error_code ignored;
  for (const auto& each : std::filesystem::directory_iterator("/proc", ignored)) {
    const pid_t process = std::atoi(each.path().filename().c_str());
    if (process <= 0 || process == getpid()) continue;
    const std::string name = process_name(process);
    // As a helper of mount(8) it is mount.volfs or mount.fuse.volf(s).
    if (name.find("volf") == std::string::npos) continue;
    for (const auto& fd : std::filesystem::directory_iterator(each.path() / "fd", ignored)) {
      if (FileIdentity::at(fd.path().string()) != identity) continue;
      if (name == ending_name) return Holder::ending;
      found = Holder::serving;
    }
  }
  return found;
}

// A volfs that was unmounted still has to write what it holds; then its images are free. One that
// seems to serve may not have noticed yet.
int lock_after_the_end_of_another(int fd, const std::string& path, short type) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return errno;
  const TimePoint begin = now();
  int error = EAGAIN;
  for (bool told = false; is_busy(error);) {
    const Holder holder = holder_of(FileIdentity::of(st));
    const Nanos patience = std::chrono::seconds(holder == Holder::ending    ? 10
                                                : holder == Holder::serving ? 1
                                                                            : 0);
    const bool last = now() - begin >= patience;
    if (now() - begin > std::chrono::seconds(1) && !last && !std::exchange(told, true))
      log_info("{}: waiting for the end of the volfs that had it mounted", path);
    if (!last) sleep_for(std::chrono::milliseconds(50));
    error = set_lock(fd, type);
    if (last) break;
  }
  return error;
}

// Their files say that they are regular, and have no size to hold on to.
bool is_of_the_kernel(const std::string& path) {
  struct statfs fs{};
  if (::statfs(path.c_str(), &fs) != 0) return false;
  const auto type = static_cast<unsigned long>(fs.f_type);
  return type == PROC_SUPER_MAGIC || type == SYSFS_MAGIC || type == DEBUGFS_MAGIC ||
         type == TRACEFS_MAGIC;
}

}  // namespace

Result<struct stat> stat_image(const std::string& path) {
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0) return fail_sys(errno, path);
  if (S_ISDIR(st.st_mode)) return fail_sys(EISDIR, path);
  if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
    return fail_invalid(path + ": neither a regular file nor a block device");
  if (ServedFileSystem::has(FileIdentity::of(st)))
    return fail(Error::make(ELOOP, path + ": a file of this mount itself: expected a file or block "
                                          "device elsewhere"));
  if (S_ISREG(st.st_mode) && is_of_the_kernel(path))
    return fail_invalid(path + ": a file of the kernel's, which holds no disk");
  return st;
}

Status Claim::lock_file(int fd, const std::string& path, bool write) {
  const short type = write ? F_WRLCK : F_RDLCK;
  int error = set_lock(fd, type);
  if (is_busy(error)) error = lock_after_the_end_of_another(fd, path, type);
  if (error == 0) return {};
  if (is_busy(error))
    return fail(Error::make(EBUSY, path + (write ? ": in use by another program"
                                                 : ": another program is writing to it")));
  if (error == ENOLCK || error == EINVAL || error == EOPNOTSUPP || error == ENOSYS) {
    log_warning(
        "{}: its file system has no locks: nothing keeps another program from writing to it", path);
    return {};
  }
  return fail_sys(error, path + ": lock");
}

Result<std::shared_ptr<Claim>> Claim::take(const std::string& path, bool write, bool lock) {
  VOLFS_TRY_ASSIGN(const struct stat st, stat_image(path));
  Claims& all = claims();
  const std::lock_guard guard(all.mutex);
  const FileIdentity identity = FileIdentity::of(st);
  std::shared_ptr<Claim> claim = all.claims[identity].lock();
  if (claim && (claim->write_ || !write)) return claim;

  // The kernel gives a block device that is open with O_EXCL to nobody else, mount(2) included.
  const int exclusive = write && S_ISBLK(st.st_mode) ? O_EXCL : 0;
  UniqueFd fd(::open(path.c_str(), (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | exclusive));
  if (!fd) {
    if (errno == EBUSY)
      return fail(Error::make(EBUSY, path + ": in use: mounted, or held by another program"));
    return fail_sys(errno, path + (write ? ": open for writing" : ""));
  }
  struct stat now{};
  if (::fstat(fd.get(), &now) != 0) return fail_sys(errno, path);
  if (FileIdentity::of(now) != identity)
    return fail(Error::make(ESTALE, path + ": was replaced while it was opened"));

  // Our own lock for reading would be in the way of that for writing.
  if (claim) set_lock(claim->fd_.get(), F_UNLCK);
  if (auto locked = lock ? lock_file(fd.get(), path, write) : Status(); !locked) {
    if (claim) set_lock(claim->fd_.get(), F_RDLCK);
    return fail(std::move(locked.error()));
  }
  if (!claim) all.claims[identity] = claim = std::make_shared<Claim>();
  claim->fd_ = std::move(fd);
  claim->write_ = write;
  std::erase_if(all.claims, [](const auto& entry) { return entry.second.expired(); });
  return claim;
}

}  // namespace volfs
