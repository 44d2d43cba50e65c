// SPDX-License-Identifier: GPL-2.0-or-later
#include "backing/image_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <map>
#include <mutex>
#include <tuple>

#include "backing/aligned_buffer.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs {
namespace {

struct OpenFiles {
  Mutex mutex;
  std::map<std::tuple<FileIdentity, bool, bool>, std::weak_ptr<ImageFile>> files;

  std::shared_ptr<ImageFile> find(const FileIdentity& identity, bool write, bool direct) const {
    const auto there = files.find({identity, write, direct});
    return there == files.end() ? nullptr : there->second.lock();
  }
  // The mode that a file is used in, DIRECT being wished for. Pages of the cache and O_DIRECT do
  // not know of each other's writes in time, and two ranges of a file may share a page: all images
  // of a file go one way.
  Result<bool> one_mode(const FileIdentity& identity, bool direct, const std::string& path) const {
    const bool other = find(identity, true, !direct) || find(identity, false, !direct);
    if (!other) return direct;
    if (!direct)
      return fail_invalid(path +
                          ": another image of this file is used with O_DIRECT and this one "
                          "cannot be: expected all images of a file with it, or none");
    log_warning("{}: another image of this file is used without O_DIRECT: this one is, too", path);
    return false;
  }
};

OpenFiles& open_files() {
  static auto* const all = new OpenFiles;
  return *all;
}

off_t file_offset(uint64_t offset) {
  return static_cast<off_t>(offset);
}

// A write past RLIMIT_FSIZE shall fail, not kill us. Only if nobody cares for the signal.
bool ignore_file_size_signal() {
  struct sigaction action{};
  if (::sigaction(SIGXFSZ, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return false;
  action.sa_handler = SIG_IGN;
  return ::sigaction(SIGXFSZ, &action, nullptr) == 0;
}

uint64_t sysfs_number(const struct stat& st, const char* what) {
  const std::string path =
      fmt::format("/sys/dev/block/{}:{}/queue/{}", major(st.st_rdev), minor(st.st_rdev), what);
  std::string at = path;
  UniqueFd fd(::open(at.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {  // a partition: its queue is that of the disk above it
    at =
        fmt::format("/sys/dev/block/{}:{}/../queue/{}", major(st.st_rdev), minor(st.st_rdev), what);
    fd = UniqueFd(::open(at.c_str(), O_RDONLY | O_CLOEXEC));
  }
  std::array<char, 32> text{};
  if (!fd || ::read(fd.get(), text.data(), text.size() - 1) <= 0) return 0;
  return std::strtoull(text.data(), nullptr, 10);
}

// O_DIRECT on a file system that is memory itself gains nothing and cannot be queued.
bool in_memory(int fd) {
  struct statfs fs{};
  if (::fstatfs(fd, &fs) != 0) return false;
  const auto type = static_cast<unsigned long>(fs.f_type);
  return type == TMPFS_MAGIC || type == RAMFS_MAGIC;
}

bool unsupported(int error) {
  return error == EOPNOTSUPP || error == ENOSYS;
}

}  // namespace

Result<std::shared_ptr<ImageFile>> ImageFile::open(const std::string& path, bool write, bool direct,
                                                   bool lock) {
  [[maybe_unused]] static const bool once = ignore_file_size_signal();
  VOLFS_TRY_ASSIGN(auto claim, Claim::take(path, write, lock));
  struct stat st{};
  if (::fstat(claim->fd(), &st) != 0) return fail_sys(errno, path);
  if (direct && S_ISREG(st.st_mode) && in_memory(claim->fd())) {
    log_info("{}: its file system is in memory: it is used without O_DIRECT", path);
    direct = false;
  }
  const FileIdentity identity = FileIdentity::of(st);
  OpenFiles& all = open_files();
  const std::lock_guard guard(all.mutex);
  VOLFS_TRY_ASSIGN(direct, all.one_mode(identity, direct, path));
  for (const bool writable : {true, write})
    if (auto there = all.find(identity, writable, direct)) return there;

  // By way of the claim's descriptor, so that it is the same file whatever became of the path.
  const std::string same = fmt::format("/proc/self/fd/{}", claim->fd());
  const int flags = (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
  UniqueFd fd(::open(same.c_str(), flags | (direct ? O_DIRECT : 0)));
  if (!fd && direct && errno == EINVAL) {
    log_warning("{}: its file system has no O_DIRECT: it is used without", path);
    direct = false;
    fd = UniqueFd(::open(same.c_str(), flags));
  }
  if (!fd) return fail_sys(errno, path + ": open");
  std::shared_ptr<ImageFile> file(new ImageFile);
  file->path_ = path;
  file->identity_ = identity;
  file->fd_ = std::move(fd);
  file->claim_ = std::move(claim);
  file->write_ = write;
  file->direct_ = direct;
  VOLFS_TRY(file->find_limits(path, st));
  all.files[{identity, write, direct}] = file;
  std::erase_if(all.files, [](const auto& entry) { return entry.second.expired(); });
  return file;
}

Status ImageFile::find_limits(const std::string& path, const struct stat& st) {
  block_device_ = S_ISBLK(st.st_mode);
  can_try_ = !direct_;
  if (block_device_) {
    VOLFS_TRY(find_block_device(path, st));
  } else {
    size_ = round_down(static_cast<uint64_t>(st.st_size), sector_size);
    // A smaller write makes the page cache read the rest of the page first.
    limits_.physical_block = limits_.io_min = 4096;
    limits_.discard_granularity = static_cast<uint32_t>(std::max<blksize_t>(st.st_blksize, 512));
    probe_discard(st);
  }
  if (direct_) {
    find_direct_alignment();
    limits_.physical_block = std::max(limits_.physical_block, limits_.logical_block);
    limits_.io_min = std::max(limits_.io_min, limits_.logical_block);
  }
  return {};
}

Status ImageFile::find_block_device(const std::string& path, const struct stat& st) {
  uint64_t size = 0;
  int logical = 512;
  unsigned physical = 512, least = 0, best = 0;
  if (::ioctl(fd_.get(), BLKGETSIZE64, &size) != 0) return fail_sys(errno, path + ": BLKGETSIZE64");
  if (::ioctl(fd_.get(), BLKSSZGET, &logical) != 0 || logical < 512 ||
      !is_power_of_two(static_cast<unsigned>(logical)))
    logical = 512;
  if (::ioctl(fd_.get(), BLKPBSZGET, &physical) != 0) physical = 512;
  if (::ioctl(fd_.get(), BLKIOMIN, &least) != 0) least = 0;
  if (::ioctl(fd_.get(), BLKIOOPT, &best) != 0) best = 0;
  size_ = round_down(size, static_cast<unsigned>(logical));
  limits_.logical_block = static_cast<uint32_t>(logical);
  limits_.physical_block = std::max(physical, limits_.logical_block);
  limits_.io_min = std::max(least, limits_.physical_block);
  limits_.io_opt = best;
  limits_.discard_granularity = static_cast<uint32_t>(sysfs_number(st, "discard_granularity"));
  return {};
}

// Whether the file system can punch holes: tried past the end, where there is nothing to lose.
void ImageFile::probe_discard(const struct stat& st) {
  if (!write_) return;
  struct stat before{};
  const bool known = ::fstat(fd_.get(), &before) == 0;
  const off_t past = file_offset(round_up(static_cast<uint64_t>(st.st_size), 4096));
  if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, past, 4096) != 0 &&
      unsupported(errno))
    limits_.discard_granularity = 0;
  // Nothing was written: who tells by the time whether the file changed is to be told so.
  const std::array times{timespec{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, before.st_mtim};
  if (known) (void)::futimens(fd_.get(), times.data());
}

void ImageFile::find_direct_alignment() {
  memory_align_ = std::max(memory_align_, limits_.logical_block);
#ifdef STATX_DIOALIGN
  struct statx stx{};
  if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
      (stx.stx_mask & STATX_DIOALIGN) != 0 && is_power_of_two(stx.stx_dio_mem_align) &&
      is_power_of_two(stx.stx_dio_offset_align)) {
    memory_align_ = stx.stx_dio_mem_align;
    limits_.logical_block = std::max({limits_.logical_block, stx.stx_dio_offset_align, 512U});
    return;
  }
#endif
  if (block_device_) return;
  // Not told: try the smallest, then what every file system takes.
  AlignedBuffer buffer;
  if (size_ >= 1024 && ::pread(fd_.get(), buffer.get(512).data(), 512, 512) < 0 && errno == EINVAL)
    memory_align_ = limits_.logical_block = 4096;
}

bool ImageFile::memory_fits(IoSpan iov) const {
  uintptr_t bits = 0, lengths = 0;
  for (const iovec& piece : iov) {
    if (piece.iov_len == 0) continue;
    bits |= reinterpret_cast<uintptr_t>(piece.iov_base);
    lengths |= piece.iov_len;
  }
  return (bits & (memory_align_ - 1)) == 0 && (lengths & (limits_.logical_block - 1)) == 0;
}

Error ImageFile::ended() const {
  struct stat st{};
  if (::fstat(fd_.get(), &st) != 0) return Error::sys(errno, "fstat");
  return Error::make(EIO, fmt::format("image ended at {}", st.st_size));
}

Status ImageFile::check_end(uint64_t end) const {
  if (block_device_) return {};
  struct stat st{};
  if (::fstat(fd_.get(), &st) != 0) return fail_sys(errno, "fstat");
  if (st.st_nlink == 0 && !removal_told_.exchange(true))
    log_warning("{}: the file was removed; what is written to it is lost when it is closed", path_);
  if (static_cast<uint64_t>(st.st_size) < end) return fail(ended());
  return {};
}

// Calls CALL(iov, count, offset) -> bytes or -1 until all is moved. The list as it is first; what
// a short transfer left over, or a list beyond IOV_MAX, by pieces.
template <class Call>
Status ImageFile::move(uint64_t offset, IoSpan iov, Call call) {
  const uint64_t total = total_length(iov);
  uint64_t moved = 0;
  std::array<iovec, 128> part;
  while (moved < total) {
    IoSpan now = iov;
    if (moved > 0 || iov.size() > IOV_MAX) {
      size_t count = 0;
      SliceCursor cursor(iov);
      cursor.skip(moved);
      while (count < part.size()) {
        part[count] = cursor.next(total);
        if (part[count].iov_len == 0) break;
        ++count;
      }
      now = {part.data(), count};
    }
    const ssize_t done =
        call(now.data(), static_cast<int>(now.size()), file_offset(offset + moved));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return fail_sys(errno, "");
    if (done == 0) return fail(ended());
    moved += static_cast<uint64_t>(done);
  }
  return {};
}

// As move, through aligned memory of the thread's own.
template <class Call>
Status ImageFile::bounce(uint64_t offset, IoSpan iov, bool in, Call call) {
  thread_local AlignedBuffer buffer;
  const uint64_t total = total_length(iov);
  for (uint64_t at = 0; at < total;) {
    const uint64_t part = std::min<uint64_t>(total - at, AlignedBuffer::piece);
    const std::span<std::byte> memory = buffer.get(part).first(part);
    if (!in) copy_from_slices(iov, at, memory);
    VOLFS_TRY(move(offset + at, OneSlice(memory), call));
    if (in) copy_to_slices(iov, at, memory);
    at += part;
  }
  return {};
}

Status ImageFile::read(uint64_t offset, IoSpan iov) {
  const auto call = [this](const iovec* list, int count, off_t at) {
    return ::preadv(fd_.get(), list, count, at);
  };
  if (direct_ && !memory_fits(iov)) return bounce(offset, iov, true, call);
  return move(offset, iov, call);
}

bool ImageFile::read_cached(uint64_t offset, IoSpan iov) {
  if (!can_try() || iov.size() > IOV_MAX) return false;
  const ssize_t done = ::preadv2(fd_.get(), iov.data(), static_cast<int>(iov.size()),
                                 file_offset(offset), RWF_NOWAIT);
  if (done < 0 && unsupported(errno)) can_try_.store(false, std::memory_order_relaxed);
  return done >= 0 && static_cast<uint64_t>(done) == total_length(iov);
}

Status ImageFile::write(uint64_t offset, IoSpan iov, Fua fua) {
  VOLFS_TRY(check_end(offset + total_length(iov)));
  const bool cached_fua = fua == Fua::yes && !direct_;
  // Kept out of the way of the plain write: an empty range conflicts with nothing, but costs.
  std::optional<RangeLock::Guard> syncing;
  if (cached_fua) syncing.emplace(fua_, 0, 1, RangeLock::Mode::shared);
  const auto call = [this, fua](const iovec* list, int count, off_t at) {
    return fua == Fua::yes ? ::pwritev2(fd_.get(), list, count, at, RWF_DSYNC)
                           : ::pwritev(fd_.get(), list, count, at);
  };
  Status status =
      direct_ && !memory_fits(iov) ? bounce(offset, iov, false, call) : move(offset, iov, call);
  if (status || fua == Fua::no) return status;
  if (cached_fua && status.error().code() == EIO) sync_failed(EIO);
  if (!unsupported(status.error().code())) return status;
  syncing.reset();
  VOLFS_TRY(write(offset, iov, Fua::no));
  return flush();
}

void ImageFile::sync_failed(int error) {
  int none = 0;
  if (sync_error_.compare_exchange_strong(none, error))
    log_error(
        "{}: writing to stable storage failed: {}; nothing that was not flushed before "
        "can be relied on, and every flush fails until it is opened again",
        path_, Error::sys(error, "").text());
}

Status ImageFile::sync_state() const {
  if (const int error = sync_error_.load()) return fail_sys(error, "");
  return {};
}

// One fdatasync for all who wait. The lock is held at entry and return, not meanwhile.
void ImageFile::flush_once(std::unique_lock<Mutex>& lock) {
  flushing_ = true;
  const uint64_t mine = ++flushes_begun_;
  lock.unlock();
  int error = 0;
  while (::fdatasync(fd_.get()) != 0) {
    error = errno;
    if (error != EINTR) break;
    error = 0;
  }
  if (error != 0) sync_failed(error);
  if (!direct_) const RangeLock::Guard after_all_fua_writes(fua_, 0, 1);
  lock.lock();
  flushing_ = false;
  flushes_done_ = mine;
  flush_changed_.notify_all();
}

Status ImageFile::flush() {
  if (!write_) return {};
  std::unique_lock lock(flush_mutex_);
  const uint64_t wanted = flushes_begun_ + 1;
  while (flushes_done_ < wanted) {
    if (flushing_)
      flush_changed_.wait(flush_mutex_);
    else
      flush_once(lock);
  }
  return sync_state();
}

Status ImageFile::discard(uint64_t offset, uint64_t length) {
  if (limits_.discard_granularity == 0) return fail_sys(EOPNOTSUPP, "");
  if (block_device_) {
    uint64_t range[2] = {offset, length};
    if (::ioctl(fd_.get(), BLKDISCARD, range) != 0) return fail_sys(errno, "");
    return {};
  }
  VOLFS_TRY(check_end(offset + length));
  while (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, file_offset(offset),
                     file_offset(length)) != 0)
    if (errno != EINTR) return fail_sys(errno, "");
  return {};
}

Status ImageFile::write_zero_pages(uint64_t offset, uint64_t length) {
  alignas(4096) static std::byte zeros[64 * 1024];
  std::array<iovec, 16> list;
  while (length > 0) {
    size_t count = 0;
    uint64_t sum = 0;
    while (sum < length && count < list.size()) {
      list[count] = {zeros, std::min<uint64_t>(length - sum, sizeof zeros)};
      sum += list[count++].iov_len;
    }
    VOLFS_TRY(write(offset, {list.data(), count}, Fua::no));
    offset += sum;
    length -= sum;
  }
  return {};
}

Status ImageFile::write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  VOLFS_TRY(check_end(offset + length));
  // Both work on block devices, too: the kernel uses what the disk offers, and the second one
  // writes zeros if there is nothing.
  for (const int mode : {FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE}) {
    if (mode == FALLOC_FL_PUNCH_HOLE && unmap == Unmap::no) continue;
    while (::fallocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, file_offset(offset),
                       file_offset(length)) != 0) {
      if (errno == EINTR) continue;
      if (unsupported(errno)) goto next;
      return fail_sys(errno, "");
    }
    return {};
  next:;
  }
  return write_zero_pages(offset, length);
}

Result<Allocation> ImageFile::allocation(uint64_t offset, uint64_t length) {
  VOLFS_TRY(check_end(offset + length));
  const off_t data = ::lseek(fd_.get(), file_offset(offset), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return Allocation{.data = false, .length = length};
  if (data < 0) return Allocation{.data = true, .length = length};
  // Whole blocks only: one that holds some data is data.
  const uint64_t first = round_down(static_cast<uint64_t>(data), limits_.logical_block);
  if (first > offset) return Allocation{.data = false, .length = first - offset};
  const off_t hole = ::lseek(fd_.get(), file_offset(offset), SEEK_HOLE);
  if (hole < 0) return Allocation{.data = true, .length = length};
  const uint64_t end = round_up(static_cast<uint64_t>(hole), limits_.logical_block);
  return Allocation{
      .data = true,
      .length = std::max<uint64_t>(end - std::min(end, offset), limits_.logical_block)};
}

}  // namespace volfs
