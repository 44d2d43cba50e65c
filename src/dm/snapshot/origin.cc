// SPDX-License-Identifier: GPL-2.0-or-later
#include "origin.h"

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <optional>
#include <utility>

#include "chunk_size.h"
#include "volfs/io_batch.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

// How much is made writable, and recorded, at a time.
constexpr uint64_t write_piece = 1 * MiB;

// A stretch that one snapshot wants copied. Bytes.
struct Stretch {
  uint64_t begin = 0, end = 0;  // of the origin
  uint64_t to = 0;
  size_t job = 0;
};

}  // namespace

// What one snapshot needs before a write goes on.
struct Origin::Job {
  Snapshot* snapshot = nullptr;
  std::vector<Snapshot::Claim> claims;
  std::vector<Exception> exceptions;
  std::optional<Error> failed;
};

bool Origin::writable(uint64_t offset, uint64_t length, const Snapshot* except) const {
  const std::lock_guard lock(mutex_);
  return std::none_of(snapshots_.begin(), snapshots_.end(), [&](const Snapshot* snapshot) {
    return snapshot != except && snapshot->shares(offset, offset + length);
  });
}

void Origin::make_writable(uint64_t offset, uint64_t length, const Snapshot* except) {
  for (uint64_t at = offset; at < offset + length;) {
    const Snapshot::Range piece{
        at, std::min(offset + length, round_down(at + write_piece, write_piece))};
    make_writable(std::span(&piece, 1), except);
    at = piece.end;
  }
}

void Origin::make_writable(std::span<const Snapshot::Range> ranges, const Snapshot* except) {
  if (ranges.empty()) return;
  uint64_t largest = 1;
  {
    const std::lock_guard lock(mutex_);
    for (const Snapshot* snapshot : snapshots_) largest = std::max(largest, snapshot->chunk_size());
  }
  // The snapshots cannot go away while the range is locked, see detach(). One that comes has a
  // right to what is written from now on, not to what is being copied.
  const RangeLock::Guard guard(lock_, round_down(ranges.front().begin, largest),
                               round_up(ranges.back().end, largest));
  std::vector<Job> jobs;
  {
    const std::lock_guard lock(mutex_);
    for (Snapshot* snapshot : snapshots_)
      if (snapshot != except) jobs.push_back({.snapshot = snapshot});
  }
  for (Job& job : jobs)
    if (!job.snapshot->claim(ranges, job.claims)) job.failed = Error::make(ENOSPC, "it is full");
  copy(jobs);

  std::vector<Committer::Request> requests;
  for (Job& job : jobs) {
    if (job.failed || job.claims.empty()) continue;
    job.exceptions = exceptions_of(job.claims);
    requests.push_back({.store = &job.snapshot->store(), .exceptions = job.exceptions});
  }
  if (!requests.empty()) committer_.commit(requests);
  auto request = requests.begin();
  for (Job& job : jobs) {
    if (!job.failed && !job.claims.empty()) {
      if (!request->status) job.failed = std::move(request->status.error());
      ++request;
    }
    if (job.failed)
      job.snapshot->invalidate(*job.failed);
    else
      job.snapshot->publish(job.claims);
  }
  for (Job& job : jobs)
    for (const Snapshot::Range& range : ranges)
      job.snapshot->wait_for_reads(range.begin, range.end);
}

// Reads each part of the origin once, and writes it to all that want it at the same time.
void Origin::copy(std::vector<Job>& jobs) {
  std::vector<Stretch> stretches;
  uint64_t at = UINT64_MAX, end = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const uint64_t chunk = jobs[i].snapshot->chunk_size();
    for (const Snapshot::Claim& claim : jobs[i].claims) {
      const uint64_t from = claim.old_chunk * chunk;
      const uint64_t until = std::min(from + claim.count * chunk, device_.size());
      stretches.push_back({from, until, claim.new_chunk * chunk, i});
      at = std::min(at, from);
      end = std::max(end, until);
    }
  }
  if (stretches.empty()) return;
  std::vector<std::byte> memory(std::min(copy_piece, end - at));
  std::vector<iovec> slices(stretches.size());
  while (at < end) {
    // What of the next piece is wanted, from the first byte to the last.
    uint64_t first = UINT64_MAX, last = 0;
    for (const Stretch& s : stretches)
      if (s.end > at) first = std::min(first, std::max(s.begin, at));
    const uint64_t until = std::min(end, first + memory.size());
    for (const Stretch& s : stretches)
      if (s.begin < until && s.end > first) last = std::max(last, std::min(s.end, until));
    const Status read = device_.read(first, std::span(memory).first(last - first));
    IoBatch batch;
    std::vector<size_t> job_of;
    for (size_t i = 0; i < stretches.size(); ++i) {
      const Stretch& s = stretches[i];
      const uint64_t from = std::max(s.begin, first), to = std::min(s.end, last);
      if (from >= to || jobs[s.job].failed) continue;
      if (!read) {
        jobs[s.job].failed = Error(read.error());
        continue;
      }
      slices[i] = {memory.data() + (from - first), to - from};
      batch.write(jobs[s.job].snapshot->cow(), s.to + (from - s.begin), {&slices[i], 1});
      job_of.push_back(s.job);
    }
    if (auto written = batch.run(); !written)
      for (size_t i = 0; i < job_of.size(); ++i)
        if (batch.error(i) != 0)
          jobs[job_of[i]].failed =
              Error::sys(batch.error(i), jobs[job_of[i]].snapshot->cow().name());
    at = last;
  }
}

void Origin::attach(Snapshot& snapshot) {
  const std::lock_guard lock(mutex_);
  snapshots_.push_back(&snapshot);
}

void Origin::detach(Snapshot& snapshot) {
  {
    const std::lock_guard lock(mutex_);
    std::erase(snapshots_, &snapshot);
  }
  // Who took it for a snapshot of this origin before holds a range.
  const RangeLock::Guard guard(lock_, 0, UINT64_MAX);
}

bool Origin::merges_another(const Snapshot& snapshot) const {
  const std::lock_guard lock(mutex_);
  return std::ranges::any_of(snapshots_, [&](const Snapshot* each) {
    if (each == &snapshot) return false;
    const SnapshotStatus status = each->status();
    return status.merging && status.exceptions > 0;
  });
}

uint64_t Origin::smallest_chunk() const {
  const std::lock_guard lock(mutex_);
  uint64_t smallest = 0;
  for (const Snapshot* snapshot : snapshots_)
    if (smallest == 0 || snapshot->chunk_size() < smallest) smallest = snapshot->chunk_size();
  return smallest;
}

}  // namespace volfs::dm
