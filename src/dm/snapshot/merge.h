// SPDX-License-Identifier: GPL-2.0-or-later
// Moves the chunks of a snapshot back into its origin, in the background.
//
// The list of exceptions is taken off from its end, a batch at a time: the other snapshots get
// their copies, writes to the batch wait, its data is written to the origin and flushed, the
// exceptions are wiped, writes go on. So at any instant the snapshot's content is the origin's
// with the chunks laid over it that the list still has; a batch whose wiping was interrupted is
// merged again.
#pragma once

#include <memory>
#include <vector>

#include "snapshot.h"
#include "volfs/error.h"
#include "volfs/sync.h"

namespace volfs::dm {

class Merge {
 public:
  explicit Merge(Snapshot& snapshot) : snapshot_(snapshot) {}
  ~Merge() { stop(); }
  Merge(const Merge&) = delete;
  Merge& operator=(const Merge&) = delete;

  // Goes on where it was stopped; nothing if it runs, is done or has failed. From one thread at
  // a time.
  Status start();
  // Returns when no batch is under way any more.
  void stop();

  // One batch. False when there is nothing left. For those who merge without a thread.
  Result<bool> step();

 private:
  void run();
  Status move(std::span<const Snapshot::Claim> batch);
  bool stopping();

  Snapshot& snapshot_;
  Thread thread_;
  Mutex mutex_;
  bool stop_ = false;  // guarded by mutex_
};

}  // namespace volfs::dm
