// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/slices.h"

#include <algorithm>
#include <cstring>

namespace volfs {

uint64_t total_length(IoSpan iov) {
  uint64_t sum = 0;
  for (const iovec& piece : iov) sum += piece.iov_len;
  return sum;
}

iovec SliceCursor::next(uint64_t length) {
  while (index_ < iov_.size() && within_ == iov_[index_].iov_len) {
    ++index_;
    within_ = 0;
  }
  if (index_ == iov_.size() || length == 0) return {nullptr, 0};
  const iovec& current = iov_[index_];
  const size_t take = std::min<uint64_t>(length, current.iov_len - within_);
  const iovec piece{static_cast<std::byte*>(current.iov_base) + within_, take};
  within_ += take;
  return piece;
}

void SliceCursor::skip(uint64_t length) {
  while (length > 0) {
    const iovec piece = next(length);
    if (piece.iov_len == 0) return;
    length -= piece.iov_len;
  }
}

void copy_from_slices(IoSpan iov, uint64_t offset, std::span<std::byte> to) {
  std::byte* out = to.data();
  for_each_slice(iov, offset, to.size(), [&](iovec piece) {
    std::memcpy(out, piece.iov_base, piece.iov_len);
    out += piece.iov_len;
  });
}

void copy_to_slices(IoSpan iov, uint64_t offset, std::span<const std::byte> from) {
  const std::byte* in = from.data();
  for_each_slice(iov, offset, from.size(), [&](iovec piece) {
    std::memcpy(piece.iov_base, in, piece.iov_len);
    in += piece.iov_len;
  });
}

void zero_slices(IoSpan iov, uint64_t offset, uint64_t length) {
  for_each_slice(iov, offset, length,
                 [](iovec piece) { std::memset(piece.iov_base, 0, piece.iov_len); });
}

}  // namespace volfs
