// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/sync.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/random.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

namespace volfs {
namespace {

std::atomic<Scheduler*> installed{nullptr};
thread_local BlockingObserver* observer = nullptr;
thread_local unsigned blocking_depth = 0;

Scheduler* active() {
  return installed.load(std::memory_order_relaxed);
}

}  // namespace

void set_scheduler(Scheduler* scheduler) {
  installed.store(scheduler);
}
Scheduler* scheduler() {
  return active();
}

BlockingObserver* set_blocking_observer(BlockingObserver* next) {
  return std::exchange(observer, next);
}

BlockingScope::BlockingScope() {
  if (observer && blocking_depth++ == 0) observer->blocking();
}
BlockingScope::~BlockingScope() {
  if (observer && --blocking_depth == 0) observer->unblocked();
}

TimePoint now() {
  if (Scheduler* s = active()) return s->now();
  return std::chrono::steady_clock::now();
}

Nanos wall_clock() {
  if (Scheduler* s = active()) return s->wall_clock();
  return std::chrono::duration_cast<Nanos>(std::chrono::system_clock::now().time_since_epoch());
}

void sleep_for(Nanos duration) {
  sleep_until(now() + duration);
}

void sleep_until(TimePoint when) {
  const BlockingScope blocked;
  if (Scheduler* s = active()) {
    while (s->now() < when) s->wait(&when, when);
  } else {
    std::this_thread::sleep_until(when);
  }
}

void random_bytes(std::span<std::byte> out) {
  if (Scheduler* s = active()) return s->random(out);
  while (!out.empty()) {
    const ssize_t got = ::getrandom(out.data(), out.size(), 0);
    if (got > 0) out = out.subspan(static_cast<size_t>(got));
  }
}

void Mutex::lock() {
  if (Scheduler* s = active()) {
    s->yield();
    while (simulated_held_) s->wait(this, never);
    simulated_held_ = true;
  } else {
    real_.lock();
  }
}

bool Mutex::try_lock() {
  if (Scheduler* s = active()) {
    s->yield();
    return !std::exchange(simulated_held_, true);
  }
  return real_.try_lock();
}

void Mutex::unlock() {
  if (Scheduler* s = active()) {
    simulated_held_ = false;
    s->wake(this, false);
  } else {
    real_.unlock();
  }
}

void CondVar::wait(Mutex& mutex) {
  wait_until(mutex, never);
}

bool CondVar::wait_until(Mutex& mutex, TimePoint deadline) {
  const BlockingScope blocked;
  if (Scheduler* s = active()) {
    mutex.unlock();
    const bool woken = s->wait(this, deadline);
    mutex.lock();
    return woken;
  }
  std::unique_lock lock(mutex.real_, std::adopt_lock);
  bool woken = true;
  if (deadline == never)
    real_.wait(lock);
  else
    woken = real_.wait_until(lock, deadline) == std::cv_status::no_timeout;
  lock.release();
  return woken;
}

void CondVar::notify_one() {
  if (Scheduler* s = active())
    s->wake(this, false);
  else
    real_.notify_one();
}

void CondVar::notify_all() {
  if (Scheduler* s = active())
    s->wake(this, true);
  else
    real_.notify_all();
}

Thread::Thread(Thread&& other) noexcept
    : real_(std::move(other.real_)), simulated_(std::exchange(other.simulated_, 0)) {}

Thread& Thread::operator=(Thread&& other) noexcept {
  join();
  real_ = std::move(other.real_);
  simulated_ = std::exchange(other.simulated_, 0);
  return *this;
}

Result<Thread> Thread::start(std::string name, std::function<void()> body) {
  Thread thread;
  if (Scheduler* s = active()) {
    VOLFS_TRY(s->start(name, std::move(body), &thread.simulated_));
    return thread;
  }
  // Signals are for the thread that waits for them, so a new one inherits a full mask.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = 0;
  try {
    thread.real_ = std::thread([name = name.substr(0, 15), run = std::move(body)] {
      pthread_setname_np(pthread_self(), name.c_str());
      run();
    });
  } catch (const std::system_error& e) {
    error = e.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) return fail_sys(error, "start thread " + name);
  return thread;
}

void Thread::join() {
  if (simulated_ != 0) {
    active()->join(std::exchange(simulated_, 0));
  } else if (real_.joinable()) {
    const BlockingScope blocked;
    real_.join();
  }
}

Status stay_on_cpu(unsigned cpu) {
  if (active()) return {};
  const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(cpu + 1),
                                                             [](cpu_set_t* p) { CPU_FREE(p); });
  const size_t size = CPU_ALLOC_SIZE(cpu + 1);
  CPU_ZERO_S(size, set.get());
  CPU_SET_S(cpu, size, set.get());
  if (sched_setaffinity(0, size, set.get()) != 0)
    return fail_sys(errno, "stay on CPU " + std::to_string(cpu));
  return {};
}

}  // namespace volfs
