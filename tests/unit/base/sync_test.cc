// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>

#include <atomic>
#include <set>

#include "volfs/worker_pool.h"

using namespace volfs;

TEST_CASE("a pool runs every job, and those of one key start in order") {
  std::atomic<int> done{0};
  std::vector<int> order;
  {
    WorkerPool pool({.threads = 8, .per_key = 1});
    const int key = 0;
    for (int i = 0; i < 1000; ++i)
      pool.submit(&key, [&, i] {
        order.push_back(i);
        ++done;
      });
    pool.drain();
    CHECK(done == 1000);
  }
  for (int i = 0; i < 1000; ++i) REQUIRE(order[static_cast<size_t>(i)] == i);
}

TEST_CASE("a key whose jobs hang holds back no other key") {
  WorkerPool pool({.threads = 64, .per_key = 4});
  Mutex mutex;
  CondVar changed;
  bool open = false;
  const int stuck = 0, free = 0;
  for (int i = 0; i < 100; ++i)
    pool.submit(&stuck, [&] {
      const std::lock_guard lock(mutex);
      changed.wait(mutex, [&] { return open; });
    });
  std::atomic<int> served{0};
  for (int i = 0; i < 100; ++i) pool.submit(&free, [&] { ++served; });
  while (served < 100) sleep_for(std::chrono::milliseconds(1));
  {
    const std::lock_guard lock(mutex);
    open = true;
    changed.notify_all();
  }
  pool.drain();
}

TEST_CASE("a thread that waits tells its observer once, however deep the waits nest") {
  struct Count : BlockingObserver {
    void blocking() override { ++blocked; }
    void unblocked() override { ++gone_on; }
    int blocked = 0, gone_on = 0;
  } count;
  set_blocking_observer(&count);
  {
    const BlockingScope outer;
    sleep_for(std::chrono::microseconds(1));
  }
  set_blocking_observer(nullptr);
  sleep_for(std::chrono::microseconds(1));
  CHECK(count.blocked == 1);
  CHECK(count.gone_on == 1);
}
