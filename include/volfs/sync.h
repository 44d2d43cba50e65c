// SPDX-License-Identifier: GPL-2.0-or-later
// The only ways to wait, lock, start a thread, tell the time or draw lots. On the real system they
// are thin wraps of the C++ library's; when a Scheduler is installed (tests do), every one of them
// is decided by it, so that a whole run is a function of a seed.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "volfs/error.h"

namespace volfs {

using Nanos = std::chrono::nanoseconds;
// Monotonic time: nanoseconds since an arbitrary start. The maximum stands for "never".
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Nanos>;
inline constexpr TimePoint never = TimePoint::max();

TimePoint now();
// Wall-clock time as nanoseconds since the epoch: for time stamps on disk and for people.
// It can jump; never measure or wait with it.
Nanos wall_clock();
void sleep_for(Nanos duration);
void sleep_until(TimePoint when);
// Bytes that nobody can foresee, for new identities. Waits until the system has some to give.
void random_bytes(std::span<std::byte> out);

// Decides for the primitives below. Exactly one of its threads runs at a time; each call may
// hand the processor to another. Implementations live in tests/support.
class Scheduler {
 public:
  virtual ~Scheduler() = default;
  // A point at which another thread may run.
  virtual void yield() = 0;
  // Waits until wake(KEY) chooses this thread (true) or the simulated time is DEADLINE (false).
  virtual bool wait(const void* key, TimePoint deadline) = 0;
  // Makes one waiter on KEY (chosen by the seed) or all of them runnable.
  virtual void wake(const void* key, bool all) = 0;
  // Starts BODY as a new simulated thread; join waits for it to end. An error is that of a
  // failed thread creation.
  virtual Status start(const std::string& name, std::function<void()> body, uint64_t* id) = 0;
  virtual void join(uint64_t id) = 0;
  virtual TimePoint now() = 0;
  virtual Nanos wall_clock() = 0;
  virtual void random(std::span<std::byte> out) = 0;
};

// Installs SCHEDULER (null: the real system again). Only while no other thread of ours runs,
// and not while a primitive is held or waited on. Not owned.
void set_scheduler(Scheduler* scheduler);
Scheduler* scheduler();

// Told when a thread is about to wait for something that another thread must do (a CondVar, a
// sleep), and when it goes on. A server sets one on its serving threads to let a spare thread
// serve meanwhile; contention on a Mutex, which is always short, is not told. Per thread.
class BlockingObserver {
 public:
  virtual ~BlockingObserver() = default;
  virtual void blocking() = 0;
  virtual void unblocked() = 0;
};
// Sets the calling thread's observer (null: none) and returns the one before. Not owned.
BlockingObserver* set_blocking_observer(BlockingObserver* observer);

// Marks the calling thread as blocked for the scope's life. CondVar and sleep_* do it by
// themselves; use it around other waits of unknown length. Nests.
class BlockingScope {
 public:
  BlockingScope();
  ~BlockingScope();
  BlockingScope(const BlockingScope&) = delete;
  BlockingScope& operator=(const BlockingScope&) = delete;
};

class CondVar;

// Not recursive. Satisfies Lockable, so std::lock_guard and std::unique_lock work with it.
class Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock();
  bool try_lock();
  void unlock();

 private:
  friend class CondVar;
  std::mutex real_;
  bool simulated_held_ = false;
};

// Waits may wake for no reason: always wait in a loop, or with a predicate. MUTEX is held by
// the caller and is held again at return.
class CondVar {
 public:
  CondVar() = default;
  CondVar(const CondVar&) = delete;
  CondVar& operator=(const CondVar&) = delete;
  void wait(Mutex& mutex);
  // False when DEADLINE has passed.
  bool wait_until(Mutex& mutex, TimePoint deadline);
  template <class Predicate>
  void wait(Mutex& mutex, Predicate ready) {
    while (!ready()) wait(mutex);
  }
  // The predicate's value at return.
  template <class Predicate>
  bool wait_until(Mutex& mutex, TimePoint deadline, Predicate ready) {
    while (!ready())
      if (!wait_until(mutex, deadline)) return ready();
    return true;
  }
  void notify_one();
  void notify_all();

 private:
  std::condition_variable real_;
};

// A thread that is joined when the object goes. It starts with all signals blocked; the name
// (at most 15 bytes are kept) is what top(1) shows. Movable.
class Thread {
 public:
  Thread() = default;
  Thread(Thread&&) noexcept;
  Thread& operator=(Thread&&) noexcept;
  ~Thread() { join(); }

  // EAGAIN when the system has no thread to give.
  static Result<Thread> start(std::string name, std::function<void()> body);
  bool joinable() const { return real_.joinable() || simulated_ != 0; }
  // Waits for the end of the body; nothing if there is none to wait for.
  void join();

 private:
  std::thread real_;
  uint64_t simulated_ = 0;
};

// Keeps the calling thread on one CPU. EINVAL if it is offline or not ours. Nothing under a
// Scheduler.
Status stay_on_cpu(unsigned cpu);

}  // namespace volfs
