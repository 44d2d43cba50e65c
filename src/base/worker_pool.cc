// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/worker_pool.h"

#include <utility>

namespace volfs {

WorkerPool::WorkerPool() : WorkerPool(Limits{}) {}
WorkerPool::WorkerPool(Limits limits) : limits_(limits) {}
WorkerPool::~WorkerPool() {
  stop();
}

void WorkerPool::make_ready(const void* key, Queue& queue) {
  if (queue.ready || queue.jobs.empty() || queue.running >= limits_.per_key) return;
  queue.ready = true;
  ready_.push_back(key);
}

void WorkerPool::submit(const void* key, Job job) {
  std::unique_lock lock(mutex_);
  reap_ended();
  Queue& queue = queues_[key];
  queue.jobs.push_back(std::move(job));
  ++unfinished_;
  make_ready(key, queue);
  while (!find_thread()) take_one(lock);
}

// Sees to it that a thread will take the jobs in ready_. False if there is none and none can be
// started.
bool WorkerPool::find_thread() {
  if (ready_.empty()) return true;
  if (waiting_ >= ready_.size() || live_ >= limits_.threads) {
    work_.notify_one();
    return true;
  }
  size_t slot = 0;
  while (slot < threads_.size() && threads_[slot].joinable()) ++slot;
  if (slot == threads_.size()) threads_.emplace_back();
  ++live_;
  auto thread = Thread::start("worker", [this, slot] {
    run();
    const std::lock_guard ending(mutex_);
    ended_.push_back(slot);
  });
  if (!thread) return --live_ > 0;  // one of those there comes round to it
  threads_[slot] = std::move(*thread);
  return true;
}

// Runs the first job that may start; the lock is held at entry and at return, not meanwhile.
void WorkerPool::take_one(std::unique_lock<Mutex>& lock) {
  const void* key = ready_.front();
  ready_.pop_front();
  Queue& queue = queues_[key];  // references stay valid while other keys come and go
  queue.ready = false;
  Job job = std::move(queue.jobs.front());
  queue.jobs.pop_front();
  ++queue.running;
  make_ready(key, queue);
  find_thread();
  lock.unlock();
  job();
  job = nullptr;
  lock.lock();
  --queue.running;
  make_ready(key, queue);
  if (queue.running == 0 && queue.jobs.empty()) queues_.erase(key);
  if (--unfinished_ == 0) idle_.notify_all();
}

void WorkerPool::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    if (!ready_.empty()) {
      take_one(lock);
      continue;
    }
    if (stopping_) break;
    ++waiting_;
    const bool woken = work_.wait_until(mutex_, now() + limits_.idle);
    --waiting_;
    if (!woken && ready_.empty()) break;
  }
  --live_;
}

void WorkerPool::reap_ended() {
  for (const size_t slot : ended_) threads_[slot].join();
  ended_.clear();
}

void WorkerPool::drain() {
  const std::lock_guard lock(mutex_);
  idle_.wait(mutex_, [this] { return unfinished_ == 0; });
}

void WorkerPool::stop() {
  std::vector<Thread> threads;
  {
    const std::lock_guard lock(mutex_);
    idle_.wait(mutex_, [this] { return unfinished_ == 0; });
    stopping_ = true;
    work_.notify_all();
    threads = std::move(threads_);
    threads_.clear();
    ended_.clear();
  }
  for (Thread& thread : threads) thread.join();
  const std::lock_guard lock(mutex_);
  ended_.clear();
}

}  // namespace volfs
