// SPDX-License-Identifier: GPL-2.0-or-later
// A world in which threads and time are a function of a seed. While a SimScheduler lives, all
// that base/sync.h offers is decided by it: exactly one thread runs at a time, which one is
// drawn at every lock, wait and wake; the clock stands still while threads run and jumps to the
// next deadline when all wait (and, by the seed, sometimes before: a slow machine).
//
//   SimScheduler sim(seed);      // this thread becomes the simulated thread "main"
//   ... threads, pools, devices: all of them must have ended before sim does ...
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "support/random.h"
#include "volfs/sync.h"

namespace volfs::test {

class SimScheduler final : public Scheduler {
 public:
  // Installs itself (set_scheduler) and removes itself.
  explicit SimScheduler(uint64_t seed);
  ~SimScheduler() override;
  SimScheduler(const SimScheduler&) = delete;
  SimScheduler& operator=(const SimScheduler&) = delete;

  void yield() override;
  bool wait(const void* key, TimePoint deadline) override;
  void wake(const void* key, bool all) override;
  Status start(const std::string& name, std::function<void()> body, uint64_t* id) override;
  void join(uint64_t id) override;
  TimePoint now() override;
  Nanos wall_clock() override;
  void random(std::span<std::byte> out) override { random_.fill(out); }

  uint64_t seed() const { return seed_; }
  // A digest of every choice so far: equal for equal runs.
  uint64_t fingerprint() const { return fingerprint_; }
  uint64_t switches() const { return switches_; }
  // From now on new threads are refused with this errno (0: no more).
  void refuse_threads(int error) { start_error_ = error; }
  // The wall clock is set to another time.
  void jump_wall_clock(Nanos by) { wall_offset_ += by; }
  // Called with a report when every thread waits for ever. If some thread is runnable when it
  // returns, the run goes on; else, or without it, the report is printed and the process aborted.
  void on_deadlock(std::function<void(const std::string& report)> handler) {
    on_deadlock_ = std::move(handler);
  }

 private:
  struct SimThread;
  struct OneCpu;
  SimThread* choose();
  SimThread* choose_or_report();
  void expire();
  bool jump_to_next_deadline();
  void switch_to(SimThread* next);
  void run_thread(SimThread* thread);
  SimThread* self() const;
  std::string report() const;

  const uint64_t seed_;
  Random random_;
  std::vector<std::unique_ptr<SimThread>> threads_;  // by id - 1
  SimThread* running_ = nullptr;
  TimePoint now_;
  const std::unique_ptr<OneCpu> one_cpu_;
  Nanos wall_offset_{0};
  uint64_t stickiness_;  // a thread is changed at one in so many points
  uint64_t fingerprint_ = 0;
  uint64_t switches_ = 0;
  int start_error_ = 0;
  std::function<void(const std::string&)> on_deadlock_;
};

// Runs BODY in a new world for each of ROUNDS seeds, starting at test_seed(); BODY gets the seed.
// When BODY does not come to its end (an exception of a failed REQUIRE), prints the seed.
void simulate(uint64_t rounds, const std::function<void(uint64_t seed)>& body);

}  // namespace volfs::test
