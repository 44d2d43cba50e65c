// SPDX-License-Identifier: GPL-2.0-or-later
// One open file description of an image file or block device, shared by all FileImages of it
// that want the same way in (writing or not, O_DIRECT or not). Offsets count from the start of
// the file. Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "backing/claim.h"
#include "volfs/block_device.h"
#include "volfs/range_lock.h"
#include "volfs/sync.h"
#include "volfs/unique_fd.h"

namespace volfs {

class ImageFile {
 public:
  // The one there is, or a new one. DIRECT is a wish: see direct().
  static Result<std::shared_ptr<ImageFile>> open(const std::string& path, bool write, bool direct,
                                                 bool lock);

  int fd() const { return fd_.get(); }
  int table_fd() const { return claim_->fd(); }
  bool direct() const { return direct_; }
  uint64_t size() const { return size_; }
  const Limits& limits() const { return limits_; }
  // Whether O_DIRECT takes this memory as it is.
  bool memory_fits(IoSpan iov) const;
  // Whether reads of this file can be tried without waiting.
  bool can_try() const { return can_try_.load(std::memory_order_relaxed); }

  Status read(uint64_t offset, IoSpan iov);
  bool read_cached(uint64_t offset, IoSpan iov);
  Status write(uint64_t offset, IoSpan iov, Fua fua);
  Status discard(uint64_t offset, uint64_t length);
  Status write_zeroes(uint64_t offset, uint64_t length, Unmap unmap);
  Result<Allocation> allocation(uint64_t offset, uint64_t length);
  Status flush();

  const FileIdentity& identity() const { return identity_; }
  // For a ring that did the system call itself. EIO if the file has become shorter than END.
  Status check_end(uint64_t end) const;
  // Notes a failed fdatasync; the file's sticky state.
  void sync_failed(int error);
  Status sync_state() const;

 private:
  ImageFile() = default;
  Status find_limits(const std::string& path, const struct stat& st);
  void find_direct_alignment();
  Status find_block_device(const std::string& path, const struct stat& st);
  void probe_discard(const struct stat& st);
  Error ended() const;
  void flush_once(std::unique_lock<Mutex>& lock);
  Status write_zero_pages(uint64_t offset, uint64_t length);
  template <class Call>
  Status move(uint64_t offset, IoSpan iov, Call call);
  template <class Call>
  Status bounce(uint64_t offset, IoSpan iov, bool in, Call call);

  std::string path_;  // as it was opened first; for messages
  FileIdentity identity_;
  UniqueFd fd_;
  std::shared_ptr<Claim> claim_;
  bool write_ = false, direct_ = false, block_device_ = false;
  uint64_t size_ = 0;
  Limits limits_;
  uint32_t memory_align_ = 512;
  std::atomic<bool> can_try_{false};
  mutable std::atomic<bool> removal_told_{false};

  Mutex flush_mutex_;  // guards the next four
  CondVar flush_changed_;
  uint64_t flushes_begun_ = 0, flushes_done_ = 0;
  bool flushing_ = false;
  std::atomic<int> sync_error_{0};
  // FUA writes on the page cache hold it shared; a flush waits for those before it answers,
  // because the kernel tells a failed write-back to only one of all who sync a file.
  RangeLock fua_;
};

}  // namespace volfs
