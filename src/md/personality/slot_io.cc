// SPDX-License-Identifier: GPL-2.0-or-later
#include "slot_io.h"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr std::align_val_t alignment{4096};
constexpr size_t block_size = 1 * MiB;
constexpr uint64_t narrow_unit = 4 * KiB;

}  // namespace

void SlotIo::add(uint32_t slot, uint64_t offset, void* memory, size_t length) {
  pieces_.push_back({slot, offset, {memory, length}});
}

void SlotIo::clear() {
  pieces_.clear();
  failures_.clear();
}

bool SlotIo::run(IoOp::Kind kind) {
  std::sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) {
    return a.slot != b.slot ? a.slot < b.slot : a.offset < b.offset;
  });
  InlineVector<iovec, 24> list;
  list.resize(pieces_.size());
  InlineVector<size_t, 16> firsts;  // of the operations
  IoBatch batch;
  for (size_t i = 0; i < pieces_.size();) {
    const size_t first = i;
    uint64_t end = pieces_[i].offset;
    while (i < pieces_.size() && pieces_[i].slot == pieces_[first].slot &&
           pieces_[i].offset == end) {
      list[i] = pieces_[i].memory;
      end += list[i].iov_len;
      ++i;
    }
    Slot& slot = m_.slots[pieces_[first].slot];
    const IoSpan iov(list.data() + first, i - first);
    const uint64_t at = slot.data_offset + pieces_[first].offset;
    if (kind == IoOp::Kind::read)
      batch.read(*slot.device, at, iov);
    else
      batch.write(*slot.device, at, iov, kind == IoOp::Kind::write_fua ? Fua::yes : Fua::no);
    firsts.push_back(first);
  }
  failures_.clear();
  if (batch.run()) return true;
  for (size_t op = 0; op < batch.size(); ++op) {
    if (batch.error(op) == 0) continue;
    const Piece& piece = pieces_[firsts[op]];
    failures_.push_back(
        {piece.slot, batch.error(op), piece.offset, total_length(batch.op(op).iov)});
  }
  return failures_.empty();
}

bool SlotIo::write(Fua fua) {
  const bool ok = run(fua == Fua::yes ? IoOp::Kind::write_fua : IoOp::Kind::write);
  for (const Piece& piece : pieces_) {
    if (!m_.slots[piece.slot].bad.any()) continue;
    const uint64_t end = piece.offset + piece.memory.iov_len;
    const bool failed = std::any_of(failures_.begin(), failures_.end(), [&](const Failure& f) {
      return f.slot == piece.slot && f.offset < end && piece.offset < f.offset + f.length;
    });
    if (!failed) m_.host->made_good(piece.slot, piece.offset, piece.memory.iov_len);
  }
  return ok;
}

// Finds out what of a failed operation cannot be written.
Status SlotIo::write_again(const Failure& failure) {
  Slot& slot = m_.slots[failure.slot];
  const Error why = Error::sys(failure.error, slot.device->name() + ": write");
  if (no_room(failure.error)) return fail(why);
  if (!m_.host->has_log(failure.slot))
    return m_.host->fail_member(failure.slot, why) ? Status() : fail_sys(EIO, "");
  for (const Piece& piece : pieces_) {
    if (piece.slot != failure.slot || piece.offset < failure.offset ||
        piece.offset >= failure.offset + failure.length)
      continue;
    for (size_t at = 0; at < piece.memory.iov_len && slot.present();) {
      const uint64_t offset = piece.offset + at;
      const size_t length =
          std::min<size_t>(piece.memory.iov_len - at, narrow_unit - offset % narrow_unit);
      iovec part{static_cast<std::byte*>(piece.memory.iov_base) + at, length};
      const Status status = slot.device->write(slot.data_offset + offset, {&part, 1}, Fua::yes);
      if (status)
        m_.host->made_good(failure.slot, offset, length);
      else if (no_room(status.error().code()))
        return status;
      else if (!m_.host->write_failed(failure.slot, offset, length, why))
        return fail_sys(EIO, "");
      at += length;
    }
  }
  return {};
}

Status SlotIo::settle_failures() {
  Status all;
  for (const Failure& failure : failures_) {
    Status one = write_again(failure);
    // That the array has failed outweighs that there is no room.
    if (!one && (all || !no_room(one.error().code()))) all = std::move(one);
  }
  return all;
}

thread_local Scratch::Block Scratch::kept;

void Scratch::Free::operator()(std::byte* memory) const {
  ::operator delete(memory, alignment);
}

std::byte* Scratch::take(size_t length) {
  length = round_up(length, 4096);
  taken_ += length;
  if (blocks_.empty() || blocks_.back().size - blocks_.back().used < length) {
    Block block;
    if (length <= kept.size) {
      block = std::exchange(kept, Block());
    } else {
      block.size = std::max(length, block_size);
      block.memory.reset(static_cast<std::byte*>(::operator new(block.size, alignment)));
    }
    blocks_.push_back(std::move(block));
  }
  Block& block = blocks_.back();
  std::byte* memory = block.memory.get() + block.used;
  block.used += length;
  return memory;
}

void Scratch::clear() {
  for (Block& block : blocks_)
    if (block.size == block_size && !kept.memory) {
      kept = std::move(block);
      kept.used = 0;
    }
  blocks_.clear();
  taken_ = 0;
}

Scratch::~Scratch() {
  clear();
}

}  // namespace volfs::md
