// SPDX-License-Identifier: GPL-2.0-or-later
// Scattered memory: lists of iovec, cut and copied without touching the lists themselves.
// Offsets and lengths are bytes counted over the whole list. Nothing here allocates.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace volfs {

using IoSpan = std::span<const iovec>;

// The sum of the lengths.
uint64_t total_length(IoSpan iov);

// One buffer as a list: valid as long as the object.
class OneSlice {
 public:
  explicit OneSlice(std::span<std::byte> memory) : iov_{memory.data(), memory.size()} {}
  // For writes: the bytes are only read, although an iovec cannot say so.
  explicit OneSlice(std::span<const std::byte> memory)
      : iov_{const_cast<std::byte*>(memory.data()), memory.size()} {}
  operator IoSpan() const { return {&iov_, 1}; }  // NOLINT: implicit on purpose

 private:
  iovec iov_;
};

// Walks over a list, cutting it into consecutive pieces.
class SliceCursor {
 public:
  explicit SliceCursor(IoSpan iov) : iov_(iov) {}
  // The next contiguous piece, at most LENGTH bytes; empty at the end of the list.
  iovec next(uint64_t length);
  void skip(uint64_t length);

 private:
  IoSpan iov_;
  size_t index_ = 0;
  size_t within_ = 0;
};

// Calls VISIT(iovec) for each contiguous piece of [offset, offset+length).
template <class Visit>
void for_each_slice(IoSpan iov, uint64_t offset, uint64_t length, Visit visit) {
  SliceCursor cursor(iov);
  cursor.skip(offset);
  while (length > 0) {
    const iovec piece = cursor.next(length);
    if (piece.iov_len == 0) return;
    visit(piece);
    length -= piece.iov_len;
  }
}

// Copies between a list, from OFFSET on, and plain memory. The range must lie in the list.
void copy_from_slices(IoSpan iov, uint64_t offset, std::span<std::byte> to);
void copy_to_slices(IoSpan iov, uint64_t offset, std::span<const std::byte> from);
void zero_slices(IoSpan iov, uint64_t offset, uint64_t length);

}  // namespace volfs
