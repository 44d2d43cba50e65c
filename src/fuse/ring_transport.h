// SPDX-License-Identifier: GPL-2.0-or-later
// Serves a FUSE connection by io_uring, where the kernel offers it: each CPU has a queue of its
// own, served by a thread that stays there, so that a request and its answer never wait for another
// CPU. Requests for data go to the open file, between the image and the memory that the kernel
// copies from or to; everything else is libfuse's. Interrupts, forgets and notifications keep to
// /dev/fuse.
//
// Memory: each CPU begins with 2 to 8 entries of 1 MiB, and gets up to 8 to 32, 48 in all on few
// CPUs, when as many requests are under way at once. Only what requests fill is ever taken from the
// system, and the kernel uses the entry first that was free last. As many are added as there ever
// are requests beyond that which wait for something else than images.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "ring_entry.h"
#include "ring_queue.h"
#include "volfs/error.h"
#include "volfs/sync.h"

struct fuse_session;
struct iovec;

namespace volfs::fuse {

class RingTransport final : private RingHost {
 public:
  // FD is the connection; it is not owned.
  RingTransport(fuse_session* session, int fd) : session_(session), fd_(fd) {}
  // Nothing is under way any more.
  ~RingTransport();

  // Before the answer to INIT says that rings will come: makes them, for requests of at most
  // MOST_DATA bytes. An error says what this machine does not allow.
  Status prepare(size_t most_data);
  // After it. The kernel holds requests back until it has all queues.
  void start();
  // Instead: there will be no rings.
  void give_up();
  // Waits until the connection has ended and no thread serves.
  void join();

  // Sends libfuse's answer, if it is for a request that came by a ring; false: it is not.
  bool answer(const iovec* iov, int count);
  // Whether requests come by rings. The kernel may refuse them late.
  bool active() const { return active_.load(std::memory_order_relaxed); }
  // CPUs with a queue of their own.
  size_t queues() const { return queues_.size(); }

 private:
  void process(RingEntry& entry) override;
  void refused(int error) override;
  int connection() const override { return fd_; }

  fuse_session* const session_;
  const int fd_;
  std::atomic<bool> active_{false};
  std::vector<std::unique_ptr<RingQueue>> queues_;

  // Entries whose request libfuse has, by its number.
  RingEntry*& bucket(uint64_t unique) { return waiting_[unique / 2 % waiting_.size()]; }
  Mutex mutex_;  // guards waiting_ and the links of its entries
  std::array<RingEntry*, 64> waiting_{};
};

// The numbers in a list as the kernel writes those of CPUs: "0-3,8". Empty if it is none.
std::vector<unsigned> parse_cpu_list(const std::string& text);

}  // namespace volfs::fuse
