// SPDX-License-Identifier: GPL-2.0-or-later
// A device that has snapshots: sees to it that no chunk is overwritten before every snapshot
// that shares it has its copy.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "committer.h"
#include "snapshot.h"
#include "volfs/block_device.h"
#include "volfs/range_lock.h"
#include "volfs/sync.h"

namespace volfs::dm {

class Origin {
 public:
  explicit Origin(BlockDevice& device) : device_(device) {}
  Origin(const Origin&) = delete;
  Origin& operator=(const Origin&) = delete;

  BlockDevice& device() const { return device_; }

  // Whether the range may be overwritten at once, as far as all snapshots but EXCEPT (may be
  // null) are concerned. It remains so until a snapshot is activated. Does not wait.
  bool writable(uint64_t offset, uint64_t length, const Snapshot* except) const;
  // Makes it so: copies what is shared, records it durably, waits for reads of the old data. A
  // snapshot for which that is impossible becomes invalid: there is no error to report.
  void make_writable(uint64_t offset, uint64_t length, const Snapshot* except);
  // The same of several ranges in rising order, together a few megabytes, which are recorded at
  // once. Copies anywhere from the first to the last one wait meanwhile.
  void make_writable(std::span<const Snapshot::Range> ranges, const Snapshot* except);

  // For snapshots only. attach: from now on writes copy for it. detach: returns when nobody
  // uses it any more.
  void attach(Snapshot& snapshot);
  void detach(Snapshot& snapshot);
  // Chunks under way, in bytes of the origin: held while a chunk is copied.
  RangeLock& lock() { return lock_; }
  Committer& committer() { return committer_; }
  // Whether one of them, not SNAPSHOT, is being merged: what it gets is not copied for the other,
  // so that two at once would give neither.
  bool merges_another(const Snapshot& snapshot) const;
  // The smallest chunk size of the snapshots; 0 without any.
  uint64_t smallest_chunk() const;

 private:
  struct Job;
  void copy(std::vector<Job>& jobs);

  BlockDevice& device_;
  RangeLock lock_;
  Committer committer_;
  mutable Mutex mutex_;  // guards the list
  std::vector<Snapshot*> snapshots_;
};

}  // namespace volfs::dm
