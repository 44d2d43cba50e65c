// SPDX-License-Identifier: GPL-2.0-or-later
#include "merge.h"

#include <algorithm>
#include <mutex>
#include <span>
#include <utility>

#include "chunk_size.h"
#include "origin.h"
#include "persistent_store.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

// A batch: what is moved between two flushes, and how long a write may have to wait for it.
constexpr uint64_t batch_bytes = 4 * MiB;
constexpr size_t batch_runs = 256;

// The runs of consecutive chunks in a list that goes backwards, as many as make a batch; COUNT
// is how many exceptions they are.
std::vector<Snapshot::Claim> runs_of(const std::vector<Exception>& list, size_t& count) {
  std::vector<Snapshot::Claim> runs;
  count = 0;
  for (const Exception& e : list) {
    Snapshot::Claim* run = runs.empty() ? nullptr : &runs.back();
    if (run && e.old_chunk + 1 == run->old_chunk && e.new_chunk + 1 == run->new_chunk) {
      *run = {e.old_chunk, e.new_chunk, run->count + 1};
    } else {
      if (runs.size() == batch_runs) break;
      runs.push_back({e.old_chunk, e.new_chunk, 1});
    }
    ++count;
  }
  return runs;
}

// What of an origin of SIZE bytes the runs are, in rising order.
std::vector<Snapshot::Range> ranges_of(std::span<const Snapshot::Claim> runs, uint64_t chunk,
                                       uint64_t size) {
  std::vector<Snapshot::Range> ranges;
  for (const Snapshot::Claim& run : runs) {
    const uint64_t begin = run.old_chunk * chunk;
    if (begin < size) ranges.push_back({begin, std::min(begin + run.count * chunk, size)});
  }
  std::ranges::sort(ranges, {}, &Snapshot::Range::begin);
  return ranges;
}

}  // namespace

Status Merge::start() {
  if (thread_.joinable()) return {};
  if (snapshot_.status().state != SnapshotStatus::State::active &&
      snapshot_.status().state != SnapshotStatus::State::overflowed)
    return {};
  {
    const std::lock_guard lock(mutex_);
    stop_ = false;
  }
  VOLFS_TRY_ASSIGN(thread_, Thread::start("merge", [this] { run(); }));
  return {};
}

void Merge::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  thread_.join();
}

bool Merge::stopping() {
  const std::lock_guard lock(mutex_);
  return stop_;
}

void Merge::run() {
  while (!stopping()) {
    auto more = step();
    if (!more) return snapshot_.merge_failed(more.error());
    if (!*more) return snapshot_.merge_done();
  }
}

Result<bool> Merge::step() {
  PersistentStore& store = *snapshot_.store().persistent();
  const uint64_t chunk = snapshot_.chunk_size();
  std::vector<Exception> list;
  VOLFS_TRY(store.last(std::max<uint64_t>(1, batch_bytes / chunk), list));
  if (list.empty()) return false;
  size_t count = 0;
  const std::vector<Snapshot::Claim> batch = runs_of(list, count);
  Origin& origin = snapshot_.origin();
  origin.make_writable(ranges_of(batch, chunk, origin.device().size()), &snapshot_);
  VOLFS_TRY(snapshot_.hold_off_writes(batch));
  Status status = move(batch);
  if (status) status = store.remove_last(count);
  snapshot_.let_writes_go(status.has_value());
  if (!status) return fail(std::move(status.error()));
  return true;
}

Status Merge::move(std::span<const Snapshot::Claim> batch) {
  const uint64_t chunk = snapshot_.chunk_size();
  BlockDevice& origin = snapshot_.origin().device();
  std::vector<std::byte> memory(std::min(copy_piece, batch_bytes));
  for (const auto& run : batch) {
    const uint64_t begin = run.old_chunk * chunk;
    const uint64_t end = std::min(begin + run.count * chunk, origin.size());
    for (uint64_t at = begin; at < end;) {
      const auto piece = std::span(memory).first(std::min<uint64_t>(memory.size(), end - at));
      VOLFS_TRY(snapshot_.cow().read(run.new_chunk * chunk + (at - begin), piece));
      VOLFS_TRY(origin.write(at, piece));
      at += piece.size();
    }
  }
  return origin.flush();
}

}  // namespace volfs::dm
