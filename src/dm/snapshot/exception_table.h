// SPDX-License-Identifier: GPL-2.0-or-later
// Which chunks of an origin have been moved aside, and where to: the memory of a snapshot.
// Consecutive chunks that went to consecutive places share an entry, as in Linux's
// dm_exception, so a snapshot written sequentially costs almost nothing and one written at
// random about 20 bytes a chunk.
//
// A linear hash of sorted arrays: the groups of 256 consecutive chunks are dealt out to buckets
// of about 16 entries, and the buckets are split one at a time, so that there is neither a pause
// nor a doubling of memory while it grows. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace volfs::dm {

// Chunk `old_chunk` of the origin is kept in chunk `new_chunk` of the copy-on-write device.
struct Exception {
  uint64_t old_chunk = 0;
  uint64_t new_chunk = 0;
};

class ExceptionTable {
 public:
  // What holds for a chunk and the `count` chunks from it on: all unmapped, or mapped to
  // consecutive chunks from new_chunk on.
  struct Run {
    bool mapped = false;
    uint64_t new_chunk = 0;
    uint64_t count = 0;
  };
  // A new_chunk needs 56 bits: the other 8 of the word count the chunks that follow.
  static constexpr uint64_t max_new_chunk = (uint64_t{1} << 56) - 1;

  ExceptionTable();

  // LIMIT is how many chunks the caller cares for, at least 1. A run ends at the latest where
  // the group of 256 ends: ask again for what follows.
  Run find(uint64_t chunk, uint64_t limit = 1) const;
  // False if the chunk is mapped already. new_chunk is at most max_new_chunk.
  bool insert(Exception exception);
  // False if the chunk is not mapped.
  bool erase(uint64_t chunk);

  uint64_t chunks() const { return chunks_; }    // how many chunks are mapped
  uint64_t entries() const { return entries_; }  // in how many entries
  uint64_t memory() const { return memory_; }    // bytes of heap, overhead included
  // Every run of consecutive chunks, in no order.
  void for_each(const std::function<void(Exception first, uint64_t count)>& visit) const;

 private:
  static constexpr unsigned group_shift = 8;
  static constexpr uint64_t initial_buckets = 16;
  static constexpr uint64_t entries_per_bucket = 16;
  static constexpr uint64_t count_unit = max_new_chunk + 1;
  static constexpr uint64_t heap_overhead = 16;  // what malloc adds to a block, about

  struct Entry {
    uint64_t old_chunk;
    uint64_t packed;  // new_chunk, and how many follow in the top 8 bits
    uint64_t count() const { return (packed >> 56) + 1; }
    uint64_t new_chunk() const { return packed & max_new_chunk; }
    // CHUNK is not before old_chunk.
    bool holds(uint64_t chunk) const { return chunk - old_chunk < count(); }
  };
  struct Bucket {
    std::unique_ptr<Entry[]> entries;
    uint32_t size = 0;
    uint32_t capacity = 0;
    Entry* begin() const { return entries.get(); }
    Entry* end() const { return entries.get() + size; }
  };

  static uint64_t hash(uint64_t chunk);
  size_t bucket_of(uint64_t chunk) const;
  static Entry* after(const Bucket& bucket, uint64_t chunk);
  void insert_at(Bucket& bucket, Entry* at, Entry entry);
  void remove_at(Bucket& bucket, Entry* at);
  void set_capacity(Bucket& bucket, uint32_t capacity);
  void split_one();

  std::vector<Bucket> buckets_;
  uint64_t level_ = initial_buckets;  // buckets_.size() is in [level_, 2 * level_)
  uint64_t chunks_ = 0;
  uint64_t entries_ = 0;
  uint64_t memory_ = 0;
};

}  // namespace volfs::dm
