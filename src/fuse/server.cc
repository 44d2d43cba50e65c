// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/fuse/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "dev_transport.h"
#include "kernel_order.h"
#include "mount.h"
#include "notifier.h"
#include "operations.h"
#include "ring_transport.h"
#include "volfs/log.h"
#include "volfs/process_name.h"

namespace volfs::fuse {
namespace {

// Flags of INIT that libfuse 3.14 does not know, in the upper half: those of 7.36 and later.
constexpr uint32_t init_direct_io_allow_mmap = 1U << 4;

unsigned thread_count(unsigned wanted) {
  if (wanted > 0) return std::min(wanted, 256U);
  cpu_set_t cpus;
  const int count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
  return static_cast<unsigned>(std::clamp(count, 2, 4));
}

// What writev(2) returns when it has written all.
ssize_t answered_all(const iovec* iov, int count) {
  size_t total = 0;
  for (int i = 0; i < count; ++i) total += iov[i].iov_len;
  return static_cast<ssize_t>(total);
}

class MountedServer final : public Server {
 public:
  MountedServer(engine::Catalog& catalog, const Options& options)
      : options_(options),
        catalog_(catalog),
        tree_(catalog),
        path_(workers_),
        operations_(tree_, path_, options_),
        notifier_(catalog_) {
    path_.wrong_size = [this](const engine::Volume& volume) { notifier_.forget(volume); };
  }
  ~MountedServer() override;

  Status mount(const std::string& mountpoint);
  void add_info_file(InfoFile file) override { tree_.add_info_file(std::move(file)); }
  void set_control(ControlHandler handle) override;
  void set_events(engine::EventHub& hub) override;
  Status serve(const std::function<void()>& ready) override;
  const char* transport() const override {
    return ring_ && ring_->active() ? "io_uring" : "threads";
  }
  std::string transport_text() const override;
  void stop() override;

 private:
  static ssize_t send(int, iovec* iov, int count, void* user_data);
  static ssize_t receive(int, void*, size_t, void*);
  ssize_t send_init(const iovec* iov, int count);
  bool connected() const;
  bool unmount();
  void forget_mount();
  void init_seen(std::span<const std::byte> arguments);
  bool prepare_ring(const fuse_init_out& out);
  Status begin(const std::function<void()>& ready);
  bool wait_ready(int ended_fd);
  void wait_end(int ended_fd);

