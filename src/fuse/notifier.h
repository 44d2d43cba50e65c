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
  // Both outlive this.
  Notifier(engine::Catalog& catalog, fuse_session* session)
      : catalog_(catalog), session_(session) {}
  ~Notifier() { stop(); }

  Status start();
  // Ends the thread, after what it is just telling.
  void stop();
  void name_changed(uint64_t parent, const std::string& name, uint64_t child) override;

 private:
  struct Change {
    uint64_t parent;
    std::string name;
    uint64_t child;
  };
  void run();
  void tell(const Change& change);

  engine::Catalog& catalog_;
  fuse_session* const session_;
  Mutex mutex_;  // guards all below
  CondVar wake_;
  std::deque<Change> changes_;
  bool stopping_ = false;
  Thread thread_;
};

}  // namespace volfs::fuse
