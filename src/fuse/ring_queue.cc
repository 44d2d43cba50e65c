// SPDX-License-Identifier: GPL-2.0-or-later
#include "ring_queue.h"

#include <fmt/format.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

#include "volfs/log.h"
#include "volfs/units.h"
#include "wire.h"

namespace volfs::fuse {
namespace {

constexpr unsigned ring_entries = 128;
// More completions than that are kept by the kernel, too, but cost more.
constexpr unsigned completion_entries = 1024;
// An answer of such a size is still in the CPU's cache if it is committed now.
constexpr size_t commit_at_once = 128 * KiB;

// Requests on regular files, besides those on data, whose answer may come later.
bool may_wait_besides(uint32_t opcode) {
  return opcode == FUSE_OPEN || opcode == FUSE_FALLOCATE || opcode == FUSE_LSEEK;
}

// A submission tells what its completion will be of.
void set_awaited(io_uring_sqe* sqe, Awaited& awaited) {
  io_uring_sqe_set_data(sqe, &awaited);
}

thread_local const RingQueue* leading = nullptr;

}  // namespace

// What a thread of the queue knows of itself.
class RingQueue::Server final : public BlockingObserver, public Awaited {
 public:
  explicit Server(RingQueue& queue) : Awaited(Kind::images), queue_(queue) {}
  void blocking() override {
    // Operations on images that are under way are told to this thread only. The data path does not
    // let a thread that has any enter code that waits for others.
    if (!context.busy()) queue_.hand_over();
  }
  void unblocked() override {}

  ServingContext context;
  bool polls = false;  // the ring tells when images have something

 private:
  RingQueue& queue_;
};

RingQueue::RingQueue(RingHost& host, unsigned cpu, const std::vector<unsigned>& others,
                     size_t payload, unsigned depth, unsigned most)
    : host_(host), cpu_(cpu), payload_(payload), depth_(depth), most_without_need_(most) {
  lanes_.push_back({static_cast<uint16_t>(cpu)});
  for (const unsigned other : others) lanes_.push_back({static_cast<uint16_t>(other)});
}

RingQueue::~RingQueue() {
  join();
  if (initialised_) io_uring_queue_exit(&ring_);
  if (wake_fd_ >= 0) close(wake_fd_);
}

// Threads --------------------------------------------------------------------------------------

Status RingQueue::start() {
  const std::lock_guard lock(mutex_);
  VOLFS_TRY_ASSIGN(Thread thread,
                   Thread::start(fmt::format("fuse-{}", cpu_), [this] { run(true); }));
  threads_.push_back(std::move(thread));
  changed_.wait(mutex_, [this] { return phase_ != Phase::starting; });
  return std::move(prepared_);
}

void RingQueue::decide(Phase phase) {
  const std::lock_guard lock(mutex_);
  if (phase_ == Phase::prepared) phase_ = phase;
  changed_.notify_all();
}

void RingQueue::join() {
  std::vector<Thread> threads;
  {
    const std::lock_guard lock(mutex_);
    changed_.wait(mutex_, [this] {
      return threads_.empty() || phase_ == Phase::ended || phase_ == Phase::failed;
    });
    threads = std::move(threads_);
    threads_.clear();
  }
  for (Thread& thread : threads) thread.join();
}

void RingQueue::run(bool first) {
  Server self(*this);
  std::unique_lock lock(mutex_);
  if (first) {
    lock.unlock();
    Status done = set_up();
    lock.lock();
    phase_ = done ? Phase::prepared : Phase::failed;
    prepared_ = std::move(done);
    changed_.notify_all();
    changed_.wait(mutex_, [this] { return phase_ != Phase::prepared; });
    leader_wanted_ = true;
  } else if (auto stays = stay_on_cpu(cpu_); !stays) {
    log_debug("{}", stays.error().text());
  }
  while (true) {
    ++idle_;
    changed_.wait(mutex_, [this] { return leader_wanted_ || phase_ != Phase::serving; });
    --idle_;
    if (phase_ != Phase::serving) return;
    leader_wanted_ = false;
    lock.unlock();
    leading = this;
    lead(self);
    const bool ended = std::exchange(leading, nullptr) == this;
    lock.lock();
    if (ended) {
      phase_ = Phase::ended;
      changed_.notify_all();
    }
  }
}

// The leader is about to wait for another thread.
void RingQueue::hand_over() {
  if (leading != this) return;
  const std::lock_guard lock(mutex_);
  if (idle_ == 0 && !start_thread()) return;
  maybe_starving_ = true;
  leading = nullptr;
  leader_wanted_ = true;
  changed_.notify_all();
}

// Such a thread stays: entries that it committed need it.
bool RingQueue::start_thread() {
  auto thread = Thread::start(fmt::format("fuse-{}", cpu_), [this] { run(false); });
  if (!thread) {
    log_error("{}", thread.error().text());
    return false;
  }
  threads_.push_back(std::move(*thread));
  return true;
}

// The ring -------------------------------------------------------------------------------------

Status RingQueue::set_up() {
  VOLFS_TRY(stay_on_cpu(cpu_));
  wake_fd_ = eventfd(0, EFD_CLOEXEC);
  if (wake_fd_ < 0) return fail_sys(errno, "eventfd");
  io_uring_params parameters{};
  parameters.flags = IORING_SETUP_SQE128 | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE |
                     IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  parameters.cq_entries = completion_entries;
  const int error = -io_uring_queue_init_params(ring_entries, &ring_, &parameters);
  if (error != 0) return fail_sys(error, "io_uring");
  initialised_ = true;
  io_uring_ring_dontfork(&ring_);
  arm_wake();
  for (RingLane& lane : lanes_) {
    const unsigned count = &lane == &lanes_.front() ? depth_ : 1;
    for (unsigned i = 0; i < count; ++i)
      if (!add_entry(lane)) return fail_sys(ENOMEM, "memory for requests");
  }
  return {};
}

bool RingQueue::add_entry(RingLane& lane) {
  auto entry = RingEntry::make(*this, lane, payload_);
  if (!entry) return false;
  if (!prepare(*entry, RingCommand::register_entry)) return false;
  ++lane.live;
  ++live_;
  entries_.push_back(std::move(entry));
  return true;
}

// Null when the kernel takes nothing now.
io_uring_sqe* RingQueue::get_sqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (!sqe) {
    submit();
    sqe = io_uring_get_sqe(&ring_);
  }
  if (sqe) std::memset(sqe, 0, 2 * sizeof *sqe);
  return sqe;
}

