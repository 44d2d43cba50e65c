// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/byte_access.h"

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "volfs/inline_vector.h"
#include "volfs/units.h"

namespace volfs {
namespace {

Limits byte_limits(const BlockDevice& below) {
  Limits limits = below.limits();
  limits.logical_block = 1;
  return limits;
}

// A range of bytes and the blocks it touches.
struct Blocks {
  Blocks(uint64_t offset, uint64_t length, uint32_t block)
      : begin(round_down(offset, block)),
        end(round_up(offset + length, block)),
        before(offset - begin),
        after(end - offset - length) {}
  bool aligned() const { return before == 0 && after == 0; }
  uint64_t begin, end;
  uint64_t before, after;  // bytes of the first and the last block that are not of the range
};

// Memory for one block; it allocates only for blocks that no disk has.
class BlockBuffer {
 public:
  explicit BlockBuffer(uint32_t block) : size_(block) {
    if (block > small_.size()) large_ = std::make_unique<std::byte[]>(block);
  }
  std::span<std::byte> bytes() { return {large_ ? large_.get() : small_.data(), size_}; }

 private:
  const size_t size_;
  std::array<std::byte, 4096> small_;
  std::unique_ptr<std::byte[]> large_;
};

// The list with BEFORE and AFTER around it.
void surround(std::span<std::byte> before, IoSpan iov, std::span<std::byte> after,
              InlineVector<iovec, 16>& out) {
  if (!before.empty()) out.push_back({before.data(), before.size()});
  for (const iovec& piece : iov) out.push_back(piece);
  if (!after.empty()) out.push_back({after.data(), after.size()});
}

}  // namespace

// For the time of a write of whole blocks.
class ByteAccess::AlignedWrite {
 public:
  AlignedWrite(ByteAccess& bytes, uint64_t begin, uint64_t end) : bytes_(bytes) {
    fast_ = bytes.fast_.try_enter();
    if (!fast_) range_.emplace(bytes.blocks_, begin, end, RangeLock::Mode::shared);
  }
  ~AlignedWrite() {
    if (fast_) bytes_.fast_.exit();
  }
  AlignedWrite(const AlignedWrite&) = delete;
  AlignedWrite& operator=(const AlignedWrite&) = delete;

 private:
  ByteAccess& bytes_;
  std::optional<RangeLock::Guard> range_;
  bool fast_;
};

// For the time of a read-modify-write: no other write touches these blocks.
class ByteAccess::Exclusive {
 public:
  Exclusive(ByteAccess& bytes, uint64_t begin, uint64_t end) : bytes_(bytes) {
    close_fast();
    range_.emplace(bytes.blocks_, begin, end);
  }
  ~Exclusive() {
    range_.reset();
    const std::lock_guard lock(bytes_.mutex_);
    if (--bytes_.exclusive_ > 0) return;
    bytes_.fast_is_empty_ = false;
    bytes_.fast_.open();
  }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;

 private:
  // The first one closes the gate; the others wait until that is done.
  void close_fast() {
    bytes_.mutex_.lock();
    const bool first = bytes_.exclusive_++ == 0;
    if (!first) bytes_.closed_.wait(bytes_.mutex_, [this] { return bytes_.fast_is_empty_; });
    bytes_.mutex_.unlock();
    if (!first) return;
    bytes_.fast_.close();
    const std::lock_guard lock(bytes_.mutex_);
    bytes_.fast_is_empty_ = true;
    bytes_.closed_.notify_all();
  }

  ByteAccess& bytes_;
  std::optional<RangeLock::Guard> range_;
};

ByteAccess::ByteAccess(BlockDevice& below)
    : BlockDevice(below.name(), below.size(), byte_limits(below), below.read_only()),
      below_(below) {}

void ByteAccess::refresh() {
  set_name(below_.name());
  set_limits(byte_limits(below_));
  set_read_only(below_.read_only());
  set_size(below_.size());
}

bool ByteAccess::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  const bool aligned = Blocks(offset, length, below_.logical_block()).aligned();
  // What needs a range of the lock is done by this device itself.
  if (!aligned || (op != Op::read && !fast_.try_enter())) {
    out.add(*this, offset, length);
    return true;
  }
  // The lease keeps every read-modify-write out until the write is done.
  if (op != Op::read) out.hold(fast_);
  return below_.map(op, offset, length, wait, out);
}

