// SPDX-License-Identifier: GPL-2.0-or-later
// The lock of the data path: ranges of a device (bytes, stripes or chunks; the unit is the
// user's), exclusive or shared, granted in the order of arrival so that nobody starves. A guard
// lives where it was made (usually the stack) and allocates nothing.
#pragma once

#include <cstdint>
#include <mutex>

#include "volfs/sync.h"

namespace volfs {

class RangeLock {
 public:
  enum class Mode : uint8_t { shared, exclusive };

  class Guard {
   public:
    // Waits until [BEGIN, END) is free. An empty range conflicts with nothing. A thread that
    // holds a range and waits for another one risks a deadlock: lock in rising order.
    Guard(RangeLock& lock, uint64_t begin, uint64_t end, Mode mode = Mode::exclusive);
    // Does not wait; owns() tells.
    Guard(RangeLock& lock, uint64_t begin, uint64_t end, Mode mode, std::try_to_lock_t);
    ~Guard() { unlock(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    bool owns() const { return granted_; }
    // Any thread; nothing if already unlocked.
    void unlock();

   private:
    friend class RangeLock;
    RangeLock& lock_;
    const uint64_t begin_, end_;
    const Mode mode_;
    bool queued_ = false;
    bool granted_ = false;
    Guard* previous_ = nullptr;
    Guard* next_ = nullptr;
    CondVar granted_now_;
  };

  RangeLock() = default;
  // Nobody may hold or wait for a range any more.
  ~RangeLock();
  RangeLock(const RangeLock&) = delete;
  RangeLock& operator=(const RangeLock&) = delete;

 private:
  static bool conflict(const Guard& a, const Guard& b);
  bool blocked(const Guard& guard) const;
  void append(Guard& guard);
  void remove(Guard& guard);

  Mutex mutex_;             // guards the list and the guards' fields
  Guard* first_ = nullptr;  // in the order of arrival, the granted and the waiting ones
  Guard* last_ = nullptr;
};

}  // namespace volfs