void RingQueue::submit() {
  unsubmitted_ = 0;
  io_uring_submit(&ring_);
}

bool RingQueue::prepare(RingEntry& entry, RingCommand command) {
  io_uring_sqe* const sqe = get_sqe();
  if (!sqe) return false;
  RingCommandArguments arguments{};
  arguments.qid = entry.lane().qid;
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = host_.connection();
  sqe->cmd_op = static_cast<uint32_t>(command);
  if (command == RingCommand::register_entry) {
    sqe->addr = reinterpret_cast<uintptr_t>(entry.memory());
    sqe->len = 2;
  } else {
    arguments.commit_id = entry.unique();
  }
  std::memcpy(sqe->cmd, &arguments, sizeof arguments);
  set_awaited(sqe, entry);
  return true;
}

void RingQueue::arm_wake() {
  io_uring_sqe* const sqe = get_sqe();
  if (!sqe) return;
  io_uring_prep_read(sqe, wake_fd_, &wake_count_, sizeof wake_count_, 0);
  set_awaited(sqe, wake_);
}

void RingQueue::commit(RingEntry& entry) {
  if (leading == this && prepare(entry, RingCommand::commit_and_fetch)) {
    entry.held = false;
    --entry.lane().held;
    unsubmitted_ += entry.answer_size();
    if (unsubmitted_ >= commit_at_once) submit();
    return;
  }
  RingEntry* before = answered_.load(std::memory_order_relaxed);
  do {
    entry.next = before;
  } while (!answered_.compare_exchange_weak(before, &entry, std::memory_order_acq_rel));
  if (!before) eventfd_write(wake_fd_, 1);
}

void RingQueue::commit_from_others() {
  RingEntry* last = answered_.exchange(nullptr, std::memory_order_acq_rel);
  RingEntry* first = nullptr;
  while (last) {
    RingEntry* const before = std::exchange(last->next, first);
    first = std::exchange(last, before);
  }
  while (first) commit(*std::exchange(first, first->next));
}

// Serving --------------------------------------------------------------------------------------

void RingQueue::lead(Server& self) {
  while (live_ > 0) {
    if (self.context.busy()) self.context.queue->reap(Wait::no);
    if (maybe_starving_) relieve(self);
    wait_events(self);
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe) {
      Awaited& awaited = *static_cast<Awaited*>(io_uring_cqe_get_data(cqe));
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      handle(self, awaited, result);
      if (leading != this) return;
    }
  }
}

