// SPDX-License-Identifier: GPL-2.0-or-later
#include "dev_transport.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "kernel_order.h"
#include "volfs/log.h"
#include "volfs/units.h"
#include "wire.h"

namespace volfs::fuse {
namespace {

constexpr size_t page = 4096;
constexpr size_t max_data = MiB;
// libfuse and the kernel want room for 4 KiB of header besides the data.
constexpr size_t receive_size = max_data + page;
// Headers of a write are so long; what follows them then begins at a page.
constexpr size_t write_headers = sizeof(fuse_in_header) + sizeof(fuse_write_in);
constexpr size_t most_free_requests = 64;
constexpr Nanos idle_thread = std::chrono::seconds(10);

}  // namespace

// A request read from the connection, with the memory it lives in. Reused.
class DevTransport::Request final : public DataRequest {
 public:
  static Request* make(DevTransport& transport) {
    void* const fresh =
        mmap(nullptr, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) return nullptr;
    return new Request(transport, static_cast<std::byte*>(fresh));
  }
  ~Request() override { munmap(memory_, memory_size); }

  std::byte* wire() const { return memory_ + page - write_headers; }
  std::byte* data() const { return memory_ + page; }
  void begin(uint64_t unique) { unique_ = unique; }

  void reply(int error, size_t count) override {
    fuse_out_header header{};
    header.error = -error;
    header.unique = unique_;
    fuse_write_out written{};
    iovec iov[2] = {{&header, sizeof header}, {nullptr, 0}};
    int parts = 1;
    if (error == 0 && kind == Kind::read) {
      iov[1] = {data(), count};
      parts = count > 0 ? 2 : 1;
    } else if (error == 0 && kind == Kind::write) {
      written.size = static_cast<uint32_t>(count);
      iov[1] = {&written, sizeof written};
      parts = 2;
    }
    header.len = static_cast<uint32_t>(sizeof header + (parts == 2 ? iov[1].iov_len : 0));
    // ENOENT: the asker was killed and is gone. ENODEV: the connection is.
    if (transport_.send(iov, parts) < 0 && errno != ENOENT && errno != ENODEV)
      log_error("answer to the kernel: {}", std::strerror(errno));
  }
  void recycle() override { transport_.give_back(this); }

 private:
  static constexpr size_t memory_size = receive_size + 2 * page;
  Request(DevTransport& transport, std::byte* fresh) : transport_(transport), memory_(fresh) {}

  DevTransport& transport_;
  std::byte* const memory_;
  uint64_t unique_ = 0;
};

// What a serving thread knows of itself.
class DevTransport::Server final : public BlockingObserver {
 public:
  explicit Server(DevTransport& transport) : transport_(transport) {}
  void blocking() override { transport_.about_to_block(); }
  void unblocked() override { transport_.goes_on(); }

  ServingContext context;
  bool polls = false;  // whether this thread asked for non-blocking reads

