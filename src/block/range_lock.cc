// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/range_lock.h"

#include <cassert>

namespace volfs {

RangeLock::~RangeLock() {
  assert(first_ == nullptr);
}

bool RangeLock::conflict(const Guard& a, const Guard& b) {
  if (a.mode_ == Mode::shared && b.mode_ == Mode::shared) return false;
  if (a.begin_ >= a.end_ || b.begin_ >= b.end_) return false;
  return a.begin_ < b.end_ && b.begin_ < a.end_;
}

// Whether a guard that came before, granted or not, stands in the way.
bool RangeLock::blocked(const Guard& guard) const {
  for (const Guard* g = guard.previous_; g; g = g->previous_)
    if (conflict(*g, guard)) return true;
  return false;
}

void RangeLock::append(Guard& guard) {
  guard.previous_ = last_;
  (last_ ? last_->next_ : first_) = &guard;
  last_ = &guard;
  guard.queued_ = true;
}

void RangeLock::remove(Guard& guard) {
  (guard.previous_ ? guard.previous_->next_ : first_) = guard.next_;
  (guard.next_ ? guard.next_->previous_ : last_) = guard.previous_;
  for (Guard* g = guard.next_; g; g = g->next_) {
    if (g->granted_ || !conflict(*g, guard) || blocked(*g)) continue;
    g->granted_ = true;
    g->granted_now_.notify_one();
  }
  guard.queued_ = guard.granted_ = false;
}

RangeLock::Guard::Guard(RangeLock& lock, uint64_t begin, uint64_t end, Mode mode)
    : lock_(lock), begin_(begin), end_(end), mode_(mode) {
  const std::lock_guard held(lock_.mutex_);
  lock_.append(*this);
  granted_ = !lock_.blocked(*this);
  granted_now_.wait(lock_.mutex_, [this] { return granted_; });
}

RangeLock::Guard::Guard(RangeLock& lock, uint64_t begin, uint64_t end, Mode mode,
                        std::try_to_lock_t)
    : lock_(lock), begin_(begin), end_(end), mode_(mode) {
  const std::lock_guard held(lock_.mutex_);
  lock_.append(*this);
  granted_ = !lock_.blocked(*this);
  if (!granted_) lock_.remove(*this);
}

void RangeLock::Guard::unlock() {
  const std::lock_guard held(lock_.mutex_);
  if (queued_) lock_.remove(*this);
}

}  // namespace volfs
