// SPDX-License-Identifier: GPL-2.0-or-later
// Images: files and block devices as block devices. Whole, one partition of them, or a range.
//
// Sharing. Images of one file (two partitions, say) share one open file description, found by
// the file's identity, not its path; so do their flushes. Any number of read-write images of a
// file may be open in one process: that their ranges do not overlap is for the caller to see to.
// Between processes a file has one writer or many readers: a writer locks the whole file (OFD
// lock; the running guest of a qemu conflicts with it, too), a reader one byte of it; a block
// device is opened with O_EXCL for writing. A file system without locks is used with a warning.
//
// Errors. ENOSPC, EIO and their like are errors of the operation that met them. A file that was
// cut off under us fails reads and writes past its end (EIO, "image ended at N"); it is not made
// longer again.
//
// Durability. flush() is fdatasync, shared by all who call while one runs. A failed fdatasync is
// told to everybody who waits and to every flush of that file from then on, until all images of
// it are closed: Linux marks pages clean that could not be written, and the next fdatasync would
// lie. A FUA write is RWF_DSYNC; on a buffered image its EIO has the same consequence.
//
// Alignment. With `direct`, logical_block() is what O_DIRECT needs; memory may be aligned as it
// likes, misaligned memory costs a copy. Where O_DIRECT cannot be had (tmpfs, a size or offset
// that is no multiple of the block) the image is buffered, and a message says so. All images of a
// file go one way: beside a buffered one another is buffered, too, with a message; beside one with
// O_DIRECT a buffered one is refused (EINVAL).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "volfs/block_device.h"
#include "volfs/io_counters.h"

namespace volfs {

class ImageFile;

struct ImageOptions {
  // Makes the file, sparse and with this size, if it does not exist. An existing one stays as
  // it is, whatever its size.
  std::optional<uint64_t> create;
  bool read_only = false;
  bool direct = false;  // O_DIRECT
  // Against other processes. Without it, for a look at an image in use, nothing may be written.
  bool lock = true;
  // The partition with this number (GPT, or MBR with logical partitions from 5); 0: all.
  unsigned partition = 0;
  // A range of that: from `offset` on, `length` bytes or to the end.
  uint64_t offset = 0;
  std::optional<uint64_t> length;
  // The file is taken to be at least this large, as the copy of a disk that broke off: what is
  // beyond its end fails (EIO). Only read-only: EINVAL.
  uint64_t pad = 0;
};

class FileImage final : public BlockDevice {
 public:
  // Errors name PATH. EBUSY: in use by another process. EINVAL: neither a regular file nor a
  // block device, or the range does not lie in it; ENOENT: there is no such partition.
  // A size that is no multiple of 512 bytes is rounded down, as the kernel's loop device does.
  static Result<std::unique_ptr<FileImage>> open(std::string name, const std::string& path,
                                                 const ImageOptions& options);
  ~FileImage() override;

  const std::string& path() const { return path_; }
  // Where in the file the image's first byte is.
  uint64_t start() const { return start_; }
  // Of the whole file, when it was opened.
  uint64_t file_size() const;
  // Whether O_DIRECT is used.
  bool direct() const;
  // All I/O on it, however it came.
  IoCounters& counters() { return counters_; }
  const IoCounters& counters() const { return counters_; }
  // Whether both use some byte of the same file, under whatever path it was opened.
  bool overlaps(const FileImage& other) const;
  // For the rings of backing/.
  ImageFile& file() const { return *file_; }

 private:
  FileImage(std::string name, std::string path, std::shared_ptr<ImageFile> file, uint64_t start,
            uint64_t size, bool read_only);
  Status do_read(uint64_t offset, IoSpan iov) override;
  bool do_read_cached(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override;
  Status do_flush() override;
  // Direct: queued. Buffered: inline, although a read that is not cached may be queued.
  Service do_service(Op op) const override;
  IoQueue* do_queue() override;
  template <class Work>
  Status counted(IoClass which, uint64_t bytes, Work work);

  IoCounters counters_;
  const std::string path_;
  const std::shared_ptr<ImageFile> file_;
  const uint64_t start_;
};

// Makes a sparse file of SIZE bytes, mode 0600 less the umask. EEXIST if there is anything at
// PATH; EINVAL if SIZE is no multiple of 512 or 0. Leaves nothing behind when it fails.
Status create_image(const std::string& path, uint64_t size);
// Gives an empty file a size, sparse. EEXIST if it is not empty, or no regular file; EINVAL as
// above.
Status size_empty_image(const std::string& path, uint64_t size);

}  // namespace volfs
