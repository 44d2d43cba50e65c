// SPDX-License-Identifier: GPL-2.0-or-later
// A gate counts who is inside and can be closed: the way a device is suspended. Entering an open
// gate costs one atomic operation.
#pragma once

#include <atomic>
#include <cstdint>

#include "volfs/mapping.h"
#include "volfs/sync.h"

namespace volfs {

class Gate final : public LeaseOwner {
 public:
  // False when the gate is closed.
  bool try_enter();
  // Waits while the gate is closed.
  void enter();
  void exit();
  // Mapping::hold(gate) after a try_enter or enter: exits when the mapping ends.
  void release(uint64_t, uint64_t) override { exit(); }

  // Lets nobody in any more and waits until all who were inside have left, or until DEADLINE:
  // then the gate opens again and close is false. Closing a closed gate waits for it to open
  // first. A thread that is inside must not close.
  bool close(TimePoint deadline = never);
  void open();
  bool closed() const { return (state_.load(std::memory_order_relaxed) & closed_bit) != 0; }

 private:
  static constexpr uint64_t closed_bit = uint64_t{1} << 63;
  std::atomic<uint64_t> state_{0};  // how many are inside, and closed_bit
  Mutex mutex_;
  CondVar changed_;
};

}  // namespace volfs
