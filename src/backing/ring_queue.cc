// SPDX-License-Identifier: GPL-2.0-or-later
#include <liburing.h>
#include <limits.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <memory>
#include <vector>

#include "backing/aligned_buffer.h"
#include "backing/image_file.h"
#include "volfs/backing/image.h"
#include "volfs/backing/thread_queue.h"
#include "volfs/log.h"

namespace volfs {
namespace {

constexpr unsigned ring_entries = 128;
// As many as the completion queue holds, which then cannot overflow.
constexpr size_t most_under_way = 2 * size_t{ring_entries};

// Operations linked through their first scratch word, so that waiting costs no memory.
class OpList {
 public:
  bool empty() const { return first_ == nullptr; }
  void push(IoOp& op) {
    op.scratch[0] = 0;
    if (last_)
      last_->scratch[0] = reinterpret_cast<uintptr_t>(&op);
    else
      first_ = &op;
    last_ = &op;
  }
  IoOp& pop() {
    IoOp& op = *first_;
    first_ = reinterpret_cast<IoOp*>(static_cast<uintptr_t>(op.scratch[0]));
    if (!first_) last_ = nullptr;
    return op;
  }

 private:
  IoOp* first_ = nullptr;
  IoOp* last_ = nullptr;
};

// An operation that the kernel has, or will have again for what it left over.
struct Slot {
  IoOp* op = nullptr;
  uint64_t total = 0;
  uint64_t moved = 0;
  bool bounced = false;
  unsigned retries = 0;
  TimePoint begun{};
  int error = 0;  // found before the kernel was asked; told when its turn comes
  AlignedBuffer bounce;
  std::vector<iovec> rest;  // the list, where it is not the operation's own
};

class RingQueue final : public IoQueue {
 public:
  static std::unique_ptr<RingQueue> make(int* error);
  ~RingQueue();
  void submit(IoOp& op) override;
  void push() override;
  void reap(Wait wait) override;
  int wait_fd() const override { return ring_.ring_fd; }
  size_t in_flight() const override { return in_flight_; }

 private:
  RingQueue() = default;
  bool fill();
  bool prepare(Slot& slot);
  static int error_before(const IoOp& op, uint64_t total);
  IoSpan piece_of(Slot& slot, const ImageFile& file);
  void complete(Slot& slot, int result);
  bool advance(Slot& slot, int result);
  void finish(Slot& slot, int error);
  static FileImage& image_of(const IoOp& op) { return static_cast<FileImage&>(*op.device); }

