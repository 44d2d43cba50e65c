// SPDX-License-Identifier: GPL-2.0-or-later
// Whether an array is clean or active, as md keeps it: active before the first write, clean again
// when nobody has written for the safe-mode delay; and when bits of the bitmap are cleared.
#include <algorithm>

#include "array_core.h"

namespace volfs::md {

Status Array::Core::begin_write() {
  writers.fetch_add(1);
  if (!clean.load() && active_durable.load()) return {};
  std::unique_lock lock(mutex);
  if (clean.load()) {
    clean.store(false);
    note(false);
    active_change = wanted;
    changed.notify_all();
  }
  while (written < active_change && !failed.load()) VOLFS_TRY(commit(lock));
  if (failed.load()) return fail_sys(EIO, "the array has failed");
  active_durable.store(true);
  return {};
}

void Array::Core::end_write() {
  last_write.store(now().time_since_epoch().count());
  finished_writes.fetch_add(1);
  writers.fetch_sub(1);
}

// Goes back to clean when nobody has written for a while. NEXT: when to look again.
bool Array::Core::try_clean(std::unique_lock<Mutex>& lock, TimePoint& next) {
  if (clean.load() || failed.load()) return false;
  const TimePoint due = TimePoint(Nanos(last_write.load())) + options.safe_mode_delay;
  if (writers.load() > 0 || now() < due) {
    next = std::min(next, writers.load() > 0 ? now() + options.safe_mode_delay : due);
    return false;
  }
  // What was written must be on disk before the superblock says that it is in sync.
  const uint64_t finished = finished_writes.load();
  lock.unlock();
  Status flushed;
  {
    const Inside inside(works);
    flushed = flush_members();
  }
  lock.lock();
  if (!flushed || stopping || failed.load()) return false;
  active_durable.store(false);
  clean.store(true);
  // A write that began between looks at `clean` after it has counted itself.
  if (writers.load() > 0 || finished != finished_writes.load()) {
    clean.store(false);
    active_durable.store(true);
    next = std::min(next, now() + options.safe_mode_delay);
    return false;
  }
  note(false);
  return commit(lock).has_value();
}

// False if there is nothing to do before the next write or the end of a sync.
bool Array::Core::sweep_bitmap(bool now) {
  const Inside inside(works);
  if (degraded_now()) return false;
  return bitmap->sweep(now, [this]() -> std::optional<uint64_t> {
    if (!flush_members()) return std::nullopt;
    const std::lock_guard lock(mutex);
    if (failed.load() || degraded_now()) return std::nullopt;
    return array.events;
  });
}

Nanos Array::Core::sweep_interval() const {
  if (options.bitmap_sweep) return *options.bitmap_sweep;
  return std::chrono::seconds(bitmap->superblock().daemon_sleep);
}

void Array::Core::run_daemon() {
  std::unique_lock lock(mutex);
  TimePoint next_sweep = bitmap ? now() + sweep_interval() : never, next_commit{};
  bool sweeping = bitmap != nullptr;
  while (!stopping) {
    TimePoint next = never;
    const bool was_active = !clean.load();
    try_clean(lock, next);
    if (stopping) break;
    // What nobody waited for, or there was no room for.
    if (written < wanted && !failed.load() && now() >= next_commit && !commit(lock))
      next_commit = now() + room_delay;
    if (written < wanted && !failed.load()) next = std::min(next, next_commit);
    if (bitmap && !failed.load()) {
      sweeping = sweep_wanted.exchange(false) || sweeping || was_active;
      if (sweeping && now() >= next_sweep) {
        lock.unlock();
        sweeping = sweep_bitmap(false);
        lock.lock();
        next_sweep = now() + sweep_interval();
      }
      if (sweeping) next = std::min(next, next_sweep);
    }
    if (stopping) break;
    if (next == never && !clean.load() && !failed.load()) next = now() + options.safe_mode_delay;
    changed.wait_until(mutex, next);
  }
}

}  // namespace volfs::md
