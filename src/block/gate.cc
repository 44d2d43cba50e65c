// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/gate.h"

namespace volfs {

bool Gate::try_enter() {
  uint64_t state = state_.load(std::memory_order_relaxed);
  while ((state & closed_bit) == 0)
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
  return false;
}

void Gate::enter() {
  while (!try_enter()) {
    const std::lock_guard lock(mutex_);
    changed_.wait(mutex_, [this] { return !closed(); });
  }
}

void Gate::exit() {
  // Only the last one out of a closed gate has somebody to wake. The lock is taken before the
  // count falls: once it is 0 the closer may destroy the gate.
  uint64_t state = state_.load(std::memory_order_relaxed);
  while ((state & closed_bit) == 0)
    if (state_.compare_exchange_weak(state, state - 1, std::memory_order_release)) return;
  const std::lock_guard lock(mutex_);
  if (state_.fetch_sub(1, std::memory_order_release) == (closed_bit | 1)) changed_.notify_all();
}

bool Gate::close(TimePoint deadline) {
  const std::lock_guard lock(mutex_);
  if (!changed_.wait_until(mutex_, deadline, [this] { return !closed(); })) return false;
  state_.fetch_or(closed_bit, std::memory_order_relaxed);
  const bool empty = changed_.wait_until(
      mutex_, deadline, [this] { return state_.load(std::memory_order_acquire) == closed_bit; });
  if (!empty) {
    state_.fetch_and(~closed_bit, std::memory_order_relaxed);
    changed_.notify_all();
  }
  return empty;
}

void Gate::open() {
  const std::lock_guard lock(mutex_);
  state_.fetch_and(~closed_bit, std::memory_order_release);
  changed_.notify_all();
}

}  // namespace volfs