  io_uring ring_{};
  OpList waiting_;
  std::vector<std::unique_ptr<Slot>> slots_;  // all there are
  std::vector<Slot*> free_;
  std::vector<Slot*> again_;  // to be given to the kernel once more
  size_t in_flight_ = 0;      // submitted and not done
  uint64_t completed_ = 0;
};

std::unique_ptr<RingQueue> RingQueue::make(int* error) {
  std::unique_ptr<RingQueue> queue(new RingQueue);
  // The newer flags save interrupts; older kernels refuse them.
  for (const unsigned flags : {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0U}) {
    *error = -io_uring_queue_init(ring_entries, &queue->ring_, flags);
    if (*error == 0) {
      io_uring_ring_dontfork(&queue->ring_);
      queue->slots_.reserve(most_under_way);
      queue->free_.reserve(most_under_way);
      queue->again_.reserve(most_under_way);
      return queue;
    }
    queue->ring_.ring_fd = -1;
    if (*error != EINVAL) break;
  }
  return nullptr;
}

RingQueue::~RingQueue() {
  if (ring_.ring_fd < 0) return;
  assert(in_flight_ == 0);
  io_uring_queue_exit(&ring_);
}

void RingQueue::submit(IoOp& op) {
  op.error = 0;
  waiting_.push(op);
  ++in_flight_;
}

// The memory of the next system call: as much of the rest as it takes.
IoSpan RingQueue::piece_of(Slot& slot, const ImageFile& file) {
  const IoOp& op = *slot.op;
  slot.bounced = file.direct() && !file.memory_fits(op.iov);
  if (slot.bounced) {
    const uint64_t part = std::min<uint64_t>(slot.total - slot.moved, AlignedBuffer::piece);
    const std::span<std::byte> memory = slot.bounce.get(part).first(part);
    if (op.kind != IoOp::Kind::read) copy_from_slices(op.iov, slot.moved, memory);
    slot.rest.assign(1, {memory.data(), memory.size()});
    return slot.rest;
  }
  if (slot.moved == 0 && op.iov.size() <= IOV_MAX) return op.iov;
  slot.rest.clear();
  SliceCursor cursor(op.iov);
  cursor.skip(slot.moved);
  while (slot.rest.size() < IOV_MAX) {
    const iovec piece = cursor.next(slot.total);
    if (piece.iov_len == 0) break;
    slot.rest.push_back(piece);
  }
  return slot.rest;
}

// False if the ring has no room now.
bool RingQueue::prepare(Slot& slot) {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (!sqe) return false;
  const IoOp& op = *slot.op;
  const ImageFile& file = image_of(op).file();
  if (slot.error != 0) {
    io_uring_prep_nop(sqe);
  } else if (op.kind == IoOp::Kind::flush) {
    io_uring_prep_fsync(sqe, file.fd(), IORING_FSYNC_DATASYNC);
  } else {
    const IoSpan iov = piece_of(slot, file);
    const uint64_t offset = image_of(op).start() + op.offset + slot.moved;
    const auto count = static_cast<unsigned>(iov.size());
    if (op.kind == IoOp::Kind::read)
      io_uring_prep_readv(sqe, file.fd(), iov.data(), count, offset);
    else
      io_uring_prep_writev(sqe, file.fd(), iov.data(), count, offset);
    if (op.kind == IoOp::Kind::write_fua) sqe->rw_flags = RWF_DSYNC;
  }
  io_uring_sqe_set_data(sqe, &slot);
  return true;
}

// A write must not make a file longer that was cut off.
int RingQueue::error_before(const IoOp& op, uint64_t total) {
  if (op.kind != IoOp::Kind::write && op.kind != IoOp::Kind::write_fua) return 0;
  const FileImage& image = image_of(op);
  const Status inside = image.file().check_end(image.start() + op.offset + total);
  return inside ? 0 : inside.error().code();
}

// Puts what waits into the submission queue. True if something is left that found no room there.
bool RingQueue::fill() {
  while (!again_.empty()) {
    if (!prepare(*again_.back())) return true;
    again_.pop_back();
  }
  while (!waiting_.empty()) {
    if (free_.empty()) {
      if (slots_.size() == most_under_way) return false;  // completions make room
      slots_.push_back(std::make_unique<Slot>());
      free_.push_back(slots_.back().get());
    }
    if (io_uring_sq_space_left(&ring_) == 0) return true;
    Slot& slot = *free_.back();
    free_.pop_back();
    slot.op = &waiting_.pop();
    slot.total = total_length(slot.op->iov);
    slot.moved = 0;
    slot.retries = 0;
    slot.begun = image_of(*slot.op).counters().begin();
    slot.error = error_before(*slot.op, slot.total);
    prepare(slot);
  }
  return false;
}

void RingQueue::push() {
  while (true) {
    const bool more = fill();
    if (io_uring_sq_ready(&ring_) == 0) return;
    const int sent = io_uring_submit(&ring_);
    // Out of memory or the like: what was not taken stays for the next time.
    if (sent < 0 && sent != -EINTR) return;
    if (!more) return;
  }
}

void RingQueue::reap(Wait wait) {
  const uint64_t before = completed_;
  while (true) {
    push();
    // A completion's done() may come back here: each is taken out before it is told.
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe) {
      Slot& slot = *static_cast<Slot*>(io_uring_cqe_get_data(cqe));
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      complete(slot, result);
    }
    if (!again_.empty() || !waiting_.empty()) push();
    if (wait == Wait::no || completed_ != before || in_flight_ == 0) return;
    const BlockingScope blocked;
    io_uring_submit_and_wait(&ring_, 1);
  }
}

void RingQueue::complete(Slot& slot, int result) {
  IoOp& op = *slot.op;
  ImageFile& file = image_of(op).file();
  if (slot.error != 0) return finish(slot, slot.error);
  if (op.kind == IoOp::Kind::flush && result != -EINTR && result != -EAGAIN) {
    if (result < 0) file.sync_failed(-result);
    const Status state = file.sync_state();
    return finish(slot, state ? 0 : state.error().code());
  }
  if (result == -EAGAIN || result == -EINTR) {
    constexpr unsigned most_retries = 16;
    if (++slot.retries > most_retries) return finish(slot, EIO);
    again_.push_back(&slot);
    return;
  }
  if (result < 0) return finish(slot, -result);
  if (result == 0 && slot.moved < slot.total) return finish(slot, EIO);  // the image ended
  if (advance(slot, result)) return finish(slot, 0);
  again_.push_back(&slot);
}

// Accounts for bytes moved; true when there are no more to move.
bool RingQueue::advance(Slot& slot, int result) {
  const auto bytes = static_cast<uint64_t>(result);
  if (slot.bounced && slot.op->kind == IoOp::Kind::read)
    copy_to_slices(slot.op->iov, slot.moved,
                   {static_cast<const std::byte*>(slot.rest[0].iov_base), bytes});
  slot.moved += bytes;
  return slot.moved >= slot.total;
}

IoClass class_of(IoOp::Kind kind) {
  if (kind == IoOp::Kind::flush) return IoClass::flush;
  return kind == IoOp::Kind::read ? IoClass::read : IoClass::write;
}

void RingQueue::finish(Slot& slot, int error) {
  IoOp& op = *slot.op;
  image_of(op).counters().end(class_of(op.kind), slot.begun, slot.total, error != 0);
  slot.op = nullptr;
  free_.push_back(&slot);
  --in_flight_;
  ++completed_;
  op.error = error;
  op.completion->done(op);
}

std::atomic<bool> allowed{true};
std::atomic<bool> refusal_told{false};

struct ThreadRing {
  std::unique_ptr<RingQueue> queue;
  bool refused = false;
};
thread_local ThreadRing thread_ring;

}  // namespace

IoQueue* thread_queue() {
  ThreadRing& mine = thread_ring;
  if (mine.queue) return mine.queue.get();
  if (mine.refused || !allowed.load(std::memory_order_relaxed) || scheduler()) return nullptr;
  int error = 0;
  mine.queue = RingQueue::make(&error);
  if (mine.queue) return mine.queue.get();
  mine.refused = true;
  if (!refusal_told.exchange(true))
    log_info("io_uring is not to be had ({}): images are read and written by blocking calls",
             Error::sys(error, "").text());
  return nullptr;
}

void allow_thread_queues(bool may) {
  allowed.store(may);
}

void close_thread_queue() {
  thread_ring = {};
}

}  // namespace volfs
