// SPDX-License-Identifier: GPL-2.0-or-later
// What base and block have for threads, under the simulated scheduler: many schedules of each.
#include <doctest/doctest.h>

#include <cerrno>
#include <map>
#include <memory>

#include "support/sim_scheduler.h"
#include "volfs/gate.h"
#include "volfs/range_lock.h"
#include "volfs/worker_pool.h"

using namespace volfs;
using namespace volfs::test;

namespace {

class Threads {
 public:
  ~Threads() { join(); }
  void start(const std::string& name, std::function<void()> body) {
    auto thread = Thread::start(name, std::move(body));
    REQUIRE(thread);
    threads_.push_back(std::move(*thread));
  }
  void join() { threads_.clear(); }

 private:
  std::vector<Thread> threads_;
};

}  // namespace

TEST_CASE("a pool runs each job once, in order and within the limits, whatever the schedule") {
  simulate(test_iterations(30), [](uint64_t seed) {
    SimScheduler sim(seed);
    Random random(seed);
    const size_t per_key = random.between(1, 3), most = random.between(1, 6);
    int keys[3] = {};
    std::map<const void*, int> running, started, given;
    int done = 0, total = 0, running_all = 0;
    {
      WorkerPool pool({.threads = most, .per_key = per_key, .idle = std::chrono::microseconds(5)});
      Threads submitters;
      for (int s = 0; s < 2; ++s) {
        submitters.start("submitter",
                         [&, jobs = random.between(1, 15), rng = Random(seed + 99)]() mutable {
                           for (uint64_t i = 0; i < jobs; ++i) {
                             const void* key = &keys[rng.below(3)];
                             ++total;
                             pool.submit(key, [&, key] {
                               ++running_all;
                               CHECK(static_cast<size_t>(++running[key]) <= per_key);
                               CHECK(static_cast<size_t>(running_all) <= most);
                               if (done % 3 == 0) sleep_for(std::chrono::microseconds(10));
                               sim.yield();
                               --running[key];
                               --running_all;
                               ++done;
                             });
                             if (rng.one_in(4)) sleep_for(std::chrono::microseconds(rng.below(20)));
                           }
                         });
      }
      submitters.join();
      pool.drain();
      CHECK(done == total);
      const void* key = keys;
      std::vector<int> order;
      for (int i = 0; i < 5; ++i) {
        ++total;
        pool.submit(key, [&, i] {
          if (per_key == 1) order.push_back(i);
          ++done;
        });
      }
      pool.stop();
      if (per_key == 1) CHECK(order == std::vector{0, 1, 2, 3, 4});
    }
    CHECK(done == total);
  });
}

TEST_CASE("a pool that gets no threads runs the jobs in those who give them") {
  simulate(test_iterations(20), [](uint64_t seed) {
    SimScheduler sim(seed);
    Random random(seed);
    WorkerPool pool({.threads = 4, .per_key = 1, .idle = std::chrono::microseconds(3)});
    int done = 0;
    int keys[2] = {};
    Threads submitters;
    for (int s = 0; s < 2; ++s)
      submitters.start("submitter", [&, rng = Random(seed + 7)]() mutable {
        for (int i = 0; i < 10; ++i) {
          if (rng.one_in(3)) sim.refuse_threads(rng.one_in(2) ? EAGAIN : 0);
          pool.submit(&keys[i % 2], [&] {
            sim.yield();
            ++done;
          });
          if (rng.one_in(3)) sleep_for(std::chrono::microseconds(rng.below(10)));
        }
      });
    submitters.join();
    pool.drain();
    CHECK(done == 20);
  });
}

TEST_CASE("a job that gives jobs is drained with them") {
  simulate(test_iterations(20), [](uint64_t seed) {
    SimScheduler sim(seed);
    int done = 0;
    int key = 0;
    WorkerPool pool({.threads = 2, .per_key = 1});
    for (int i = 0; i < 3; ++i)
      pool.submit(&key, [&] {
        pool.submit(&key, [&] { ++done; });
        ++done;
      });
    pool.drain();
    CHECK(done == 6);
  });
}

