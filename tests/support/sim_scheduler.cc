// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/sim_scheduler.h"

#include <fmt/core.h>
#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <semaphore>
#include <thread>
#include <utility>

namespace volfs::test {

struct SimScheduler::SimThread {
  enum class State : uint8_t { runnable, waiting, ended };
  std::string name;
  State state = State::runnable;
  const void* key = nullptr;
  TimePoint deadline = never;
  bool woken = false;
  std::binary_semaphore go{0};  // released when the thread shall run
  std::function<void()> body;
  std::thread real;
};

namespace {
thread_local void* current = nullptr;  // the SimThread of this real thread

[[noreturn]] void die(const std::string& text) {
  std::fputs((text + "\n").c_str(), stderr);
  std::fflush(stderr);
  std::abort();
}
}  // namespace

// One thread runs at a time, and handing over to another CPU costs ten times as much: all of
// them stay on this thread's CPU.
struct SimScheduler::OneCpu {
  OneCpu() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(std::max(sched_getcpu(), 0)), &one);
    known = sched_getaffinity(0, sizeof before, &before) == 0;
    if (known) (void)sched_setaffinity(0, sizeof one, &one);
  }
  ~OneCpu() {
    if (known) (void)sched_setaffinity(0, sizeof before, &before);
  }
  cpu_set_t before;
  bool known;
};

SimScheduler::SimScheduler(uint64_t seed)
    : seed_(seed),
      random_(seed),
      now_(std::chrono::seconds(1000)),
      one_cpu_(std::make_unique<OneCpu>()) {
  static constexpr uint64_t choices[] = {1, 2, 4, 16};
  stickiness_ = choices[random_.below(std::size(choices))];
  threads_.push_back(std::make_unique<SimThread>());
  running_ = threads_.back().get();
  running_->name = "main";
  current = running_;
  set_scheduler(this);
}

SimScheduler::~SimScheduler() {
  set_scheduler(nullptr);
  current = nullptr;
  for (const auto& thread : threads_) {
    if (thread.get() == running_) continue;
    if (thread->state != SimThread::State::ended || thread->real.joinable())
      die("a simulated thread was not joined\n" + report());
  }
}

SimScheduler::SimThread* SimScheduler::self() const {
  if (current != running_) die("a thread that is not simulated uses sync.h\n" + report());
  return running_;
}

std::string SimScheduler::report() const {
  std::string text = fmt::format("simulation: VOLFS_SEED={}, time {} ns, {} switches\n", seed_,
                                 now_.time_since_epoch().count(), switches_);
  for (const auto& thread : threads_) {
    const char* state = thread->state == SimThread::State::ended      ? "ended"
                        : thread->state == SimThread::State::runnable ? "runnable"
                                                                      : "waiting";
    if (thread->state == SimThread::State::ended) continue;
    text += fmt::format("  thread {}: {}", thread->name, state);
    if (thread->state == SimThread::State::waiting) {
      text += fmt::format(" on {}", thread->key);
      for (const auto& other : threads_)
        if (other.get() == thread->key) text += fmt::format(" (end of thread {})", other->name);
      if (thread->deadline != never)
        text += fmt::format(" until {}", thread->deadline.time_since_epoch().count());
    }
    text += '\n';
  }
  return text;
}

// Threads whose deadline has come may run.
void SimScheduler::expire() {
  for (const auto& thread : threads_)
    if (thread->state == SimThread::State::waiting && thread->deadline <= now_) {
      thread->state = SimThread::State::runnable;
      thread->woken = false;
    }
}

bool SimScheduler::jump_to_next_deadline() {
  TimePoint next = never;
  for (const auto& thread : threads_)
    if (thread->state == SimThread::State::waiting) next = std::min(next, thread->deadline);
  if (next == never) return false;
  now_ = std::max(now_, next);
  expire();
  return true;
}

