// SPDX-License-Identifier: GPL-2.0-or-later
#include "exception_table.h"

#include <algorithm>

namespace volfs::dm {

ExceptionTable::ExceptionTable() : buckets_(initial_buckets) {
  memory_ = buckets_.capacity() * sizeof(Bucket);
}

// The finalizer of splitmix64: groups in sequence land far apart.
uint64_t ExceptionTable::hash(uint64_t chunk) {
  uint64_t x = (chunk >> group_shift) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

size_t ExceptionTable::bucket_of(uint64_t chunk) const {
  const uint64_t h = hash(chunk);
  const uint64_t wide = h & (2 * level_ - 1);
  return wide < buckets_.size() ? wide : h & (level_ - 1);
}

// The first entry that begins after CHUNK; the one before it is the one that may hold CHUNK.
ExceptionTable::Entry* ExceptionTable::after(const Bucket& bucket, uint64_t chunk) {
  return std::upper_bound(bucket.begin(), bucket.end(), chunk,
                          [](uint64_t c, const Entry& e) { return c < e.old_chunk; });
}

ExceptionTable::Run ExceptionTable::find(uint64_t chunk, uint64_t limit) const {
  if (entries_ == 0) return {false, 0, limit};
  const Bucket& bucket = buckets_[bucket_of(chunk)];
  const Entry* next = after(bucket, chunk);
  if (next != bucket.begin()) {
    const Entry& entry = next[-1];
    if (entry.holds(chunk))
      return {true, entry.new_chunk() + (chunk - entry.old_chunk),
              std::min(limit, entry.count() - (chunk - entry.old_chunk))};
  }
  // Unmapped up to the next entry of the bucket or the end of the group, which other buckets
  // know nothing of. (The last group of all ends at 2^64, where the difference is right, too.)
  uint64_t count = (((chunk >> group_shift) + 1) << group_shift) - chunk;
  if (next != bucket.end()) count = std::min(count, next->old_chunk - chunk);
  return {false, 0, std::min(limit, count)};
}

bool ExceptionTable::insert(Exception exception) {
  const uint64_t chunk = exception.old_chunk;
  Bucket& bucket = buckets_[bucket_of(chunk)];
  Entry* next = after(bucket, chunk);
  Entry* previous = next == bucket.begin() ? nullptr : next - 1;
  if (previous && previous->holds(chunk)) return false;
  ++chunks_;
  const auto same_group = [chunk](const Entry& entry) {
    return entry.old_chunk >> group_shift == chunk >> group_shift;
  };
  const bool joins_next = next != bucket.end() && same_group(*next) &&
                          chunk + 1 == next->old_chunk &&
                          exception.new_chunk + 1 == next->new_chunk();
  if (previous && same_group(*previous) && previous->old_chunk + previous->count() == chunk &&
      previous->new_chunk() + previous->count() == exception.new_chunk) {
    previous->packed += count_unit;
    if (joins_next) {
      previous->packed += next->count() * count_unit;
      remove_at(bucket, next);
    }
    return true;
  }
  if (joins_next) {
    next->old_chunk = chunk;
    next->packed = exception.new_chunk | (next->count() * count_unit);
    return true;
  }
  insert_at(bucket, next, {chunk, exception.new_chunk});
  if (entries_ > buckets_.size() * entries_per_bucket) split_one();
  return true;
}

bool ExceptionTable::erase(uint64_t chunk) {
  Bucket& bucket = buckets_[bucket_of(chunk)];
  Entry* next = after(bucket, chunk);
  if (next == bucket.begin() || !next[-1].holds(chunk)) return false;
  Entry& entry = next[-1];
  --chunks_;
  const uint64_t before = chunk - entry.old_chunk;
  const uint64_t behind = entry.count() - before - 1;
  if (before == 0 && behind == 0) {
    remove_at(bucket, &entry);
  } else if (before == 0) {
    entry = {entry.old_chunk + 1, (entry.new_chunk() + 1) | ((behind - 1) * count_unit)};
  } else {
    const Entry rest{chunk + 1, (entry.new_chunk() + before + 1) | ((behind - 1) * count_unit)};
    entry.packed = entry.new_chunk() | ((before - 1) * count_unit);
    if (behind > 0) insert_at(bucket, next, rest);
  }
  return true;
}

void ExceptionTable::for_each(
    const std::function<void(Exception first, uint64_t count)>& visit) const {
  for (const Bucket& bucket : buckets_)
    for (const Entry& entry : bucket) visit({entry.old_chunk, entry.new_chunk()}, entry.count());
}

void ExceptionTable::set_capacity(Bucket& bucket, uint32_t capacity) {
  const auto cost = [](uint32_t n) { return n == 0 ? 0 : n * sizeof(Entry) + heap_overhead; };
  auto entries = capacity == 0 ? nullptr : std::make_unique_for_overwrite<Entry[]>(capacity);
  std::copy(bucket.begin(), bucket.end(), entries.get());
  memory_ += cost(capacity) - cost(bucket.capacity);
  bucket.entries = std::move(entries);
  bucket.capacity = capacity;
}

void ExceptionTable::insert_at(Bucket& bucket, Entry* at, Entry entry) {
  const auto index = at - bucket.begin();
  if (bucket.size == bucket.capacity)
    set_capacity(bucket, bucket.capacity + std::max<uint32_t>(4, bucket.capacity / 4));
  Entry* place = bucket.begin() + index;
  std::copy_backward(place, bucket.end(), bucket.end() + 1);
  *place = entry;
  ++bucket.size;
  ++entries_;
}

void ExceptionTable::remove_at(Bucket& bucket, Entry* at) {
  std::copy(at + 1, bucket.end(), at);
  --bucket.size;
  --entries_;
  if (bucket.size < bucket.capacity / 2) set_capacity(bucket, bucket.size);
}

// Deals the entries of the next bucket in turn out to itself and a new one at the end.
void ExceptionTable::split_one() {
  const size_t from = buckets_.size() - level_;
  memory_ -= buckets_.capacity() * sizeof(Bucket);
  buckets_.emplace_back();
  memory_ += buckets_.capacity() * sizeof(Bucket);
  Bucket& old = buckets_[from];
  const auto moves = [this, &old](const Entry& entry) {
    return (hash(entry.old_chunk) & (2 * level_ - 1)) != static_cast<size_t>(&old - &buckets_[0]);
  };
  const auto moving = static_cast<uint32_t>(std::count_if(old.begin(), old.end(), moves));
  if (moving > 0) {
    Bucket& fresh = buckets_.back();
    set_capacity(fresh, moving);
    for (const Entry& entry : old)
      if (moves(entry)) fresh.entries[fresh.size++] = entry;
    const Entry* kept = std::remove_if(old.begin(), old.end(), moves);
    old.size = static_cast<uint32_t>(kept - old.begin());
    set_capacity(old, old.size);
  }
  if (buckets_.size() == 2 * level_) level_ *= 2;
}

}  // namespace volfs::dm
