// SPDX-License-Identifier: GPL-2.0-or-later
#include "notifier.h"

#include <fuse_lowlevel.h>

#include <mutex>
#include <utility>

namespace volfs::fuse {

Status Notifier::start() {
  VOLFS_TRY_ASSIGN(thread_, Thread::start("fuse-notify", [this] { run(); }));
  catalog_.set_listener(this);
  return {};
}

void Notifier::stop() {
  if (!thread_.joinable()) return;
  catalog_.set_listener(nullptr);
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  thread_.join();
}

void Notifier::name_changed(uint64_t parent, const std::string& name, uint64_t child) {
  const std::lock_guard lock(mutex_);
  changes_.push_back({parent, name, child});
  wake_.notify_one();
}

void Notifier::run() {
  while (true) {
    Change change;
    {
      const std::lock_guard lock(mutex_);
      wake_.wait(mutex_, [this] { return stopping_ || !changes_.empty(); });
      if (stopping_) return;
      change = std::move(changes_.front());
      changes_.pop_front();
    }
    tell(change);
  }
}

// That the kernel knows nothing of what is told (ENOENT) is as good.
void Notifier::tell(const Change& change) {
  const auto now = catalog_.lookup(change.parent, change.name);
  const bool gone = !now || now->inode != change.child;
  if (!gone || fuse_lowlevel_notify_delete(session_, change.parent, change.child,
                                           change.name.c_str(), change.name.size()) != 0)
    fuse_lowlevel_notify_inval_entry(session_, change.parent, change.name.c_str(),
                                     change.name.size());
  // Size, permission and data of what is there may be others than before.
  if (!gone) fuse_lowlevel_notify_inval_inode(session_, change.child, 0, 0);
  fuse_lowlevel_notify_inval_inode(session_, change.parent, -1, 0);
}

}  // namespace volfs::fuse