// The thread that runs next; null if all wait for ever.
SimScheduler::SimThread* SimScheduler::choose() {
  now_ += Nanos(random_.below(200));
  expire();
  if (random_.one_in(512)) jump_to_next_deadline();
  while (true) {
    // The one that runs goes on, mostly, as on a real machine.
    if (running_->state == SimThread::State::runnable && !random_.one_in(stickiness_))
      return running_;
    size_t runnable = 0;
    for (const auto& thread : threads_) runnable += thread->state == SimThread::State::runnable;
    uint64_t pick = random_.below(runnable);
    for (const auto& thread : threads_)
      if (thread->state == SimThread::State::runnable && pick-- == 0) return thread.get();
    if (!jump_to_next_deadline()) return nullptr;
  }
}

SimScheduler::SimThread* SimScheduler::choose_or_report() {
  if (SimThread* next = choose()) return next;
  const std::string text = "simulation: deadlock: every thread waits\n" + report();
  if (on_deadlock_) on_deadlock_(text);
  if (SimThread* next = choose()) return next;
  die(text);
}

// Hands the processor on; returns when this thread has it again.
void SimScheduler::switch_to(SimThread* next) {
  SimThread* const me = self();
  size_t index = 0;
  while (threads_[index].get() != next) ++index;
  fingerprint_ = (fingerprint_ ^ index) * 0x100000001b3 + 1;
  if (next == me) return;
  ++switches_;
  running_ = next;
  // After its last act, an ended thread does not come back here.
  const bool returns = me->state != SimThread::State::ended;
  next->go.release();
  if (returns) me->go.acquire();
}

void SimScheduler::yield() {
  self();
  switch_to(choose_or_report());
}

bool SimScheduler::wait(const void* key, TimePoint deadline) {
  SimThread* const me = self();
  // Some waits end for no reason: every caller must be ready for it.
  if (random_.one_in(64)) {
    switch_to(choose_or_report());
    return true;
  }
  me->state = SimThread::State::waiting;
  me->key = key;
  me->deadline = deadline;
  me->woken = false;
  switch_to(choose_or_report());
  me->key = nullptr;
  me->deadline = never;
  return me->woken;
}

// Never hands the processor on: CondVar relies on nothing happening between its unlock and wait.
void SimScheduler::wake(const void* key, bool all) {
  size_t waiters = 0;
  for (const auto& thread : threads_)
    waiters += thread->state == SimThread::State::waiting && thread->key == key;
  uint64_t pick = random_.below(waiters);
  for (const auto& thread : threads_) {
    if (thread->state != SimThread::State::waiting || thread->key != key) continue;
    if (!all && pick-- != 0) continue;
    thread->state = SimThread::State::runnable;
    thread->woken = true;
  }
}

Status SimScheduler::start(const std::string& name, std::function<void()> body, uint64_t* id) {
  self();
  if (start_error_ != 0) return fail_sys(start_error_, "start thread " + name);
  threads_.push_back(std::make_unique<SimThread>());
  SimThread* const thread = threads_.back().get();
  *id = threads_.size();
  thread->name = fmt::format("{}#{}", name, *id);
  thread->body = std::move(body);
  thread->real = std::thread([this, thread] { run_thread(thread); });
  return {};
}

void SimScheduler::run_thread(SimThread* thread) {
  thread->go.acquire();
  current = thread;
  thread->body();
  thread->body = nullptr;  // what it holds ends inside the simulation
  thread->state = SimThread::State::ended;
  wake(thread, true);
  switch_to(choose_or_report());
}

void SimScheduler::join(uint64_t id) {
  SimThread* const thread = threads_[id - 1].get();
  while (thread->state != SimThread::State::ended) wait(thread, never);
  thread->real.join();
}

TimePoint SimScheduler::now() {
  self();
  return now_;
}

Nanos SimScheduler::wall_clock() {
  self();
  // 2024-01-01 plus the time that has passed.
  return Nanos(std::chrono::seconds(1704067200)) + now_.time_since_epoch() + wall_offset_;
}

void simulate(uint64_t rounds, const std::function<void(uint64_t seed)>& body) {
  for (uint64_t i = 0; i < rounds; ++i) {
    const uint64_t seed = test_seed() + i;
    struct Tell {
      ~Tell() {
        if (!ended) fmt::print(stderr, "simulation failed: VOLFS_SEED={}\n", seed);
      }
      uint64_t seed;
      bool ended = false;
    } tell{seed};
    body(seed);
    tell.ended = true;
  }
}

}  // namespace volfs::test
