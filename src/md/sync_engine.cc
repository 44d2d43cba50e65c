// SPDX-License-Identifier: GPL-2.0-or-later
// What runs in the background until an array is redundant again, in the order of md_check_recovery:
// spares into empty slots, recovery of members that are not in sync, resync, and what was asked
// for.
#include <algorithm>
#include <cerrno>

#include "array_core.h"
#include "volfs/log.h"

namespace volfs::md {
namespace {

// Between two looks at whether to go on: 512 KiB, less when that takes long at the top speed.
constexpr uint64_t step_size = 512 * KiB, least_step = 64 * KiB, steps_a_second = 16;
constexpr uint64_t checkpoints = 16;  // how often the position is recorded
constexpr Nanos mark_distance = std::chrono::seconds(3);
constexpr Nanos stand_back = std::chrono::milliseconds(20);

SyncAction action_of(SyncKind kind) {
  switch (kind) {
    case SyncKind::resync:
      return SyncAction::resync;
    case SyncKind::recover:
      return SyncAction::recover;
    case SyncKind::check:
      return SyncAction::check;
    case SyncKind::repair:
      return SyncAction::repair;
  }
  return SyncAction::idle;
}

}  // namespace

SyncEngine::SyncEngine(Array::Core& core) : core_(core), held_(core.options.hold_sync) {}

Status SyncEngine::start() {
  VOLFS_TRY_ASSIGN(thread_, Thread::start("volfs-sync", [this] { main(); }));
  return {};
}

void SyncEngine::stop() {
  thread_.join();  // `stopping` is set
}

Status SyncEngine::request(SyncAction action) {
  const std::lock_guard lock(core_.mutex);
  if (core_.read_only) return fail_sys(EROFS, core_.options.name);
  if (core_.failed.load()) return fail_sys(EIO, core_.options.name);
  if (running_ || requested_ || can_fill() || choose())
    return fail(Error::make(EBUSY, core_.options.name + ": another sync has not ended"));
  requested_ = action;
  core_.changed.notify_all();
  return {};
}

void SyncEngine::cancel() {
  const std::lock_guard lock(core_.mutex);
  requested_.reset();
  core_.changed.notify_all();
}

void SyncEngine::hold(bool hold) {
  const std::lock_guard lock(core_.mutex);
  held_ = hold;
  core_.changed.notify_all();
}

bool SyncEngine::held() const {
  const std::lock_guard lock(core_.mutex);
  return held_;
}

void SyncEngine::wake() {
  requeue_ = true;
  stuck_ = false;
  retry_ = never;
  core_.changed.notify_all();
}

void SyncEngine::postpone() {
  stuck_ = true;
  retry_ = now() + room_delay;
  core_.changed.notify_all();
}

// Where there is no room what is to be done can go on later.
bool SyncEngine::settled_or_postponed(const Status& status) {
  if (!status && no_room(status.error().code())) postpone();
  return status.has_value();
}

bool SyncEngine::wait(TimePoint deadline) {
  const std::lock_guard lock(core_.mutex);
  return core_.changed.wait_until(core_.mutex, deadline, [this] {
    if (running_) return false;
    return core_.read_only || core_.failed.load() || core_.stopping || held_ ||
           (stuck_ && retry_ == never) || (!can_fill() && !choose());
  });
}

// Whether members have to change places.
bool SyncEngine::can_fill() const {
  const Members& shared = core_.shared;
  for (uint32_t i = 0; i < shared.disks(); ++i) {
    if (may_take_over(i)) return true;
    const bool vacant = !shared.slots[i].present() || wants_replacement(i);
    if (vacant && spare_for(i)) return true;
  }
  return false;
}

// It has all that the other has, or is all that is left.
bool SyncEngine::may_take_over(uint32_t slot) const {
  const Slot& replacement = core_.shared.slots[core_.shared.replacement_of(slot)];
  return replacement.present() && (!core_.shared.slots[slot].present() ||
                                   replacement.recovered.load() >= core_.array.member_size);
}

bool SyncEngine::wants_replacement(uint32_t slot) const {
  const Array::Member* member = core_.member_of(slot);
  return member && member->to_replace && core_.shared.slots[slot].in_sync() &&
         !core_.shared.slots[core_.shared.replacement_of(slot)].present();
}

// As md, who came last first.
Array::Member* SyncEngine::spare_for(uint32_t slot) const {
  Array::Member* found = nullptr;
  for (const auto& m : core_.members) {
    if (!m->spare()) continue;
    if (m->reserved_for == slot) return m.get();
    if (m->reserved_for == no_slot && (!found || m->arrival > found->arrival)) found = m.get();
  }
  return found;
}

std::optional<SyncEngine::Run> SyncEngine::choose() const {
  uint64_t start = all_in_sync;
  for (const Slot& slot : core_.shared.slots)
    if (slot.present() && !slot.in_sync()) start = std::min(start, slot.recovered.load());
  if (start != all_in_sync) return Run{SyncKind::recover, start, core_.array.member_size};
  const uint64_t end = core_.personality->sync_size();
  if (core_.resync_position != all_in_sync)
    return Run{SyncKind::resync, core_.resync_position, end};
  if (requested_)
    return Run{*requested_ == SyncAction::check ? SyncKind::check : SyncKind::repair, 0, end};
  return std::nullopt;
}

// As in md, who was replaced counts as faulty: it is not written any more.
void SyncEngine::let_replacements_take_over() {
  for (uint32_t i = 0; i < core_.shared.disks(); ++i) {
    if (!may_take_over(i)) continue;
    Array::Member& replacement = *core_.member_of(core_.shared.replacement_of(i));
    const uint64_t right = core_.shared.slots[replacement.slot].recovered.load();
    const bool whole = right >= core_.array.member_size;
    if (Array::Member* old = core_.member_of(i)) {
      if (!old->faulty) core_.mark_faulty(*old);
      core_.detach(*old);
    }
    core_.detach(replacement);
    core_.attach(replacement, i, whole ? all_in_sync : right);
    log_info("{}: {} takes over slot {}{}", core_.options.name, replacement.device->name(), i,
             whole ? "" : ", and is recovered");
  }
}

void SyncEngine::begin_replacements() {
  for (uint32_t i = 0; i < core_.shared.disks(); ++i) {
    const uint32_t place = core_.shared.replacement_of(i);
    if (!wants_replacement(i)) continue;
    Array::Member* spare = spare_for(i);
    if (!spare) continue;
    if (Array::Member* failed = core_.member_of(place)) core_.detach(*failed);
    spare->reserved_for = no_slot;
    core_.attach(*spare, place, 0);
    log_info("{}: {} is to replace {} in slot {}", core_.options.name, spare->device->name(),
             core_.member_of(i)->device->name(), i);
  }
}

// Spares take the places of members that are missing or faulty, and replacements of those they
// replace.
bool SyncEngine::fill_slots(std::unique_lock<Mutex>& lock) {
  lock.unlock();
  const std::lock_guard turn(core_.turn);
  const Array::Reconfiguration closed(core_);
  // What a log that goes with its member stood for.
  const Status settled = core_.array.has_ppl ? core_.flush_members() : Status();
  lock.lock();
  if (!settled) return settled_or_postponed(settled);
  let_replacements_take_over();
  for (uint32_t i = 0; i < core_.shared.disks(); ++i) {
    if (core_.shared.slots[i].present()) continue;
    Array::Member* spare = spare_for(i);
    if (!spare) continue;
    if (Array::Member* old = core_.member_of(i)) core_.detach(*old);
    spare->reserved_for = no_slot;
    core_.attach(*spare, i, 0);
    log_info("{}: recovery of slot {} onto {}", core_.options.name, i, spare->device->name());
  }
  begin_replacements();
  core_.note(true);
  return settled_or_postponed(core_.commit(lock));
}

void SyncEngine::main() {
  std::unique_lock lock(core_.mutex);
  while (!core_.stopping) {
    if (stuck_ && now() >= retry_) {
      stuck_ = false;
      retry_ = never;
    }
    if (!held_ && !stuck_ && !core_.failed.load()) {
      running_ = true;
      if (can_fill()) {
        if (!fill_slots(lock)) stuck_ = true;
        continue;
      }
      if (const auto run = choose()) {
        carry_out(lock, *run);
        continue;
      }
    }
    running_ = false;
    core_.changed.notify_all();
    core_.changed.wait_until(core_.mutex, stuck_ ? retry_ : never);
  }
  running_ = false;
  core_.changed.notify_all();
}

bool SyncEngine::interrupted(const Run& run) const {
  if (core_.stopping || core_.failed.load() || held_ || requeue_) return true;
  return (run.kind == SyncKind::check || run.kind == SyncKind::repair) && !requested_;
}

void SyncEngine::carry_out(std::unique_lock<Mutex>& lock, const Run& run) {
  requeue_ = false;
  action_ = action_of(run.kind);
  size_ = run.end;
  position_ = run.start;
  mark_ = oldest_ = 0;
  marks_[0] = {now(), position_};
  kind_.store(run.kind);
  if (run.kind == SyncKind::resync) core_.torn = all_in_sync;
  if (run.kind != SyncKind::recover) mismatches_.store(0);
  by_bitmap_.store(std::all_of(core_.members.begin(), core_.members.end(), [this](const auto& m) {
    return m->slot == no_slot || m->faulty || core_.shared.slots[m->slot].in_sync() || m->by_bitmap;
  }));
  bool ok = true;
  uint64_t next_checkpoint = position_ + std::max(size_ / checkpoints, step_size);
  const uint64_t most = std::clamp(
      round_down(core_.sync_speed_max.load() / steps_a_second, least_step), least_step, step_size);
  while (ok && position_ < run.end && !interrupted(run)) {
    const uint64_t at = position_, length = std::min(most, run.end - position_);
    lock.unlock();
    const auto step = [&] {
      const Inside inside(core_.works);
      return core_.personality->sync(run.kind, at, length);
    }();
    lock.lock();
    if (!step) {
      if (!requeue_)
        log_error("{}: {} stopped at {}: {}", core_.options.name, sync_action_name(action_), at,
                  step.error().text());
      ok = false;
      stuck_ = !requeue_;
      if (stuck_ && no_room(step.error().code())) postpone();
      break;
    }
    position_ += step->done;
    // md compares the copies of a raid1 only when it is asked to; a resync just writes them.
    if (run.kind != SyncKind::resync || core_.shared.geometry.level != 1)
      mismatches_.fetch_add(step->mismatches);
    if (run.kind == SyncKind::resync) {
      core_.shared.agreed.store(std::min(position_, core_.torn));
      if (core_.bitmap && !core_.degraded_now() && core_.torn >= position_)
        core_.bitmap->synced(at, position_);
    }
    if (position_ >= next_checkpoint && position_ < run.end) {
      ok = checkpoint(lock, run, position_);
      next_checkpoint = position_ + std::max(size_ / checkpoints, step_size);
    }
    throttle(lock, run);
  }
  if (ok && position_ >= run.end && !core_.failed.load())
    finish(lock, run);
  else if (!core_.failed.load())
    checkpoint(lock, run, position_);
  if (run.kind == SyncKind::check || run.kind == SyncKind::repair) requested_.reset();
  action_ = SyncAction::idle;
  if (core_.options.changed) core_.options.changed();
}

// Of what a resync has been through up to POSITION.
uint64_t SyncEngine::right_up_to(uint64_t position) const {
  position = std::min(position, core_.torn);
  if (!core_.shared.torn.any()) return position;
  for (const BadBlockRange& range : core_.shared.torn.list())
    position = std::min(position, range.offset);
  return position;
}

// Records how far it has come; what lies before must be on disk first.
bool SyncEngine::checkpoint(std::unique_lock<Mutex>& lock, const Run& run, uint64_t position) {
  if (run.kind == SyncKind::check || run.kind == SyncKind::repair) return true;
  std::vector<uint64_t> recovered;
  recovered.reserve(core_.shared.slots.size());
  for (const Slot& slot : core_.shared.slots) recovered.push_back(slot.recovered.load());
  lock.unlock();
  const Status flushed = [this] {
    const Inside inside(core_.works);
    return core_.flush_members();
  }();
  lock.lock();
  if (!flushed) return settled_or_postponed(flushed);
  if (run.kind == SyncKind::resync) core_.resync_position = right_up_to(position);
  for (const auto& member : core_.members)
    if (member->slot != no_slot && recovered[member->slot] != all_in_sync)
      member->recovered = std::max(  // another may have come to the slot meanwhile
          std::min(recovered[member->slot], core_.shared.slots[member->slot].recovered.load()),
          core_.shared.slots[member->slot].copied.load());
  core_.note(false);
  return settled_or_postponed(core_.commit(lock));
}

void SyncEngine::finish(std::unique_lock<Mutex>& lock, const Run& run) {
  lock.unlock();
  const Status flushed = [this] {
    const Inside inside(core_.works);
    return core_.flush_members();
  }();
  lock.lock();
  if (!settled_or_postponed(flushed) || core_.failed.load()) return;
  if (run.kind == SyncKind::resync) {
    core_.resync_position = right_up_to(all_in_sync);
    core_.shared.agreed.store(core_.resync_position);
    core_.log_short = core_.log_short && core_.resync_position != all_in_sync;
    if (core_.resync_position != all_in_sync && core_.torn == all_in_sync) {
      stuck_ = true;  // until something changes
      log_warning(
          "{}: a write found no room while a member was missing: what that held there is lost "
          "until "
          "it is written anew; recovery will record it as bad",
          core_.options.name);
    }
  }
  if (run.kind == SyncKind::recover) {
    for (const auto& member : core_.members) {
      if (member->slot == no_slot || member->faulty) continue;
      Slot& slot = core_.shared.slots[member->slot];
      if (slot.in_sync() || slot.recovered.load() < run.end) continue;
      member->recovered = run.end;
      // Who replaces another takes over when the gates are closed.
      if (core_.shared.is_replacement(member->slot)) continue;
      slot.recovered.store(all_in_sync);
      member->recovered = all_in_sync;
      member->by_bitmap = false;
      log_info("{}: {} is in sync", core_.options.name, member->device->name());
    }
  }
  if (core_.bitmap && !core_.degraded_now() && core_.resync_position == all_in_sync)
    core_.bitmap->need_nothing();
  core_.sweep_wanted.store(true);
  if (run.kind != SyncKind::resync && run.kind != SyncKind::recover) return;
  core_.note(true);
  if (auto status = core_.commit(lock); !status)
    log_error("{}: {}", core_.options.name, status.error().text());
}

void SyncEngine::mark(uint64_t position) {
  if (now() < marks_[mark_].when + mark_distance) return;
  const size_t next = (mark_ + 1) % marks_.size();
  if (next == oldest_) oldest_ = (oldest_ + 1) % marks_.size();
  marks_[next] = {now(), position};
  mark_ = next;
}

// Never faster than the most, and not faster than the least while others are at work.
void SyncEngine::throttle(std::unique_lock<Mutex>& lock, const Run& run) {
  (void)lock;  // of the core's mutex, which is waited with
  mark(position_);
  const Mark& from = marks_[oldest_];
  const auto due = [&](uint64_t speed) {
    const double seconds = static_cast<double>(position_ - from.position) /
                           static_cast<double>(std::max<uint64_t>(speed, 1));
    return from.when + Nanos(static_cast<int64_t>(seconds * 1e9));
  };
  const uint64_t operations = core_.operations.load(std::memory_order_relaxed);
  TimePoint until = due(core_.sync_speed_max.load());
  if (operations != seen_operations_)
    until = std::max(until, std::min(now() + stand_back, due(core_.sync_speed_min.load())));
  seen_operations_ = operations;
  core_.changed.wait_until(core_.mutex, until, [&] { return interrupted(run) || now() >= until; });
}

SyncProgress SyncEngine::progress() const {
  const std::lock_guard lock(core_.mutex);
  SyncProgress p;
  p.action = action_;
  p.position = position_;
  p.size = size_;
  p.held = held_;
  if (action_ == SyncAction::idle) {
    p.position = p.size = 0;
    p.pending = choose().has_value();
    return p;
  }
  const Mark& from = marks_[oldest_];
  const auto seconds = std::max<int64_t>((now() - from.when) / std::chrono::seconds(1), 1);
  p.speed = (position_ - from.position) / static_cast<uint64_t>(seconds);
  // As status_resync() counts, in sectors: it knows a time even for what has not moved.
  const uint64_t left = (size_ - std::min(size_, position_)) / sector_size;
  const uint64_t moved = (position_ - from.position) / sector_size;
  p.seconds_left = left / (moved / 32 + 1) * static_cast<uint64_t>(seconds) / 32;
  return p;
}

}  // namespace volfs::md
