// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/sim_scheduler.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <set>

#include "volfs/sync.h"

using namespace volfs;
using namespace volfs::test;

namespace {

// Threads that append their number under a lock: what comes out is the schedule.
std::vector<int> schedule_of(uint64_t seed, uint64_t* fingerprint) {
  SimScheduler sim(seed);
  Mutex mutex;
  std::vector<int> order;
  std::vector<Thread> threads;
  for (int i = 0; i < 4; ++i) {
    auto thread = Thread::start("t", [&, i] {
      for (int n = 0; n < 5; ++n) {
        const std::lock_guard lock(mutex);
        order.push_back(i);
      }
    });
    REQUIRE(thread);
    threads.push_back(std::move(*thread));
  }
  threads.clear();
  *fingerprint = sim.fingerprint();
  return order;
}

}  // namespace

TEST_CASE("a run is a function of its seed") {
  std::set<std::vector<int>> all;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    uint64_t first = 0, second = 0;
    const auto order = schedule_of(seed, &first);
    CHECK(order.size() == 20);
    CHECK(order == schedule_of(seed, &second));
    CHECK(first == second);
    all.insert(order);
  }
  CHECK(all.size() > 15);
}

TEST_CASE("the clock jumps when all wait, and deadlines come in order") {
  simulate(10, [](uint64_t seed) {
    SimScheduler sim(seed);
    const TimePoint start = now();
    std::vector<int> order;
    std::vector<Thread> threads;
    for (const int hours : {5, 1, 3}) {
      auto thread = Thread::start("sleeper", [&, hours, until = start + std::chrono::hours(hours)] {
        sleep_until(until);
        CHECK(now() >= until);
        order.push_back(hours);
      });
      REQUIRE(thread);
      threads.push_back(std::move(*thread));
    }
    threads.clear();
    CHECK(order == std::vector{1, 3, 5});
    CHECK(now() - start < std::chrono::hours(6));
  });
}

TEST_CASE("a wait with a deadline ends by it when nobody wakes it") {
  simulate(10, [](uint64_t seed) {
    SimScheduler sim(seed);
    Mutex mutex;
    CondVar changed;
    const std::lock_guard lock(mutex);
    const TimePoint until = now() + std::chrono::seconds(2);
    CHECK_FALSE(changed.wait_until(mutex, until, [] { return false; }));
    CHECK(now() >= until);
  });
}

TEST_CASE("a deadlock is reported with the seed and the names of the threads") {
  SimScheduler sim(4711);
  Mutex a, b;
  std::string report;
  bool rescued = false;
  Mutex rescue_mutex;
  CondVar rescue;
  sim.on_deadlock([&](const std::string& text) {
    report = text;
    rescued = true;
    sim.wake(&rescue, true);
  });
  auto stuck = Thread::start("stuck", [&] {
    const std::lock_guard lock(rescue_mutex);
    rescue.wait(rescue_mutex, [&] { return rescued; });
  });
  REQUIRE(stuck);
  stuck->join();
  CHECK(report.find("VOLFS_SEED=4711") != std::string::npos);
  CHECK(report.find("thread stuck#2: waiting on") != std::string::npos);
  CHECK(report.find("thread main: waiting on") != std::string::npos);
  CHECK(report.find("(end of thread stuck#2)") != std::string::npos);
}

TEST_CASE("two threads that take two locks in opposite order are caught by some seed") {
  int caught = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SimScheduler sim(seed);
    Mutex a, b;
    // Told apart from a plain lock so that the test can end: who is stuck gives up.
    bool give_up = false;
    sim.on_deadlock([&](const std::string&) {
      ++caught;
      give_up = true;
      sim.wake(&a, true);
      sim.wake(&b, true);
    });
    const auto take_both = [&](Mutex& first, Mutex& second) {
      const std::lock_guard outer(first);
      while (!second.try_lock()) {
        if (give_up) return;
        sim.wait(&second, never);
      }
      second.unlock();
    };
    auto one = Thread::start("one", [&] { take_both(a, b); });
    auto two = Thread::start("two", [&] { take_both(b, a); });
    REQUIRE(one);
    REQUIRE(two);
  }
  CHECK(caught > 0);
  CHECK(caught < 60);
}

TEST_CASE("threads can be refused, and the wall clock can jump") {
  SimScheduler sim(1);
  sim.refuse_threads(EAGAIN);
  auto refused = Thread::start("refused", [] {});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code() == EAGAIN);
  sim.refuse_threads(0);
  bool ran = false;
  Thread::start("granted", [&ran] { ran = true; })->join();
  CHECK(ran);
  const Nanos before = wall_clock();
  sim.jump_wall_clock(-std::chrono::hours(1));
  CHECK(wall_clock() < before);
}