  const Options options_;
  engine::Catalog& catalog_;
  Tree tree_;
  WorkerPool workers_;
  DataPath path_;
  Operations operations_;
  fuse_session* session_ = nullptr;
  std::string mountpoint_;
  MountIdentity own_;
  bool libfuse_mounted_ = false;
  int fd_ = -1;       // the connection; libfuse closes its own when it unmounts
  int stop_fd_ = -1;  // readable once stop() was called
  std::unique_ptr<DevTransport> transport_;
  std::unique_ptr<RingTransport> ring_;  // there from INIT on, if at all
  std::string no_ring_;                  // why not
  Notifier notifier_;
  int ready_fd_ = -1;  // readable once INIT was answered
  std::atomic<bool> init_sent_{false};
};

ssize_t MountedServer::receive(int, void*, size_t, void*) {
  // The transport reads by itself; libfuse only asks for the function.
  errno = ENOSYS;
  return -1;
}

ssize_t MountedServer::send(int, iovec* iov, int count, void* user_data) {
  return static_cast<Operations*>(user_data)->send(iov, count);
}

// The first thing that is sent is the answer to INIT, to which is added what libfuse cannot say.
ssize_t MountedServer::send_init(const iovec* iov, int count) {
  fuse_init_out out{};
  iovec changed[2];
  const bool is_init = count == 2 && iov[1].iov_len == sizeof out;
  if (is_init) {
    std::memcpy(&out, iov[1].iov_base, sizeof out);
    // Kernels that do not know a flag do not look at it.
    log_debug("init: 7.{}, flags {:#x} {:#x}", out.minor, out.flags, out.flags2);
    out.flags |= FUSE_INIT_EXT;
    out.flags2 |= init_direct_io_allow_mmap;
    if (prepare_ring(out)) out.flags2 |= init_over_io_uring;
    changed[0] = iov[0];
    changed[1] = {&out, sizeof out};
    iov = changed;
  }
  const ssize_t sent = writev(fd_, iov, count);
  if (is_init) {
    if (ring_) sent >= 0 ? ring_->start() : ring_->give_up();
    init_sent_.store(true, std::memory_order_release);
    eventfd_write(ready_fd_, 1);
  }
  return sent;
}

void MountedServer::init_seen(std::span<const std::byte> arguments) {
  fuse_init_in in{};
  if (arguments.size() < sizeof in) {
    no_ring_ = "the kernel is too old for io_uring";
    return;
  }
  std::memcpy(&in, arguments.data(), sizeof in);
  if ((in.flags & FUSE_INIT_EXT) == 0 || (in.flags2 & init_over_io_uring) == 0)
    no_ring_ =
        "the kernel does not offer io_uring (from 6.14 on, root can say: echo Y > "
        "/sys/module/fuse/parameters/enable_uring)";
}

// True if requests may come by rings from here on.
bool MountedServer::prepare_ring(const fuse_init_out& out) {
  if (options_.transport == Transport::threads || !no_ring_.empty()) return false;
  ring_ = std::make_unique<RingTransport>(session_, fd_);
  const size_t pages = static_cast<size_t>(sysconf(_SC_PAGESIZE)) * out.max_pages;
  const Status prepared = ring_->prepare(std::max<size_t>(out.max_write, pages));
  if (prepared) {
    path_.interrupts_get_lost.store(true);
    return true;
  }
  no_ring_ = prepared.error().text();
  ring_.reset();
  return false;
}

Status MountedServer::mount(const std::string& mountpoint) {
  std::string given = mount_options(options_);
  std::string name = "volfs", dash_o = "-o", debug = "-d";
  char* arguments[] = {name.data(), dash_o.data(), given.data(), debug.data(), nullptr};
  fuse_args args = FUSE_ARGS_INIT(options_.debug ? 4 : 3, arguments);
  const FuseMessages messages;
  const auto failure = [&](int code, const char* what) {
    return fail(Error::make(
        code, fmt::format("{}: {}: {}", options_.mountpoint, what,
                          messages.text().empty() ? std::strerror(code) : messages.text())));
  };
  session_ = fuse_session_new(&args, &Operations::table(), sizeof(fuse_lowlevel_ops), &operations_);
  fuse_opt_free_args(&args);
  if (!session_) return failure(EINVAL, "mount options");
  errno = 0;
  if (fuse_session_mount(session_, mountpoint.c_str()) != 0) {
    const int code = errno != 0 ? errno : EIO;
    return failure(code, "mount");
  }
  mountpoint_ = mountpoint;
  own_ = mount_at(mountpoint);
  if (own_.device != 0) catalog_.set_file_system(own_.device);
  libfuse_mounted_ = true;
  fuse_custom_io io{};
  io.writev = send;
  io.read = receive;
  operations_.send = [this](const iovec* iov, int count) {
    if (!init_sent_.load(std::memory_order_acquire)) return send_init(iov, count);
    if (ring_ && ring_->answer(iov, count)) return answered_all(iov, count);
    before_answer();
    return writev(fd_, iov, count);
  };
  fd_ = fcntl(fuse_session_fd(session_), F_DUPFD_CLOEXEC, 3);
  stop_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  ready_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd_ < 0 || stop_fd_ < 0 || ready_fd_ < 0 ||
      fuse_session_custom_io(session_, &io, fuse_session_fd(session_)) != 0) {
    const int code = errno;
    unmount();
    return failure(code, "mount");
  }
  fcntl(fuse_session_fd(session_), F_SETFD, FD_CLOEXEC);
  return {};
}

MountedServer::~MountedServer() {
  if (session_) {
    unmount();
    forget_mount();
    fuse_session_destroy(session_);
  }
  for (const int fd : {fd_, stop_fd_, ready_fd_})
    if (fd >= 0) close(fd);
}

bool MountedServer::connected() const {
  pollfd severed{fd_, 0, 0};
  return poll(&severed, 1, 0) == 0 || (severed.revents & POLLERR) == 0;
}

// Lazily: open files are served until their last close. Only our own mount is taken off, wherever
// it is by now, and nothing if others have done it. False if others are in the way.
bool MountedServer::unmount() {
  if (!libfuse_mounted_ || (fd_ >= 0 && !connected())) return true;
  const std::string place = own_.device != 0 ? place_of(mountinfo(), own_) : mountpoint_;
  if (place.empty()) return true;
  if (own_.device != 0 && mount_at(place) != own_) {
    log_warning("{}: another mount covers this one: unmount that first", place);
    return false;
  }
  if (place == mountpoint_) {
    fuse_session_unmount(session_);
    libfuse_mounted_ = false;
    return true;
  }
  if (umount2(place.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return true;
  log_warning("{}: mounted at {}, moved here, and not to be unmounted by this user: {}", place,
              mountpoint_, std::strerror(errno));
  return false;
}

// At its end libfuse would take off what is at the path by now. It leaves that alone when its
// connection has an error, which is what a pipe has that nobody reads.
void MountedServer::forget_mount() {
  int ends[2];
  if (!libfuse_mounted_ || pipe2(ends, O_CLOEXEC) != 0) return;
  close(ends[0]);
  const bool replaced = dup2(ends[1], fuse_session_fd(session_)) >= 0;
  close(ends[1]);
  if (replaced) fuse_session_unmount(session_);
  libfuse_mounted_ = false;
}

void MountedServer::set_control(ControlHandler handle) {
  // Whoever reads the reply finds what it speaks of: new names, another size.
  operations_.control = [this, handle = std::move(handle)](std::string request,
                                                           const std::function<bool()>& abandoned) {
    const uint64_t before = notifier_.noted();
    std::string reply = handle(std::move(request), abandoned);
    notifier_.settle(before);
    return reply;
  };
  tree_.set_control();
}

void MountedServer::set_events(engine::EventHub& hub) {
  operations_.events = &hub;
  tree_.set_events();
}

std::string MountedServer::transport_text() const {
  if (ring_) return fmt::format("io_uring on {} CPUs", ring_->queues());
  return no_ring_.empty() || options_.transport == Transport::threads ? "threads"
                                                                      : "threads: " + no_ring_;
}

void MountedServer::stop() {
  // eventfd_write is a write(2): all that a signal handler may do.
  eventfd_write(stop_fd_, 1);
}

// False if the end comes first.
bool MountedServer::wait_ready(int ended_fd) {
  pollfd fds[3] = {{ready_fd_, POLLIN, 0}, {ended_fd, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (poll(fds, 3, -1) < 0 && errno == EINTR) continue;
  // The load, for what was done before it was stored is looked at next.
  return (fds[0].revents & POLLIN) != 0 && init_sent_.load(std::memory_order_acquire);
}

void MountedServer::wait_end(int ended_fd) {
  pollfd fds[2] = {{ended_fd, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while ((fds[0].revents & POLLIN) == 0) {
    if (poll(fds, 2, -1) < 0 && errno != EINTR) break;
    if ((fds[1].revents & POLLIN) == 0) continue;
    // What is in the way may be gone when we are asked again.
    eventfd_t asked = 0;
    eventfd_read(stop_fd_, &asked);
    if (unmount()) fds[1].fd = -1;
    fds[1].revents = 0;
  }
}

// Requests are answered from here on. An error: not in the way that was asked for.
Status MountedServer::begin(const std::function<void()>& ready) {
  if (options_.transport == Transport::ring && !ring_)
    return fail(Error::make(EOPNOTSUPP,
                            fmt::format("{}: transport=ring: {}", options_.mountpoint, no_ring_)));
  if (auto status = notifier_.start(session_); !status) log_warning("{}", status.error().text());
  if (ready) ready();
  return {};
}

Status MountedServer::serve(const std::function<void()>& ready) {
  transport_ = std::make_unique<DevTransport>(session_, fd_, path_, thread_count(options_.threads));
  transport_->init_seen = [this](std::span<const std::byte> arguments) { init_seen(arguments); };
  VOLFS_TRY(transport_->start());
  Status status =
      fail(Error::make(ECANCELED, options_.mountpoint + ": ended before it was mounted"));
  if (wait_ready(transport_->ended_fd())) {
    status = begin(ready);
    if (!status) stop();
  }
  wait_end(transport_->ended_fd());
  name_process(ending_name);
  notifier_.stop();
  transport_->join();
  operations_.ending.store(true);
  if (operations_.events) operations_.events->end();
  if (ring_) ring_->join();
  workers_.drain();
  operations_.flush_written();
  unmount();
  return status;
}

}  // namespace

Status Server::check(const Options& options) {
  VOLFS_TRY(check_mount_point(options));
  return {};
}

Result<std::unique_ptr<Server>> Server::mount(engine::Catalog& catalog, const Options& options) {
  VOLFS_TRY_ASSIGN(const std::string mountpoint, check_mount_point(options));
  auto server = std::make_unique<MountedServer>(catalog, options);
  VOLFS_TRY(server->mount(mountpoint));
  return server;
}

}  // namespace volfs::fuse
