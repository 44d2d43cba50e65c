// SPDX-License-Identifier: GPL-2.0-or-later
// Counters of the I/O of one volume or image: operations, bytes, errors, what is in flight, and a
// histogram of latencies. Without locks; threads count in shards of their own cache lines, so that
// they do not get in each other's way, and who reads adds the shards up.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "volfs/sync.h"

namespace volfs {

// Discards count write_zeroes, too.
enum class IoClass : uint8_t { read, write, flush, discard };
inline constexpr size_t io_classes = 4;

class IoCounters {
 public:
  // Bucket i counts latencies below bound(i), and not below the bound before; the last one has no
  // bound.
  static constexpr size_t buckets = 23;
  static constexpr Nanos bound(size_t bucket) {
    return Nanos(std::chrono::microseconds(4)) * (int64_t{1} << bucket);
  }

  struct Totals {
    std::array<uint64_t, buckets> latency{};
    uint64_t count = 0;  // operations that are done
    uint64_t bytes = 0;  // moved or discarded by those that succeeded
    uint64_t errors = 0;
    uint64_t nanos = 0;  // sum of the latencies
  };
  struct Snapshot {
    std::array<Totals, io_classes> classes;
    uint64_t in_flight = 0;
    const Totals& of(IoClass which) const { return classes[static_cast<size_t>(which)]; }
  };

  IoCounters() = default;
  ~IoCounters();
  IoCounters(const IoCounters&) = delete;
  IoCounters& operator=(const IoCounters&) = delete;

  // Around an operation; the two calls may come from different threads. BEGUN is what begin() gave.
  TimePoint begin();
  void end(IoClass which, TimePoint begun, uint64_t bytes, bool failed);
  // Instead of end(), for one that was given up.
  void drop();

  // As of now, nearly: what happens meanwhile may be in it in part.
  Snapshot snapshot() const;

 private:
  struct Counts {
    std::array<std::atomic<uint64_t>, buckets> latency{};
    std::atomic<uint64_t> bytes{0}, errors{0}, nanos{0};
  };
  struct alignas(64) Shard {
    std::atomic<uint64_t> begun{0}, dropped{0};
    std::array<Counts, io_classes> classes;
  };
  static constexpr size_t shard_count = 8;
  Shard& mine();
  template <class Visit>
  void for_each_shard(Visit visit) const;

  // Made when first used: of thousands of volumes few are busy.
  std::array<std::atomic<Shard*>, shard_count> shards_{};
};

}  // namespace volfs
