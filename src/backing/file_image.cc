// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "backing/image_file.h"
#include "volfs/backing/image.h"
#include "volfs/backing/partitions.h"
#include "volfs/backing/thread_queue.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs {
namespace {

struct Range {
  uint64_t offset = 0;
  uint64_t length = 0;
};

Result<Range> find_partition(const ImageFile& file, const std::string& path, unsigned number,
                             uint64_t size) {
  // An MBR is believed anyhow, and its logical partitions are all over the disk.
  const bool gpt_beyond = size > file.size() && partitioned_size(path) > file.size();
  VOLFS_TRY_ASSIGN(const auto partitions,
                   list_partitions(file.table_fd(), path, gpt_beyond ? size : 0));
  std::string there;
  for (const Partition& partition : partitions) {
    there += fmt::format("{}{}", there.empty() ? "" : ", ", partition.number);
    if (partition.number != number) continue;
    if (partition.extended)
      return fail_invalid(
          fmt::format("{}: partition {}: is an extended partition; the logical ones "
                      "in it are numbered from 5",
                      path, number));
    if (!range_within(partition.offset, partition.length, size))
      return fail_invalid(
          fmt::format("{}: partition {}: {} bytes at {} do not lie in the image of "
                      "{} bytes",
                      path, number, partition.length, partition.offset, size));
    return Range{partition.offset, partition.length};
  }
  return fail(Error::make(
      ENOENT, fmt::format("{}: partition {}: there is {}", path, number,
                          there.empty() ? "no partition table" : "none; found " + there)));
}

Result<Range> find_range(const ImageFile& file, const std::string& path,
                         const ImageOptions& options) {
  const uint64_t size = std::max(file.size(), options.pad);
  if (size > file.size() && !options.read_only)
    return fail_invalid(
        fmt::format("{}: ends at {}, before the {} that it is taken for: expected "
                    "that it is only read",
                    path, file.size(), size));
  Range range{0, size};
  if (options.partition != 0) {
    VOLFS_TRY_ASSIGN(range, find_partition(file, path, options.partition, size));
  }
  const uint64_t rest = range.length - std::min(options.offset, range.length);
  const uint64_t length = options.length.value_or(rest);
  if (!range_within(options.offset, length, range.length))
    return fail_invalid(fmt::format("{}: {} bytes at {} do not lie in {} bytes", path, length,
                                    options.offset, range.length));
  return Range{range.offset + options.offset, length};
}

// An error that says more than its errno gets the place that the door gives to the others.
Status located(Status status, const char* what, uint64_t offset, uint64_t length) {
  if (status || status.error().text() == Error::sys(status.error().code(), "").text())
    return status;
  return in(fmt::format("{} {} at {}", what, length, offset), std::move(status));
}

}  // namespace

FileImage::FileImage(std::string name, std::string path, std::shared_ptr<ImageFile> file,
                     uint64_t start, uint64_t size, bool read_only)
    : BlockDevice(std::move(name), size, file->limits(), read_only),
      path_(std::move(path)),
      file_(std::move(file)),
      start_(start) {}
FileImage::~FileImage() = default;

Result<std::unique_ptr<FileImage>> FileImage::open(std::string name, const std::string& path,
                                                   const ImageOptions& options) {
  struct stat st{};
  if (options.create && ::stat(path.c_str(), &st) != 0 && errno == ENOENT)
    VOLFS_TRY(create_image(path, *options.create));
  VOLFS_TRY_ASSIGN(std::shared_ptr<ImageFile> file,
                   ImageFile::open(path, !options.read_only, options.direct, options.lock));
  VOLFS_TRY_ASSIGN(Range range, find_range(*file, path, options));
  const auto misaligned = [&] {
    return ((range.offset | range.length) & (file->limits().logical_block - 1)) != 0;
  };
  if (file->direct() && misaligned()) {
    log_warning("{}: {} bytes at {} are no multiple of {}: it is used without O_DIRECT", path,
                range.length, range.offset, file->limits().logical_block);
    file.reset();
    VOLFS_TRY_ASSIGN(file, ImageFile::open(path, !options.read_only, false, options.lock));
  }
  const uint32_t block = file->limits().logical_block;
  if ((range.offset & (block - 1)) != 0)
    return fail_invalid(
        fmt::format("{}: offset {}: expected a multiple of {}", path, range.offset, block));
  range.length = round_down(range.length, block);
  return std::unique_ptr<FileImage>(new FileImage(std::move(name), path, std::move(file),
                                                  range.offset, range.length, options.read_only));
}

uint64_t FileImage::file_size() const {
  return file_->size();
}

bool FileImage::direct() const {
  return file_->direct();
}

template <class Work>
Status FileImage::counted(IoClass which, uint64_t bytes, Work work) {
  const TimePoint begun = counters_.begin();
  Status status = work();
  counters_.end(which, begun, bytes, !status);
  return status;
}

bool FileImage::overlaps(const FileImage& other) const {
  return file_->identity() == other.file_->identity() && start_ < other.start_ + other.size() &&
         other.start_ < start_ + size();
}

Status FileImage::do_read(uint64_t offset, IoSpan iov) {
  const uint64_t length = total_length(iov);
  return located(counted(IoClass::read, length, [&] { return file_->read(start_ + offset, iov); }),
                 "read", offset, length);
}

bool FileImage::do_read_cached(uint64_t offset, IoSpan iov) {
  const TimePoint begun = counters_.begin();
  const bool done = file_->read_cached(start_ + offset, iov);
  if (done)
    counters_.end(IoClass::read, begun, total_length(iov), false);
  else
    counters_.drop();
  return done;
}

Status FileImage::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  const uint64_t length = total_length(iov);
  return located(
      counted(IoClass::write, length, [&] { return file_->write(start_ + offset, iov, fua); }),
      "write", offset, length);
}

Status FileImage::do_discard(uint64_t offset, uint64_t length) {
  return located(
      counted(IoClass::discard, length, [&] { return file_->discard(start_ + offset, length); }),
      "discard", offset, length);
}

Status FileImage::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  return located(counted(IoClass::discard, length,
                         [&] { return file_->write_zeroes(start_ + offset, length, unmap); }),
                 "write zeroes", offset, length);
}

Result<Allocation> FileImage::do_allocation(uint64_t offset, uint64_t length) {
  return file_->allocation(start_ + offset, length);
}

Status FileImage::do_flush() {
  return counted(IoClass::flush, 0, [this] { return file_->flush(); });
}

Service FileImage::do_service(Op op) const {
  if (op == Op::discard || op == Op::write_zeroes) return Service::blocking;
  return file_->direct() ? Service::queued : Service::inline_;
}

IoQueue* FileImage::do_queue() {
  return file_->direct() || file_->can_try() ? thread_queue() : nullptr;
}

}  // namespace volfs
