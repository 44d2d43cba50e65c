// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/io_counters.h"

#include <algorithm>
#include <bit>
#include <new>

namespace volfs {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

std::atomic<unsigned> next_thread{0};

// Below 4 us: 0; below 8: 1, and so on.
size_t bucket_of(Nanos latency) {
  const auto micros = static_cast<uint64_t>(std::max<int64_t>(latency.count(), 0)) / 1000;
  const auto bits = static_cast<size_t>(std::bit_width(micros >> 2));
  return std::min(bits, IoCounters::buckets - 1);
}

}  // namespace

IoCounters::~IoCounters() {
  for (std::atomic<Shard*>& shard : shards_) delete shard.load(relaxed);
}

IoCounters::Shard& IoCounters::mine() {
  thread_local const unsigned number = next_thread.fetch_add(1, relaxed);
  std::atomic<Shard*>& place = shards_[number % shard_count];
  if (Shard* const there = place.load(std::memory_order_acquire)) return *there;
  auto* const fresh = new (std::nothrow) Shard;
  // Where there is no memory I/O goes on, and is not counted.
  static Shard uncounted;
  if (!fresh) return uncounted;
  Shard* there = nullptr;
  if (place.compare_exchange_strong(there, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *there;
}

template <class Visit>
void IoCounters::for_each_shard(Visit visit) const {
  for (const std::atomic<Shard*>& place : shards_)
    if (const Shard* const shard = place.load(std::memory_order_acquire)) visit(*shard);
}

TimePoint IoCounters::begin() {
  mine().begun.fetch_add(1, relaxed);
  return now();
}

void IoCounters::end(IoClass which, TimePoint begun, uint64_t bytes, bool failed) {
  const Nanos latency = now() - begun;
  Counts& counts = mine().classes[static_cast<size_t>(which)];
  counts.nanos.fetch_add(static_cast<uint64_t>(std::max<int64_t>(latency.count(), 0)), relaxed);
  if (failed)
    counts.errors.fetch_add(1, relaxed);
  else if (bytes > 0)
    counts.bytes.fetch_add(bytes, relaxed);
  // The last, as it is by this that one is known to be done.
  counts.latency[bucket_of(latency)].fetch_add(1, std::memory_order_release);
}

void IoCounters::drop() {
  mine().dropped.fetch_add(1, std::memory_order_release);
}

IoCounters::Snapshot IoCounters::snapshot() const {
  Snapshot all;
  const auto begun = [this] {
    uint64_t sum = 0;
    for_each_shard([&sum](const Shard& shard) { sum += shard.begun.load(relaxed); });
    return sum;
  };
  uint64_t done = 0;
  const uint64_t begun_before = begun();
  for_each_shard([&](const Shard& shard) {
    done += shard.dropped.load(std::memory_order_acquire);
    for (size_t i = 0; i < io_classes; ++i) {
      const Counts& counts = shard.classes[i];
      Totals& totals = all.classes[i];
      for (size_t k = 0; k < buckets; ++k) {
        const uint64_t count = counts.latency[k].load(std::memory_order_acquire);
        totals.latency[k] += count;
        totals.count += count;
        done += count;
      }
      totals.bytes += counts.bytes.load(relaxed);
      totals.errors += counts.errors.load(relaxed);
      totals.nanos += counts.nanos.load(relaxed);
    }
  });
  // Operations go on meanwhile: the middle between the least and the most there can have been.
  const uint64_t middle = begun_before + (begun() - begun_before) / 2;
  all.in_flight = middle > done ? middle - done : 0;
  return all;
}

}  // namespace volfs