TEST_CASE("nobody is inside a closed gate, and everybody comes in again") {
  simulate(test_iterations(40), [](uint64_t seed) {
    SimScheduler sim(seed);
    Random random(seed);
    Gate gate;
    int inside = 0, visits = 0;
    bool closed = false;
    {
      Threads threads;
      for (int v = 0; v < 3; ++v)
        threads.start("visitor", [&] {
          for (int i = 0; i < 5; ++i) {
            if (!gate.try_enter()) gate.enter();
            CHECK_FALSE(closed);
            ++inside;
            sim.yield();
            CHECK_FALSE(closed);
            --inside;
            ++visits;
            gate.exit();
          }
        });
      for (int c = 0; c < 2; ++c)
        threads.start("closer", [&, patience = random.below(3000)] {
          for (int i = 0; i < 3; ++i) {
            const bool got = gate.close(i == 1 ? now() + Nanos(patience) : never);
            if (!got) continue;
            CHECK(inside == 0);
            CHECK_FALSE(closed);
            closed = true;
            sim.yield();
            closed = false;
            gate.open();
          }
        });
    }
    CHECK(visits == 15);
    CHECK_FALSE(gate.closed());
  });
}

TEST_CASE("a gate may be destroyed as soon as close has returned") {
  simulate(test_iterations(20), [](uint64_t seed) {
    SimScheduler sim(seed);
    auto gate = std::make_unique<Gate>();
    gate->enter();
    Threads threads;
    threads.start("last", [&, g = gate.get()] { g->exit(); });
    CHECK(gate->close());
    gate.reset();
  });
}

TEST_CASE("ranges that conflict are never held together, and nobody waits for ever") {
  simulate(test_iterations(40), [](uint64_t seed) {
    SimScheduler sim(seed);
    RangeLock lock;
    int readers[8] = {}, writers[8] = {};
    int held = 0;
    Threads threads;
    for (int t = 0; t < 4; ++t)
      threads.start("locker", [&, rng = Random(seed * 31 + static_cast<uint64_t>(t))]() mutable {
        for (int i = 0; i < 6; ++i) {
          const uint64_t begin = rng.below(8), end = rng.between(begin, 8);
          const bool shared = rng.one_in(2);
          const auto mode = shared ? RangeLock::Mode::shared : RangeLock::Mode::exclusive;
          const auto hold = [&] {
            for (uint64_t x = begin; x < end; ++x) {
              CHECK(writers[x] == 0);
              if (!shared) CHECK(readers[x] == 0);
              ++(shared ? readers : writers)[x];
            }
            sim.yield();
            if (rng.one_in(3)) sleep_for(Nanos(rng.below(1000)));
            for (uint64_t x = begin; x < end; ++x) --(shared ? readers : writers)[x];
            ++held;
          };
          if (rng.one_in(4)) {
            RangeLock::Guard guard(lock, begin, end, mode, std::try_to_lock);
            if (guard.owns()) hold();
          } else {
            RangeLock::Guard guard(lock, begin, end, mode);
            CHECK(guard.owns());
            hold();
            if (rng.one_in(2)) guard.unlock();
          }
        }
      });
    threads.join();
    CHECK(held > 0);
    CHECK(RangeLock::Guard(lock, 0, 8, RangeLock::Mode::exclusive, std::try_to_lock).owns());
  });
}

TEST_CASE("ranges are granted in the order of arrival: a writer is not starved by readers") {
  simulate(test_iterations(20), [](uint64_t seed) {
    SimScheduler sim(seed);
    RangeLock lock;
    RangeLock::Guard first(lock, 0, 8, RangeLock::Mode::shared);
    bool written = false;
    Threads threads;
    threads.start("writer", [&] {
      const RangeLock::Guard guard(lock, 4, 6);
      written = true;
    });
    // Once the writer waits, readers of its range wait behind it, and others do not.
    while (RangeLock::Guard(lock, 4, 5, RangeLock::Mode::shared, std::try_to_lock).owns())
      sim.yield();
    CHECK_FALSE(written);
    CHECK(RangeLock::Guard(lock, 0, 4, RangeLock::Mode::shared, std::try_to_lock).owns());
    threads.start("reader", [&] {
      const RangeLock::Guard guard(lock, 5, 6, RangeLock::Mode::shared);
      CHECK(written);
    });
    first.unlock();
    threads.join();
    CHECK(written);
  });
}
