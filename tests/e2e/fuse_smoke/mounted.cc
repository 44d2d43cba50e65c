// SPDX-License-Identifier: GPL-2.0-or-later
#include "mounted.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <mutex>
#include <string_view>

namespace volfs::test {

bool GatedDevice::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  if (wait == Wait::yes)
    gate_.enter();
  else if (!gate_.try_enter())
    return false;
  out.hold(gate_);
  return below_.map(op, offset, length, wait, out);
}

// Carries operations out when they are reaped, never before.
class ThreadQueue final : public IoQueue {
 public:
  ThreadQueue() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  ~ThreadQueue() { ::close(fd_); }
  void submit(IoOp& op) override {
    ops_.push_back(&op);
    eventfd_write(fd_, 1);
  }
  void push() override {}
  void reap(Wait) override {
    eventfd_t count = 0;
    eventfd_read(fd_, &count);
    for (size_t n = ops_.size(); n > 0; --n) {
      IoOp& op = *ops_.front();
      ops_.pop_front();
      auto& device = static_cast<QueuedDevice&>(*op.device);
      device.submitted.fetch_add(1);
      Status status;
      if (device.fail_next.exchange(false)) {
        status = fail_sys(EIO, "");
      } else if (op.kind == IoOp::Kind::read) {
        status = device.below_.read(op.offset, op.iov);
      } else if (op.kind == IoOp::Kind::flush) {
        status = device.below_.flush();
      } else {
        status = device.below_.write(op.offset, op.iov,
                                     op.kind == IoOp::Kind::write_fua ? Fua::yes : Fua::no);
      }
      op.error = status ? 0 : status.error().code();
      op.completion->done(op);
    }
  }
  int wait_fd() const override { return fd_; }
  size_t in_flight() const override { return ops_.size(); }

 private:
  const int fd_;
  std::deque<IoOp*> ops_;
};

IoQueue* QueuedDevice::do_queue() {
  thread_local ThreadQueue queue;
  return &queue;
}

Status InlineWaiter::do_read(uint64_t, IoSpan iov) {
  gate.enter();
  gate.exit();
  zero_slices(iov, 0, total_length(iov));
  return {};
}

namespace {

std::string make_directory() {
  char path[] = "/tmp/volfs-smoke-XXXXXX";
  const char* made = mkdtemp(path);
  return made ? made : "";
}

}  // namespace

Mounted::Mounted(fuse::Options options)
    : directory_(make_directory()),
      catalog_({.mode = 0640, .uid = getuid(), .gid = getgid()}),
      options_(std::move(options)) {
  options_.mountpoint = directory_;
  options_.source = "a test, of files";
  const char* transport = std::getenv("VOLFS_TRANSPORT");
  const bool ring = transport && std::string_view(transport) == "ring";
  options_.transport = ring ? fuse::Transport::ring : fuse::Transport::threads;
}

void Mounted::start() {
  auto server = fuse::Server::mount(catalog_, options_);
  if (!server) FAIL(server.error().text());
  server_ = std::move(*server);
  for (auto& each : info) server_->add_info_file(each);
  server_->set_control([this](std::string text, const auto&) { return control(std::move(text)); });
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  auto thread = Thread::start("server", [this, &mutex, &changed, &ready] {
    auto status = server_->serve([&] {
      const std::lock_guard lock(mutex);
      ready = true;
      changed.notify_all();
    });
    CHECK(status.has_value());
  });
  REQUIRE(thread.has_value());
  thread_ = std::move(*thread);
  const std::lock_guard lock(mutex);
  changed.wait(mutex, [&] { return ready; });
}

void Mounted::wait() {
  thread_.join();
  server_.reset();
}

void Mounted::stop() {
  if (!server_) return;
  server_->stop();
  wait();
}

Mounted::~Mounted() {
  stop();
  rmdir(directory_.c_str());
}

Fd::Fd(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {
  INFO(path);
  REQUIRE(fd_ >= 0);
}
Fd::~Fd() {
  close();
}
void Fd::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

std::vector<std::byte> pattern(size_t size, uint64_t seed) {
  std::vector<std::byte> out(size);
  uint64_t state = seed * 0x9e3779b97f4a7c15U + 1;
  for (auto& each : out) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    each = static_cast<std::byte>(state >> 56);
  }
  return out;
}

std::vector<std::byte> pread_all(int fd, uint64_t offset, size_t size) {
  std::vector<std::byte> out(size);
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, out.data() + done, size - done, static_cast<off_t>(offset + done));
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  out.resize(done);
  return out;
}

}  // namespace volfs::test
