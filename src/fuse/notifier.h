// SPDX-License-Identifier: GPL-2.0-or-later
// Tells the kernel what changed in the catalog, from a thread of its own: the kernel may wait for
// requests that are under way before it forgets, so no thread that serves them may do it.
#pragma once

#include <deque>
#include <string>

#include "volfs/engine/catalog.h"
#include "volfs/error.h"
#include "volfs/sync.h"

struct fuse_session;

namespace volfs::fuse {

class Notifier final : public engine::Catalog::Listener {
 public:
  // CATALOG outlives this.
  explicit Notifier(engine::Catalog& catalog) : catalog_(catalog) {}
  ~Notifier() { stop(); }

  // SESSION, which is mounted, outlives the thread.
  Status start(fuse_session* session);
  // Ends the thread, after what it is just telling.
  void stop();
  // Changes there ever were.
  uint64_t noted();
  // Waits, for a second at most, until the kernel knows of all changes up to now, if there were any
  // since BEFORE, a value of noted(). Not on a thread that serves requests.
  void settle(uint64_t before);
  // Lets the kernel ask anew for everything about VOLUME, its size included, which it keeps by
  // itself with a writeback cache. Any thread.
  void forget(const engine::Volume& volume);
  void name_changed(uint64_t parent, const std::string& name, uint64_t child) override;
  void volume_changed(uint64_t inode) override;

 private:
  struct Change {
    uint64_t parent;  // 0: no name has changed
    std::string name;
    uint64_t child;
  };
  void add(Change change);
  void run();
  void tell(const Change& change);

  engine::Catalog& catalog_;
  fuse_session* session_ = nullptr;
  Mutex mutex_;  // guards all below
  CondVar wake_;
  CondVar told_;
  std::deque<Change> changes_;
  uint64_t noted_ = 0;  // changes there ever were
  uint64_t done_ = 0;   // those of them that the kernel knows
  bool stopping_ = false;
  Thread thread_;
};

}  // namespace volfs::fuse