 private:
  DevTransport& transport_;
};

DevTransport::DevTransport(fuse_session* session, int fd, DataPath& path, unsigned threads)
    : session_(session), fd_(fd), path_(path), target_(std::max(1U, threads)) {}

DevTransport::~DevTransport() {
  for (Request* request : free_) delete request;
  if (ended_fd_ >= 0) close(ended_fd_);
}

Status DevTransport::start() {
  ended_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (ended_fd_ < 0) return fail_sys(errno, "eventfd");
  const std::lock_guard lock(mutex_);
  for (unsigned i = 0; i < target_; ++i) add_thread();
  if (live_ == 0) return fail_sys(EAGAIN, "start a serving thread");
  return {};
}

ssize_t DevTransport::send(const iovec* iov, int count) const {
  before_answer();
  return writev(fd_, iov, count);
}

DevTransport::Request* DevTransport::take() {
  {
    const std::lock_guard lock(pool_mutex_);
    if (!free_.empty()) {
      Request* const request = free_.back();
      free_.pop_back();
      return request;
    }
  }
  return Request::make(*this);
}

void DevTransport::give_back(Request* request) {
  {
    const std::lock_guard lock(pool_mutex_);
    if (free_.size() < most_free_requests) {
      if (free_.capacity() == 0) free_.reserve(most_free_requests);
      free_.push_back(request);
      return;
    }
  }
  delete request;
}

// With mutex_ held.
void DevTransport::add_thread() {
  size_t slot = 0;
  while (slot < threads_.size() && threads_[slot].joinable()) ++slot;
  if (slot == threads_.size()) threads_.emplace_back();
  auto thread = Thread::start("fuse", [this, slot] { run(slot); });
  if (!thread) {
    log_error("{}", thread.error().text());
    return;
  }
  threads_[slot] = std::move(*thread);
  active_.fetch_add(1, std::memory_order_relaxed);
  ++live_;
  if (live_ > peak_.load(std::memory_order_relaxed)) peak_.store(live_, std::memory_order_relaxed);
}

void DevTransport::reap_ended() {
  for (const size_t slot : ended_threads_) threads_[slot].join();
  ended_threads_.clear();
}

// A serving thread is going to wait for another thread: see to it that enough others serve.
void DevTransport::about_to_block() {
  if (active_.fetch_sub(1, std::memory_order_relaxed) > target_) return;
  const std::lock_guard lock(mutex_);
  if (ended_.load() || active_.load(std::memory_order_relaxed) + wanted_ >= target_) return;
  if (parked_ > wanted_) {
    ++wanted_;
    wake_.notify_one();
    return;
  }
  reap_ended();
  add_thread();
}

void DevTransport::goes_on() {
  active_.fetch_add(1, std::memory_order_relaxed);
}

// Too many threads serve: waits until one is needed. False if this one should end.
bool DevTransport::park() {
  const std::lock_guard lock(mutex_);
  if (!surplus()) return true;
  active_.fetch_sub(1, std::memory_order_relaxed);
  ++parked_;
  const auto needed = [this] { return wanted_ > 0 || ended_.load(); };
  const TimePoint deadline = now() + idle_thread;
  wake_.wait_until(mutex_, deadline, needed);
  --parked_;
  if (wanted_ == 0) return false;
  --wanted_;
  active_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void DevTransport::end() {
  const std::lock_guard lock(mutex_);
  if (ended_.exchange(true)) return;
  wake_.notify_all();
  eventfd_write(ended_fd_, 1);
}

void DevTransport::join() {
  std::vector<Thread> threads;
  {
    const std::lock_guard lock(mutex_);
    gone_.wait(mutex_, [this] { return live_ == 0; });
    threads = std::move(threads_);
    threads_.clear();
    ended_threads_.clear();
  }
  for (Thread& thread : threads) thread.join();
}

void DevTransport::run(size_t slot) {
  {
    // The starter stores the Thread before anything here can end.
    const std::lock_guard lock(mutex_);
  }
  Server self(*this);
  Request* request = nullptr;
  bool counted = true;  // in active_
  while (!ended_.load(std::memory_order_relaxed)) {
    if (surplus() && !self.context.busy() && !park()) {
      counted = false;
      break;
    }
    set_blocking_observer(&self);
    const bool more = serve_one(self, request);
    set_blocking_observer(nullptr);
    if (!more) end();
  }
  while (self.context.busy()) self.context.queue->reap(Wait::yes);
  if (self.polls) nonblocking(false);
  if (request) give_back(request);
  const std::lock_guard lock(mutex_);
  if (counted) active_.fetch_sub(1, std::memory_order_relaxed);
  ended_threads_.push_back(slot);
  if (--live_ == 0) gone_.notify_all();
}

// Reads of the connection block as long as no thread has operations under way.
void DevTransport::nonblocking(bool yes) {
  const std::lock_guard lock(mode_mutex_);
  const bool before = nonblocking_ > 0;
  nonblocking_ += yes ? 1U : ~0U;
  const bool after = nonblocking_ > 0;
  if (before == after) return;
  const int flags = fcntl(fd_, F_GETFL);
  fcntl(fd_, F_SETFL, after ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

void DevTransport::wait_readable(Server& self) {
  pollfd fds[2] = {{fd_, POLLIN, 0}, {-1, POLLIN, 0}};
  if (self.context.busy()) fds[1].fd = self.context.queue->wait_fd();
  // Another thread that blocked in read() before reads became non-blocking may take what made the
  // connection readable; then poll is called again.
  poll(fds, 2, -1);
}

// One request, or one round of completions. False when the connection has ended.
bool DevTransport::serve_one(Server& self, Request*& request) {
  if (self.context.busy() != self.polls) {
    self.polls = !self.polls;
    nonblocking(self.polls);
  }
  if (self.polls) self.context.queue->reap(Wait::no);
  if (!request && !(request = take())) {
    log_error("no memory for a request");
    sleep_for(std::chrono::milliseconds(10));
    return true;
  }
  const ssize_t length = read(fd_, request->wire(), receive_size);
  if (length < 0) {
    switch (errno) {
      case EAGAIN:
        wait_readable(self);
        return true;
      case EINTR:
      case ENOENT:  // the request was withdrawn
        return true;
      case ENODEV:  // unmounted, or the connection was aborted
      case ECONNABORTED:
        return false;
      default:
        log_error("read /dev/fuse: {}", std::strerror(errno));
        return false;
    }
  }
  after_request();
  if (dispatch(self, *request, static_cast<size_t>(length))) request = nullptr;
  return true;
}

// True if REQUEST is now the file's, which recycles it.
bool DevTransport::dispatch(Server& self, Request& request, size_t length) {
  fuse_in_header header;
  if (length < sizeof header) return false;
  std::memcpy(&header, request.wire(), sizeof header);
  request.begin(header.unique);
  const std::span<const std::byte> arguments{request.wire() + sizeof header,
                                             length - sizeof header};
  const size_t received = length > write_headers ? length - write_headers : 0;
  if (File* file =
          take_data_request({header, arguments, {request.data(), max_data}, received}, request)) {
    file->handle(request, self.context);
    return true;
  }
  if (header.opcode == FUSE_INTERRUPT && arguments.size() >= sizeof(fuse_interrupt_in)) {
    fuse_interrupt_in interrupt;
    std::memcpy(&interrupt, arguments.data(), sizeof interrupt);
    path_.cancel(interrupt.unique);
    return false;
  }
  if (header.opcode == FUSE_INIT && init_seen) init_seen(arguments);
  fuse_buf buffer{};
  buffer.mem = request.wire();
  buffer.size = length;
  set_request_in_hand(header.unique);
  fuse_session_process_buf(session_, &buffer);
  set_request_in_hand(0);
  return false;
}

}  // namespace volfs::fuse
