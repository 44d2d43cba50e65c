// SPDX-License-Identifier: GPL-2.0-or-later
#include "ring_entry.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernel_order.h"
#include "ring_queue.h"
#include "volfs/units.h"

namespace volfs::fuse {
namespace {

constexpr size_t entry_page = 4096;
// Before the payload there is room to put header and arguments, for libfuse.
constexpr size_t most_headers = sizeof(fuse_in_header) + sizeof(RingHeader::arguments);
static_assert(sizeof(RingHeader) + most_headers <= entry_page);

}  // namespace

bool RingRequest::begin_or_leave() {
  if (use_.exchange(Use::left, std::memory_order_acq_rel) == Use::busy) return false;
  use_.store(Use::busy, std::memory_order_relaxed);
  return true;
}

void RingRequest::recycle() {
  kept_.reset();
  if (use_.exchange(Use::free, std::memory_order_acq_rel) == Use::left) delete this;
}

// What cancel() answers early is a read or has no memory; a queued write is not begun any more.
bool RingRequest::about_to_wait() {
  if (kind != Kind::read || memory.empty()) return true;
  const size_t size = round_up(memory.size(), entry_page);
  kept_.reset(static_cast<std::byte*>(std::aligned_alloc(entry_page, size)));
  if (!kept_) return false;
  memory = {kept_.get(), memory.size()};
  return true;
}

void RingRequest::reply(int error, size_t count) {
  const std::span<std::byte> payload = entry_.payload();
  size_t size = 0;
  if (error == 0 && kind == Kind::read) {
    size = count;
    if (kept_) std::memcpy(payload.data(), kept_.get(), count);
  } else if (error == 0 && kind == Kind::write) {
    fuse_write_out written{};
    written.size = static_cast<uint32_t>(count);
    size = sizeof written;
    std::memcpy(payload.data(), &written, size);
  }
  entry_.answer(error, size);
  entry_.queue().commit(entry_);
}

std::unique_ptr<RingEntry> RingEntry::make(RingQueue& queue, RingLane& lane, size_t payload) {
  void* const memory = mmap(nullptr, entry_page + payload, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  return std::unique_ptr<RingEntry>(
      new RingEntry(queue, lane, static_cast<std::byte*>(memory), payload));
}

RingEntry::RingEntry(RingQueue& queue, RingLane& lane, std::byte* memory, size_t payload)
    : Awaited(Kind::entry),
      queue_(queue),
      lane_(lane),
      memory_{{memory, sizeof(RingHeader)}, {memory + entry_page, payload}},
      request_(new RingRequest(*this)) {}

RingEntry::~RingEntry() {
  if (request_->begin_or_leave()) delete request_;
  munmap(memory_[0].iov_base, entry_page + memory_[1].iov_len);
}

bool RingEntry::take(fuse_in_header& in) {
  after_request();
  std::memcpy(&in, header().in_out, sizeof in);
  unique_ = in.unique;
  received_ = header().payload_size;
  if (in.len < sizeof in + received_ || received_ > payload().size()) return false;
  arguments_size_ = in.len - sizeof in - received_;
  return arguments_size_ <= sizeof(RingHeader::arguments);
}

std::span<std::byte> RingEntry::in_one_piece() {
  std::byte* const arguments = payload().data() - arguments_size_;
  std::byte* const begin = arguments - sizeof(fuse_in_header);
  std::memcpy(begin, header().in_out, sizeof(fuse_in_header));
  std::memcpy(arguments, header().arguments, arguments_size_);
  return {begin, sizeof(fuse_in_header) + arguments_size_ + received_};
}

RingRequest& RingEntry::request() {
  if (!request_->begin_or_leave()) {
    request_ = new RingRequest(*this);
    request_->begin_or_leave();
  }
  return *request_;
}

void RingEntry::answer(int error, size_t size) {
  before_answer();
  fuse_out_header out{};
  out.len = static_cast<uint32_t>(sizeof out + size);
  out.error = -error;
  out.unique = unique_;
  std::memcpy(header().in_out, &out, sizeof out);
  header().payload_size = static_cast<uint32_t>(size);
}

bool RingEntry::answer_with(const iovec* iov, int count) {
  fuse_out_header out;
  std::memcpy(&out, iov[0].iov_base, sizeof out);
  const std::span<std::byte> room = payload();
  size_t size = 0;
  for (int i = 1; i < count; ++i) {
    if (iov[i].iov_len > room.size() - size) return false;
    if (iov[i].iov_len > 0) std::memcpy(room.data() + size, iov[i].iov_base, iov[i].iov_len);
    size += iov[i].iov_len;
  }
  answer(-out.error, size);
  return true;
}

}  // namespace volfs::fuse
