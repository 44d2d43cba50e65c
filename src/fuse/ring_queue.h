// SPDX-License-Identifier: GPL-2.0-or-later
// One CPU's requests by io_uring. One thread, kept on that CPU, leads: it waits for requests,
// carries them out and commits the answers. When it must wait for another thread in the middle of a
// request, a spare thread leads meanwhile; the answer then goes to whoever leads. Only the leader
// commits: the kernel gives an entry's next request to the thread that committed the last one.
#pragma once

#include <liburing.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "data_path.h"
#include "ring_entry.h"
#include "volfs/error.h"
#include "volfs/sync.h"

namespace volfs::fuse {

// What the queues have in common.
class RingHost {
 public:
  // A request that is libfuse's, on the leader's thread; its answer finds the entry by its number.
  virtual void process(RingEntry& entry) = 0;
  // The kernel did not take an entry, and goes on over /dev/fuse.
  virtual void refused(int error) = 0;
  virtual int connection() const = 0;

 protected:
  ~RingHost() = default;
};

class RingQueue {
 public:
  // Serves CPU and, for CPUs that are offline now, the queues of OTHERS. DEPTH entries to begin
  // with; more are added when all are in use at once: up to MOST for operations on images, and
  // beyond that for requests that wait for something else.
  RingQueue(RingHost& host, unsigned cpu, const std::vector<unsigned>& others, size_t payload,
            unsigned depth, unsigned most);
  ~RingQueue();

  // Makes the ring and its entries, by the thread that will lead. Then register_entries() or
  // give_up().
  Status start();
  void register_entries() { decide(Phase::serving); }
  void give_up() { decide(Phase::ended); }
  // Waits until the connection has ended and no thread is left.
  void join();

  // The entry's answer is written. Any thread.
  void commit(RingEntry& entry);

 private:
  enum class Phase : uint8_t { starting, prepared, failed, serving, ended };
  class Server;

  void decide(Phase phase);
  void run(bool first);
  Status set_up();
  bool add_entry(RingLane& lane);
  void lead(Server& self);
  void wait_events(Server& self);
  void handle(Server& self, Awaited& awaited, int result);
  void handle_entry(Server& self, RingEntry& entry, int result);
  void serve(Server& self, RingEntry& entry);
  void hand_over();
  bool start_thread();

  io_uring_sqe* get_sqe();
  void submit();
  bool prepare(RingEntry& entry, RingCommand command);
  void arm_wake();
  void commit_from_others();
  void relieve(const Server& self);
  void poke(const RingLane& lane);

  RingHost& host_;
  const unsigned cpu_;
  const size_t payload_;
  const unsigned depth_;
  const unsigned most_without_need_;
  std::vector<RingLane> lanes_;  // of the CPU itself first; not resized
  bool initialised_ = false;

  // The leader's.
  io_uring ring_{};
  std::vector<std::unique_ptr<RingEntry>> entries_;
  unsigned live_ = 0;            // entries of all lanes
  size_t unsubmitted_ = 0;       // bytes of answers in the submission queue
  bool maybe_starving_ = false;  // a lane may have no entry left for a new request
  uint64_t pokes_ = 0;
  uint64_t wake_count_ = 0;  // where the kernel reads the eventfd to

  int wake_fd_ = -1;
  Awaited wake_{Awaited::Kind::wake};
  std::atomic<RingEntry*> answered_{nullptr};  // by others than the leader, last first

  Mutex mutex_;  // guards all below
  CondVar changed_;
  Phase phase_ = Phase::starting;
  Status prepared_;
  bool leader_wanted_ = false;
  unsigned idle_ = 0;  // threads that can lead
  std::vector<Thread> threads_;
};

}  // namespace volfs::fuse
