// SPDX-License-Identifier: GPL-2.0-or-later
// Serves a FUSE connection by threads that read /dev/fuse. Requests for data are taken from the
// wire here and go to the open file without libfuse, in memory that is laid out for O_DIRECT;
// everything else is libfuse's.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "data_path.h"
#include "volfs/error.h"
#include "volfs/sync.h"

struct fuse_session;
struct iovec;

namespace volfs::fuse {

class DevTransport {
 public:
  // FD is the connection; it is not owned. THREADS are kept serving.
  DevTransport(fuse_session* session, int fd, DataPath& path, unsigned threads);
  // After join().
  ~DevTransport();

  // Told of the arguments of INIT before libfuse is; set it before start().
  std::function<void(std::span<const std::byte>)> init_seen;

  Status start();
  // Readable when the connection has ended.
  int ended_fd() const { return ended_fd_; }
  // Waits until the connection has ended and no thread serves; requests on workers may still be
  // under way.
  void join();
  // Most threads there ever were; for status.
  unsigned peak_threads() const { return peak_.load(std::memory_order_relaxed); }

  // Sends an answer or a notification: what libfuse's custom I/O calls. As writev(2), with errno.
  ssize_t send(const iovec* iov, int count) const;

 private:
  class Request;
  class Server;
  void run(size_t slot);
  bool serve_one(Server& self, Request*& request);
  ssize_t receive(Server& self, Request& request);
  void wait_readable(Server& self);
  bool dispatch(Server& self, Request& request, size_t length);

  Request* take();
  void give_back(Request* request);

  void about_to_block();
  void goes_on();
  bool surplus() const { return active_.load(std::memory_order_relaxed) > target_; }
  bool park();
  void add_thread();
  void reap_ended();
  void end();
  void nonblocking(bool yes);

  fuse_session* const session_;
  const int fd_;
  DataPath& path_;
  const unsigned target_;
  int ended_fd_ = -1;
  std::atomic<bool> ended_{false};
  std::atomic<unsigned> active_{0};  // threads that serve and do not wait for another thread
  std::atomic<unsigned> peak_{0};

  Mutex mutex_;  // guards all below
  CondVar wake_;
  CondVar gone_;
  std::vector<Thread> threads_;
  std::vector<size_t> ended_threads_;  // indices of threads_ to join
  unsigned live_ = 0, parked_ = 0, wanted_ = 0;

  Mutex pool_mutex_;  // guards free_
  std::vector<Request*> free_;

  Mutex mode_mutex_;  // guards nonblocking_ and the flag of fd_
  unsigned nonblocking_ = 0;
};

}  // namespace volfs::fuse