void RingQueue::wait_events(Server& self) {
  if (self.context.busy() && !self.polls) {
    if (io_uring_sqe* const sqe = get_sqe()) {
      io_uring_prep_poll_add(sqe, self.context.queue->wait_fd(), POLLIN);
      set_awaited(sqe, self);
      self.polls = true;
    }
  }
  unsubmitted_ = 0;
  io_uring_submit_and_wait(&ring_, 1);
}

void RingQueue::handle(Server& self, Awaited& awaited, int result) {
  switch (awaited.kind) {
    case Awaited::Kind::wake:
      arm_wake();
      commit_from_others();
      break;
    case Awaited::Kind::images:
      static_cast<Server&>(awaited).polls = false;
      break;
    case Awaited::Kind::entry:
      handle_entry(self, static_cast<RingEntry&>(awaited), result);
      break;
  }
}

void RingQueue::handle_entry(Server& self, RingEntry& entry, int result) {
  if (result == 0) {
    entry.used = entry.held = true;
    ++entry.lane().held;
    set_blocking_observer(&self);
    serve(self, entry);
    set_blocking_observer(nullptr);
    if (leading == this && entry.lane().held == entry.lane().live) maybe_starving_ = true;
    return;
  }
  // Unmounted or aborted (ENOTCONN, ECONNABORTED; ENOENT for a request that ended with it), or, the
  // first time, refused.
  --entry.lane().live;
  --live_;
  const bool ended = result == -ENOTCONN || result == -ECONNABORTED || result == -ENODEV;
  if (!entry.used && !ended) host_.refused(-result);
}

void RingQueue::serve(Server& self, RingEntry& entry) {
  fuse_in_header in;
  if (!entry.take(in)) {
    log_error("a request of {} bytes by io_uring makes no sense", in.len);
    entry.answer(EIO, 0);
    return commit(entry);
  }
  if (in.opcode == FUSE_NOTIFY_REPLY) {  // see poke()
    entry.answer(0, 0);
    return commit(entry);
  }
  const bool of_data = in.opcode == FUSE_READ || in.opcode == FUSE_WRITE || in.opcode == FUSE_FSYNC;
  entry.file = of_data || may_wait_besides(in.opcode) ? in.nodeid : 0;
  if (of_data) {
    RingRequest& request = entry.request();
    if (File* file =
            take_data_request({in, entry.arguments(), entry.payload(), entry.received()}, request))
      return file->handle(request, self.context);
    request.recycle();
  }
  host_.process(entry);
}

// Requests that wait keep their entries. So that others of their CPU can come nevertheless, one
// entry is added whenever none is left. The kernel looks for requests that found none only after an
// answer: after a poke, that is. Another one that waits then takes the new entry, and so on: with
// one entry and one poke at a time, none is ever forgotten.
void RingQueue::relieve(const Server& self) {
  maybe_starving_ = false;
  for (RingLane& lane : lanes_) {
    if (lane.live == 0 || lane.held < lane.live) continue;
    if (lane.live >= most_without_need_ && self.context.busy()) {
      // Images will answer soon; until then more entries would only take memory.
      maybe_starving_ = true;
      continue;
    }
    if (!add_entry(lane)) {
      log_error("no memory for more requests");
      continue;
    }
    submit();
    poke(lane);
  }
}

// Lets the kernel send a request to this CPU's queue that nobody waits for: it asks for cached data
// beyond the end of a regular file that has a request here, and so is there.
void RingQueue::poke(const RingLane& lane) {
  struct {
    fuse_out_header header{};
    fuse_notify_retrieve_out retrieve{};
  } notification;
  notification.header.len = sizeof notification;
  notification.header.error = FUSE_NOTIFY_RETRIEVE;
  // Not the number of a request.
  notification.retrieve.notify_unique = (uint64_t{1} << 62) + 2 * ++pokes_;
  notification.retrieve.offset = uint64_t{1} << 62;
  // An offline CPU has no requests; one that came back since can be gone to.
  const bool elsewhere = lane.qid != cpu_;
  if (elsewhere && !stay_on_cpu(lane.qid)) return;
  int error = ENOENT;
  for (const auto& entry : entries_) {
    if (&entry->lane() != &lane || !entry->held || entry->file == 0) continue;
    notification.retrieve.nodeid = entry->file;
    error = write(host_.connection(), &notification, sizeof notification) < 0 ? errno : 0;
    if (error == 0) break;
  }
  if (error != 0) log_error("requests of CPU {} may wait: {}", lane.qid, std::strerror(error));
  if (elsewhere && !stay_on_cpu(cpu_)) log_debug("CPU {} is gone", cpu_);
}

}  // namespace volfs::fuse
