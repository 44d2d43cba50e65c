// SPDX-License-Identifier: GPL-2.0-or-later
// Writes to a snapshot.
#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "chunk_size.h"
#include "origin.h"
#include "snapshot.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

// How much is written, and recorded, at a time: zeros take no memory.
constexpr uint64_t data_piece = 1 * MiB;
constexpr uint64_t zero_piece = 64 * MiB;

// A part of a new chunk that the write does not cover: it comes from the origin.
struct Fill {
  uint64_t from = 0, to = 0, length = 0;
};

// At most two: before the first byte and behind the last one.
using Fills = InlineVector<Fill, 2>;

// Copies the fills and carries out BATCH, together as far as the fills are small.
Status fill_and_write(BlockDevice& origin, BlockDevice& cow, Fills& fills, IoBatch& batch) {
  uint64_t longest = 0;
  for (const Fill& fill : fills) longest = std::max(longest, fill.length);
  const uint64_t room = std::min(longest, copy_piece);
  std::vector<std::byte> memory(room * fills.size());
  std::array<iovec, 2> slices{};
  for (uint64_t done = 0; done < longest;) {
    IoBatch reads, writes;
    const bool last = done + room >= longest;
    for (size_t i = 0; i < fills.size(); ++i) {
      if (done >= fills[i].length) continue;
      const Fill& fill = fills[i];
      slices[i] = {memory.data() + i * room, std::min(room, fill.length - done)};
      reads.read(origin, fill.from + done, {&slices[i], 1});
      (last ? batch : writes).write(cow, fill.to + done, {&slices[i], 1});
    }
    VOLFS_TRY(reads.run());
    VOLFS_TRY(writes.run());
    done += room;
  }
  return batch.run();
}

}  // namespace

Status Snapshot::write(uint64_t offset, uint64_t length, const IoSpan* iov, Fua fua,
                       bool overflow) {
  const uint64_t end = offset + length;
  const uint64_t piece = std::max(iov ? data_piece : zero_piece, chunk_size_);
  for (uint64_t at = offset; at < end;) {
    // Cut where chunks begin: a chunk that is written whole need not be copied.
    const uint64_t until = std::min(end, round_down(at + piece, chunk_size_));
    VOLFS_TRY(write_piece(at, until, iov, at - offset, fua, overflow));
    at = until;
  }
  return {};
}

Status Snapshot::write_piece(uint64_t begin, uint64_t end, const IoSpan* iov, uint64_t iov_offset,
                             Fua fua, bool overflow) {
  const RangeLock::Guard guard(origin_->lock(), round_down(begin, chunk_size_),
                               round_up(end, chunk_size_));
  std::vector<Claim> claims;
  bool room = false;
  {
    const std::lock_guard lock(mutex_);
    if (validity_ != Validity::valid || overflowed_) return fail_sys(EIO, "");
    const Range range{begin, end};
    room = claim_locked(std::span(&range, 1), claims);
    if (!room && overflow) overflowed_ = true;
  }
  if (!room) {
    if (overflow) {
      log_error("{}: the snapshot is full: it can only be read now", cow_.name());
      tell();
    } else {
      invalidate(Error::make(ENOSPC, "it is full"));
    }
    return fail_sys(EIO, "");
  }
  // What is recorded is flushed before: data written along need not be by itself.
  Status status = write_data(begin, end, claims, iov, iov_offset, claims.empty() ? fua : Fua::no);
  if (claims.empty()) return status;
  if (!status && keep_) {
    const std::lock_guard lock(mutex_);
    give_back(claims);
    return status;
  }
  if (status) status = record(claims);
  if (!status) {
    keep_ ? stop_writes(status.error()) : invalidate(status.error());
    return fail_sys(EIO, "");
  }
  publish(claims);
  return {};
}

// The store could not be written to: what it has is good, but it takes no more.
void Snapshot::stop_writes(const Error& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(overflowed_, true)) return;
  }
  log_error("{}: nothing can be written any more: {}", cow_.name(), reason.text());
  tell();
}

Status Snapshot::record(std::span<const Claim> claims) {
  const std::vector<Exception> exceptions = exceptions_of(claims);
  Committer::Request request{.store = store_.get(), .exceptions = exceptions};
  origin_->committer().commit(std::span(&request, 1));
  return std::move(request.status);
}

// Where each byte of the range goes: to where its chunk is, or is going to be.
void Snapshot::destinations(uint64_t begin, uint64_t end, std::span<const Claim> claims,
                            Mapping& out) const {
  Parts parts;
  resolve(begin, end - begin, parts);
  auto claim = claims.begin();
  for (const Part& part : parts) {
    if (part.in_cow) {
      out.add(cow_, part.offset, part.length);
      continue;
    }
    for (uint64_t at = part.offset; at < part.offset + part.length;) {
      while (at >= (claim->old_chunk + claim->count) * chunk_size_) ++claim;
      const uint64_t from = claim->old_chunk * chunk_size_;
      const uint64_t length =
          std::min(part.offset + part.length - at, from + claim->count * chunk_size_ - at);
      out.add(cow_, claim->new_chunk * chunk_size_ + (at - from), length);
      at += length;
    }
  }
}

Status Snapshot::write_data(uint64_t begin, uint64_t end, std::span<const Claim> claims,
                            const IoSpan* iov, uint64_t iov_offset, Fua fua) {
  Mapping mapping;
  destinations(begin, end, claims, mapping);
  IoBatch batch;
  InlineVector<iovec, 48> slices;
  if (iov) {
    for_each_slice(*iov, iov_offset, end - begin,
                   [&slices](iovec slice) { slices.push_back(slice); });
    batch.transfer(Op::write, mapping, IoSpan(slices.data(), slices.size()), fua);
  } else {
    for (const Extent& extent : mapping.extents())
      VOLFS_TRY(cow_.write_zeroes(extent.offset, extent.length));
    if (fua == Fua::yes) VOLFS_TRY(cow_.flush());
  }
  Fills fills;
  if (!claims.empty()) {
    const uint64_t first = round_down(begin, chunk_size_);
    if (begin > first && claims.front().old_chunk == chunk_of(begin))
      fills.push_back({first, claims.front().new_chunk * chunk_size_, begin - first});
    const uint64_t last = chunk_of(end - 1);
    const uint64_t stop = std::min((last + 1) * chunk_size_, origin_->device().size());
    const Claim& back = claims.back();
    if (end < stop && back.old_chunk + back.count - 1 == last)
      fills.push_back(
          {end, (back.new_chunk + back.count - 1) * chunk_size_ + end % chunk_size_, stop - end});
  }
  return fill_and_write(origin_->device(), cow_, fills, batch);
}

// A discard may be forgotten, so only whole chunks are looked at.
Status Snapshot::discard(uint64_t offset, uint64_t length) {
  const uint64_t begin = round_up(offset, chunk_size_);
  const uint64_t end = round_down(offset + length, chunk_size_);
  if (begin >= end) return {};
  Parts parts;
  resolve(begin, end - begin, parts);
  for (const Part& part : parts)
    if (part.in_cow) VOLFS_TRY(cow_.write_zeroes(part.offset, part.length));
  return {};
}

}  // namespace volfs::dm
