// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/io_batch.h"

#include <fmt/format.h>

#include <cassert>
#include <cerrno>
#include <cstring>

namespace volfs {
namespace {

Op door_op(IoOp::Kind kind) {
  return kind == IoOp::Kind::read ? Op::read : Op::write;
}

const char* kind_name(IoOp::Kind kind) {
  switch (kind) {
    case IoOp::Kind::read:
      return "read";
    case IoOp::Kind::write:
    case IoOp::Kind::write_fua:
      return "write";
    case IoOp::Kind::flush:
      return "flush";
  }
  return "?";
}

Error describe(const IoOp& op) {
  const std::string what = op.kind == IoOp::Kind::flush
                               ? fmt::format("{}: flush", op.device->name())
                               : fmt::format("{}: {} {} at {}", op.device->name(),
                                             kind_name(op.kind), total_length(op.iov), op.offset);
  return Error::sys(op.error, what);
}

}  // namespace

// An operation of a device that only remaps, as a batch of operations on the queued images below.
struct IoBatch::Lowered final : IoBatch::Owner {
  Lowered(IoBatch& batch, IoOp& operation) : upper(batch), op(operation) {}
  void batch_done(IoBatch&) override { upper.done(op); }

  IoBatch& upper;
  IoOp& op;
  Mapping mapping;
  IoBatch below;
};

IoBatch::IoBatch() = default;
IoBatch::~IoBatch() = default;

void IoBatch::add(IoOp::Kind kind, BlockDevice& device, uint64_t offset, IoSpan iov) {
  IoOp op;
  op.kind = kind;
  op.device = &device;
  op.offset = offset;
  op.iov = iov;
  ops_.push_back(op);
}

void IoBatch::read(BlockDevice& device, uint64_t offset, IoSpan iov) {
  add(IoOp::Kind::read, device, offset, iov);
}
void IoBatch::write(BlockDevice& device, uint64_t offset, IoSpan iov, Fua fua) {
  add(fua == Fua::yes ? IoOp::Kind::write_fua : IoOp::Kind::write, device, offset, iov);
}
void IoBatch::flush(BlockDevice& device) {
  add(IoOp::Kind::flush, device, 0, {});
}

void IoBatch::transfer(Op op, const Mapping& mapping, IoSpan iov, Fua fua) {
  assert(ops_.empty() && pieces_.empty());
  const auto kind = op == Op::read    ? IoOp::Kind::read
                    : fua == Fua::yes ? IoOp::Kind::write_fua
                                      : IoOp::Kind::write;
  // First pass: which operation each extent belongs to, and how many slices each gets.
  // scratch[0] is the end of the operation so far, scratch[1] its number of slices.
  InlineVector<uint32_t, 24> op_of;
  SliceCursor cursor(iov);
  for (const Extent& extent : mapping.extents()) {
    size_t at = ops_.size();
    if (extent.kind == Extent::Kind::device) {
      for (size_t i = ops_.size(); i-- > 0;)
        if (ops_[i].device == extent.device && ops_[i].scratch[0] == extent.offset) at = i;
      if (at == ops_.size()) add(kind, *extent.device, extent.offset, {});
      ops_[at].scratch[0] = extent.offset + extent.length;
    }
    op_of.push_back(static_cast<uint32_t>(at));
    if (extent.kind == Extent::Kind::error && extent_error_ == 0) extent_error_ = extent.error;
    for (uint64_t left = extent.length; left > 0;) {
      const iovec piece = cursor.next(left);
      if (piece.iov_len == 0) break;
      left -= piece.iov_len;
      if (extent.kind == Extent::Kind::device) ++ops_[at].scratch[1];
      if (extent.kind == Extent::Kind::zero && op == Op::read)
        std::memset(piece.iov_base, 0, piece.iov_len);
    }
  }
  // Second pass: deal the slices out; scratch[2] is where the next one of the operation goes.
  size_t total = 0;
  for (IoOp& each : ops_) {
    each.scratch[2] = total;
    total += each.scratch[1];
  }
  pieces_.resize(total);
  SliceCursor again(iov);
  size_t index = 0;
  for (const Extent& extent : mapping.extents()) {
    const size_t at = op_of[index++];
    if (extent.kind != Extent::Kind::device) {
      again.skip(extent.length);
      continue;
    }
    for (uint64_t left = extent.length; left > 0;) {
      const iovec piece = again.next(left);
      if (piece.iov_len == 0) break;
      left -= piece.iov_len;
      pieces_[ops_[at].scratch[2]++] = piece;
    }
  }
  for (IoOp& each : ops_)
    each.iov = {pieces_.data() + each.scratch[2] - each.scratch[1], each.scratch[1]};
}

void IoBatch::done(IoOp&) {
  // The owner may end the batch: nothing is touched after it was told.
  if (--pending_ == 0 && owner_) owner_->batch_done(*this);
}

void IoBatch::perform(IoOp& op) {
  Status status;
  switch (op.kind) {
    case IoOp::Kind::read:
      status = op.device->read(op.offset, op.iov);
      break;
    case IoOp::Kind::write:
      status = op.device->write(op.offset, op.iov);
      break;
    case IoOp::Kind::write_fua:
      status = op.device->write(op.offset, op.iov, Fua::yes);
      break;
    case IoOp::Kind::flush:
      status = op.device->flush();
      break;
  }
  if (status) return;
  op.error = status.error().code();
  const auto index = static_cast<size_t>(&op - ops_.data());
  if (first_error_ && first_error_op_ < index) return;
  first_error_ = std::move(status.error());
  first_error_op_ = index;
}

// The queue that takes the operation; null: it is to be done inline, or DONE.
IoQueue* IoBatch::queue_for(IoOp& op, bool may_wait, bool* done) {
  // Who waits anyway for a lone flush or cached read gains nothing by a queue.
  const bool alone = may_wait && ops_.size() == 1;
  const Service service = op.device->service(door_op(op.kind));
  if (service == Service::queued)
    return alone && op.kind == IoOp::Kind::flush ? nullptr : op.device->queue();
  if (op.kind != IoOp::Kind::read || alone || service == Service::blocking) return nullptr;
  *done = op.device->read_cached(op.offset, op.iov);
  return *done ? nullptr : op.device->queue();
}

// Starts an operation on the images below its device, so that it is under way beside others. False:
// it is to be done inline, for it needs the device's own code, may have to wait for it, or failed
// at once. Never waits: the leases of several mappings are held together here.
bool IoBatch::lower(IoOp& op) {
  const Op what = door_op(op.kind);
  if (op.kind == IoOp::Kind::flush || op.device->service(what) != Service::blocking) return false;
  const uint64_t length = total_length(op.iov);
  if (!op.device->check(what, op.offset, length)) return false;
  auto lowered = std::make_unique<Lowered>(*this, op);
  if (!op.device->map(what, op.offset, length, Wait::no, lowered->mapping)) return false;
  for (const Extent& extent : lowered->mapping.extents())
    if (extent.kind != Extent::Kind::device || extent.device->service(what) != Service::queued)
      return false;
  lowered->below.transfer(what, lowered->mapping, op.iov,
                          op.kind == IoOp::Kind::write_fua ? Fua::yes : Fua::no);
  if (lowered->below.start(*lowered)) return lowered->below.status().has_value();
  queue_ = lowered->below.queue_;
  ++pending_;
  lowered_.push_back(std::move(lowered));
  return true;
}

void IoBatch::submit_all(bool may_wait) {
  InlineVector<uint32_t, 16> inline_ops;
  for (size_t i = 0; i < ops_.size(); ++i) {
    IoOp& op = ops_[i];
    bool done = false;
    IoQueue* queue = queue_for(op, may_wait, &done);
    if (done) continue;
    if (!queue) {
      // Who waits gains by it if there is another operation to wait for.
      if (may_wait && ops_.size() > 1 && lower(op)) continue;
      inline_ops.push_back(static_cast<uint32_t>(i));
      continue;
    }
    if (op.kind != IoOp::Kind::flush) {
      if (auto checked = op.device->check(door_op(op.kind), op.offset, total_length(op.iov));
          !checked) {
        op.error = checked.error().code();
        continue;
      }
    }
    queue_ = queue;
    op.completion = this;
    ++pending_;
    queue->submit(op);
  }
  if (pending_ > 0) queue_->push();
  // One of them may wait for a device that is being suspended, which waits for the leases.
  if (!lowered_.empty() && !inline_ops.empty()) end_lowered();
  for (const uint32_t i : inline_ops) perform(ops_[i]);
}

// Waits for all that is under way.
void IoBatch::end_lowered() {
  while (pending_ > 0) queue_->reap(Wait::yes);
  for (const auto& lowered : lowered_) lowered->mapping.clear();
  // What failed below is the device's to try in its own way, and to tell.
  for (const auto& lowered : lowered_)
    if (!lowered->below.status()) perform(lowered->op);
  lowered_.clear();
}

Status IoBatch::run() {
  submit_all(true);
  end_lowered();
  return status();
}

bool IoBatch::start(Owner& owner) {
  submit_all(false);
  if (pending_ == 0) return true;
  owner_ = &owner;
  return false;
}

Status IoBatch::status() const {
  if (extent_error_ != 0) return fail_sys(extent_error_, "");
  for (size_t i = 0; i < ops_.size(); ++i) {
    if (ops_[i].error == 0) continue;
    if (first_error_ && first_error_op_ == i) return fail(Error(*first_error_));
    return fail(describe(ops_[i]));
  }
  return {};
}

void IoBatch::clear() {
  assert(pending_ == 0);
  ops_.clear();
  pieces_.clear();
  queue_ = nullptr;
  owner_ = nullptr;
  extent_error_ = 0;
  first_error_.reset();
}

}  // namespace volfs
