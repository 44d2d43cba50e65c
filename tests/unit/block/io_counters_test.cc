// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/io_counters.h"

#include <doctest/doctest.h>

#include <chrono>
#include <vector>

namespace volfs {

TEST_CASE("operations are counted by class, with bytes, errors and what is in flight") {
  IoCounters counters;
  const TimePoint first = counters.begin(), second = counters.begin(), third = counters.begin();
  CHECK(counters.snapshot().in_flight == 3);
  counters.end(IoClass::read, first, 4096, false);
  counters.end(IoClass::write, second, 512, true);
  counters.drop();
  static_cast<void>(third);
  const auto all = counters.snapshot();
  CHECK(all.in_flight == 0);
  CHECK(all.of(IoClass::read).count == 1);
  CHECK(all.of(IoClass::read).bytes == 4096);
  CHECK(all.of(IoClass::read).errors == 0);
  CHECK(all.of(IoClass::write).count == 1);
  CHECK(all.of(IoClass::write).bytes == 0);
  CHECK(all.of(IoClass::write).errors == 1);
  CHECK(all.of(IoClass::flush).count == 0);
}

TEST_CASE("a latency falls into the bucket whose bound is the next above it") {
  using std::chrono::microseconds;
  const auto bucket = [](Nanos latency) {
    IoCounters counters;
    counters.end(IoClass::read, now() - latency, 0, false);
    const auto totals = counters.snapshot().of(IoClass::read);
    size_t found = 0;
    while (totals.latency[found] == 0) ++found;
    if (latency > Nanos(0)) CHECK(totals.nanos >= static_cast<uint64_t>(latency.count()));
    return found;
  };
  CHECK(IoCounters::bound(0) == microseconds(4));
  CHECK(IoCounters::bound(1) == microseconds(8));
  // The time that passes here itself may only raise it: lower bounds hold, upper ones with room.
  CHECK(bucket(microseconds(4)) >= 1);
  CHECK(bucket(microseconds(1000)) >= 8);
  CHECK(bucket(std::chrono::milliseconds(10)) >= 12);
  CHECK(bucket(std::chrono::milliseconds(10)) <= 14);
  CHECK(bucket(std::chrono::hours(1)) == IoCounters::buckets - 1);
  CHECK(bucket(Nanos(-1000)) <= IoCounters::buckets - 1);
}

TEST_CASE("many threads lose no count") {
  IoCounters counters;
  constexpr int threads = 16, each = 5000;
  std::vector<Thread> running;
  for (int i = 0; i < threads; ++i)
    running.push_back(*Thread::start("count", [&] {
      for (int k = 0; k < each; ++k)
        counters.end(static_cast<IoClass>(k % 4), counters.begin(), 10, k % 100 == 0);
    }));
  uint64_t last = 0;  // counters only rise
  for (int i = 0; i < 100; ++i) {
    const uint64_t now_read = counters.snapshot().of(IoClass::read).count;
    CHECK(now_read >= last);
    last = now_read;
  }
  for (Thread& thread : running) thread.join();
  const auto all = counters.snapshot();
  uint64_t count = 0, bytes = 0, errors = 0;
  for (const auto& totals : all.classes) {
    count += totals.count;
    bytes += totals.bytes;
    errors += totals.errors;
  }
  CHECK(count == threads * each);
  CHECK(errors == threads * each / 100);
  CHECK(bytes == (threads * each - threads * each / 100) * 10);
  CHECK(all.in_flight == 0);
}

}  // namespace volfs
