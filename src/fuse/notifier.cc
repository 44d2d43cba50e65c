// SPDX-License-Identifier: GPL-2.0-or-later
#include "notifier.h"

#include <fuse_lowlevel.h>

#include <chrono>
#include <mutex>
#include <utility>

namespace volfs::fuse {

Status Notifier::start(fuse_session* session) {
  session_ = session;
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
    told_.notify_all();
  }
  thread_.join();
}

void Notifier::name_changed(uint64_t parent, const std::string& name, uint64_t child) {
  add({parent, name, child});
}

void Notifier::volume_changed(uint64_t inode) {
  add({0, {}, inode});
}

void Notifier::forget(const engine::Volume& volume) {
  // Its inode goes with its name, as nobody has it open.
  const std::string path = volume.path();
  const size_t slash = path.find('/');
  if (slash == std::string::npos) return add({engine::Catalog::root, path, volume.inode()});
  if (const auto parent = catalog_.lookup(engine::Catalog::root, path.substr(0, slash)))
    add({parent->inode, path.substr(slash + 1), volume.inode()});
}

void Notifier::add(Change change) {
  const std::lock_guard lock(mutex_);
  changes_.push_back(std::move(change));
  ++noted_;
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
    const std::lock_guard lock(mutex_);
    ++done_;
    told_.notify_all();
  }
}

uint64_t Notifier::noted() {
  const std::lock_guard lock(mutex_);
  return noted_;
}

void Notifier::settle(uint64_t before) {
  // The kernel may wait for I/O on a suspended map before it drops pages; nobody else should.
  constexpr Nanos patience = std::chrono::seconds(1);
  const std::lock_guard lock(mutex_);
  const uint64_t goal = noted_;
  if (goal == before) return;
  told_.wait_until(mutex_, now() + patience, [&] { return stopping_ || done_ >= goal; });
}

// That the kernel knows nothing of what is told (ENOENT) is as good.
void Notifier::tell(const Change& change) {
  if (change.parent == 0) {
    fuse_lowlevel_notify_inval_inode(session_, change.child, 0, 0);
    return;
  }
  const auto there = catalog_.lookup(change.parent, change.name);
  const bool gone = !there || there->inode != change.child;
  if (!gone || fuse_lowlevel_notify_delete(session_, change.parent, change.child,
                                           change.name.c_str(), change.name.size()) != 0)
    fuse_lowlevel_notify_inval_entry(session_, change.parent, change.name.c_str(),
                                     change.name.size());
  // Size, permission and data of what is there may be others than before.
  if (!gone) fuse_lowlevel_notify_inval_inode(session_, change.child, 0, 0);
  fuse_lowlevel_notify_inval_inode(session_, change.parent, -1, 0);
}

}  // namespace volfs::fuse
