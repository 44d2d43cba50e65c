// SPDX-License-Identifier: GPL-2.0-or-later
// Threads for work that may wait. Jobs belong to a key (a volume): at most `per_key` jobs of one
// key run at a time, so that a volume that hangs holds back itself and nobody else.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <unordered_map>
#include <vector>

#include "volfs/sync.h"

namespace volfs {

class WorkerPool {
 public:
  using Job = std::function<void()>;
  struct Limits {
    size_t threads = 512;                  // the most there are; they start on demand
    size_t per_key = 16;                   // the most that work for one key at a time
    Nanos idle = std::chrono::seconds(5);  // a thread without work for so long ends
  };

  WorkerPool();
  explicit WorkerPool(Limits limits);
  // As stop().
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Any thread. Jobs of one key start in the order in which they were given. If no thread can
  // be started and none exists, the job runs in the caller.
  void submit(const void* key, Job job);
  // Waits until all jobs given before are done.
  void drain();
  // drain(), then ends the threads; nothing may be submitted afterwards.
  void stop();

 private:
  struct Queue {
    std::deque<Job> jobs;
    size_t running = 0;
    bool ready = false;  // whether the key stands in ready_
  };
  void run();
  void take_one(std::unique_lock<Mutex>& lock);
  void make_ready(const void* key, Queue& queue);
  bool find_thread();
  void reap_ended();

  const Limits limits_;
  Mutex mutex_;  // guards all below
  CondVar work_;
  CondVar idle_;
  std::unordered_map<const void*, Queue> queues_;
  std::deque<const void*> ready_;  // keys with a job that may start now
  std::vector<Thread> threads_;
  std::vector<size_t> ended_;  // indices of threads_ to join
  size_t live_ = 0, waiting_ = 0, unfinished_ = 0;
  bool stopping_ = false;
};

}  // namespace volfs