Status ByteAccess::do_read(uint64_t offset, IoSpan iov) {
  const uint32_t block = below_.logical_block();
  const Blocks range(offset, total_length(iov), block);
  if (range.aligned()) return below_.read(offset, iov);
  BlockBuffer head(block), tail(block);
  InlineVector<iovec, 16> whole;
  surround(head.bytes().first(range.before), iov, tail.bytes().first(range.after), whole);
  return below_.read(range.begin, whole);
}

Status ByteAccess::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  const uint32_t block = below_.logical_block();
  const Blocks range(offset, total_length(iov), block);
  if (range.aligned()) {
    const AlignedWrite aligned(*this, range.begin, range.end);
    return below_.write(offset, iov, fua);
  }
  BlockBuffer head(block), tail(block);
  InlineVector<iovec, 16> whole;
  const Exclusive exclusive(*this, range.begin, range.end);
  const uint64_t last = range.end - block;
  if (range.before > 0 || last == range.begin) VOLFS_TRY(below_.read(range.begin, head.bytes()));
  // When the range lies in one block, that block was just read.
  std::span<std::byte> end = head.bytes();
  if (range.after > 0 && last != range.begin) {
    VOLFS_TRY(below_.read(last, tail.bytes()));
    end = tail.bytes();
  }
  surround(head.bytes().first(range.before), iov, end.last(range.after), whole);
  return below_.write(range.begin, whole, fua);
}

Status ByteAccess::do_discard(uint64_t offset, uint64_t length) {
  // Only whole blocks can be discarded; it is a hint, so the rest stays.
  const uint32_t block = below_.logical_block();
  const uint64_t begin = round_up(offset, block);
  const uint64_t end = round_down(offset + length, block);
  if (begin >= end) return {};
  const AlignedWrite aligned(*this, begin, end);
  return below_.discard(begin, end - begin);
}

Status ByteAccess::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  static constexpr std::array<std::byte, 4096> zeros{};
  const uint32_t block = below_.logical_block();
  const uint64_t end = offset + length;
  const uint64_t inner_begin = std::min(round_up(offset, block), end);
  const uint64_t inner_end = std::max(round_down(end, block), inner_begin);
  const auto write_zeros = [this](uint64_t from, uint64_t to) -> Status {
    while (from < to) {
      const uint64_t now = std::min<uint64_t>(to - from, zeros.size());
      VOLFS_TRY(do_write(from, OneSlice(std::span(zeros).first(now)), Fua::no));
      from += now;
    }
    return {};
  };
  VOLFS_TRY(write_zeros(offset, inner_begin));
  if (inner_begin < inner_end) {
    const AlignedWrite aligned(*this, inner_begin, inner_end);
    VOLFS_TRY(below_.write_zeroes(inner_begin, inner_end - inner_begin, unmap));
  }
  return write_zeros(inner_end, end);
}

Result<Allocation> ByteAccess::do_allocation(uint64_t offset, uint64_t length) {
  const Blocks range(offset, length, below_.logical_block());
  auto result = below_.allocation(range.begin, range.end - range.begin);
  if (result) result->length -= std::min(result->length, range.before);
  return result;
}

Service ByteAccess::do_service(Op op) const {
  // An unaligned write reads, too.
  const bool at_once = below_.service(Op::read) == Service::inline_ &&
                       (op == Op::read || below_.service(op) == Service::inline_);
  return at_once ? Service::inline_ : Service::blocking;
}

void ByteAccess::do_for_each_below(const Visit& visit) const {
  visit(below_);
}

}  // namespace volfs
