// SPDX-License-Identifier: GPL-2.0-or-later
// What the superblocks record, and when they are written. Events are counted as md.c does: one up
// for each update; a mere change between clean and active leaves spares alone, and going back to
// clean takes the count back, so that idle spares need not be woken for it.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include <utility>

#include "array_core.h"
#include "ppl_format.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"

namespace volfs::md {
namespace {

constexpr uint32_t most_read_errors = 20;                // corrected ones, as md
constexpr Nanos read_error_age = std::chrono::hours(1);  // they count half after so long

}  // namespace

Array::Core::Core(const ArrayOptions& o, const ArrayMetadata& a)
    : options(o),
      shared(a.geometry),
      sync_speed_min(o.sync_speed_min),
      sync_speed_max(o.sync_speed_max),
      array(a) {
  shared.host = this;
  if (a.has_ppl && !o.read_only) shared.ppl_signature = ppl_signature(a.uuid);
}

Array::Core::~Core() = default;

Array::Member* Array::Core::member_of(uint32_t slot) const {
  for (const auto& member : members)
    if (member->slot == slot) return member.get();
  return nullptr;
}

void Array::Core::attach(Member& member, uint32_t slot, uint64_t recovered) {
  Slot& s = shared.slots[slot];
  member.slot = slot;
  member.recovered = recovered;
  s.device = member.device;
  s.data_offset = member.sb.data_offset;
  s.write_mostly = member.sb.write_mostly;
  if (array.has_ppl) {
    s.log_position = member.sb.ppl_position();
    s.log_size = member.sb.ppl_size;
  }
  s.bad.assign(std::move(member.bad));
  s.recovered.store(recovered);
  s.copied.store(0);
  s.faulty.store(false);
}

void Array::Core::detach(Member& member) {
  Slot& s = shared.slots[member.slot];
  s.device = nullptr;
  member.bad = s.bad.list();
  s.bad.assign({});
  s.recovered.store(0);
  s.copied.store(0);
  s.faulty.store(false);
  member.slot = no_slot;
}

void Array::Core::find_service() {
  Service worst = Service::inline_;
  for (const Slot& slot : shared.slots)
    if (slot.present() && slot.device->service(Op::read) != Service::inline_)
      worst = Service::blocking;
  service.store(worst);
}

ArrayState Array::Core::state() const {
  if (failed.load()) return ArrayState::failed;
  return redundant && degraded_now() ? ArrayState::degraded : ArrayState::active;
}

bool Array::Core::has_failed(const char* why) {
  if (!failed.exchange(true))
    log_error("{}: array failed: {}; its members are not touched any more", options.name, why);
  changed.notify_all();
  return true;
}

void Array::Core::note(bool devices) {
  ++wanted;
  (devices ? devices_changed : clean_changed) = true;
}

// ---- failing members -----------------------------------------------------------------------

// False: the array does not survive it.
bool Array::Core::fail_locked(Member& member) {
  if (member.faulty) return !failed.load();
  if (member.slot != no_slot) {
    if (!shared.is_replacement(member.slot) && shared.slots[member.slot].in_sync()) {
      SlotSet missing = shared.missing();
      missing[member.slot] = true;
      if (!survives(shared.geometry, missing)) {
        has_failed("too few members are left");
        // As raid5.c, while mirrors keep their last copy. It is shown, and recorded nowhere.
        if (shared.geometry.level >= 4 && shared.geometry.level <= 6) {
          member.faulty = true;
          shared.slots[member.slot].faulty.store(true);
        }
        return false;
      }
    }
  }
  mark_faulty(member);
  return true;
}

void Array::Core::mark_faulty(Member& member) {
  member.faulty = true;
  unrecorded.store(true);
  if (member.slot != no_slot) shared.slots[member.slot].faulty.store(true);
  member_lost = true;
  note(true);
  if (sync) sync->wake();
  if (options.changed) options.changed();
}

bool Array::Core::fail_member(uint32_t slot, const Error& why) {
  std::unique_lock lock(mutex);
  if (failed.load()) return false;
  Member* member = member_of(slot);
  if (!member) return true;
  if (!member->faulty) {
    log_error("{}: {} failed: {}", options.name, member->device->name(), why.text());
    if (!fail_locked(*member)) return false;
  }
  // Even if another thread failed it: the others must say so on disk before a write counts. Where
  // there is no room for that the write will not.
  (void)commit(lock);
  return !failed.load();
}

// ---- errors of members ----------------------------------------------------------------------

bool Array::Core::corrects() {
  return !read_only && !(sync && sync->held());
}

void Array::Core::corrected_read(uint32_t slot, uint64_t length) {
  std::unique_lock lock(mutex);
  Member* member = member_of(slot);
  if (!member || member->faulty) return;
  const auto age = now() - member->last_read_error;
  const auto halvings = std::min<int64_t>(age / read_error_age, 31);
  member->read_errors = (member->read_errors >> halvings) + 1;
  member->last_read_error = now();
  ++member->all_read_errors;
  member->sb.corrected_reads += static_cast<uint32_t>(length / sector_size);
  log_warning("{}: {}: corrected a read error of {} bytes", options.name, member->device->name(),
              length);
  if (member->read_errors <= most_read_errors) return;
  lock.unlock();
  fail_member(slot, Error::make(EIO, "too many read errors"));
}

void Array::Core::left_torn(uint64_t begin, uint64_t end) {
  std::unique_lock lock(mutex);
  const int32_t level = shared.geometry.level;
  if (level >= 4 && level <= 6) shared.torn.add(begin, end - begin);
  torn = std::min(torn, begin);
  resync_position = std::min(resync_position, begin);
  shared.agreed.store(std::min(shared.agreed.load(), begin));
  if (bitmap) bitmap->need(begin, end);
  // On disk it is active now: after a crash all of it would be made right.
  note(false);
  if (sync) sync->postpone();
  if (!array.has_ppl || std::exchange(log_short, true)) return;
  log_warning("{}: a write found no room: its partial parity log counts again after a resync",
              options.name);
  unrecorded.store(true);
  (void)commit(lock);  // at the latest before a log is used again
}

// Of an array that is not whole a resync left it, and waits for something to change.
void Array::Core::torn_mended() {
  const std::lock_guard lock(mutex);
  if (sync && degraded_now()) sync->wake();
}

bool Array::Core::sync_needed(uint64_t begin, uint64_t end, bool copied) {
  const SyncKind kind = sync->kind();
  if (kind == SyncKind::check || kind == SyncKind::repair || !bitmap) return true;
  if (kind == SyncKind::recover)
    return !(copied || sync->by_bitmap()) || bitmap->needed(begin, end, true);
  return bitmap->needed(begin, end, false);
}

Status Array::Core::flush_members() {
  std::vector<uint32_t> slots;
  IoBatch batch;
  {
    const std::lock_guard lock(mutex);
    for (uint32_t i = 0; i < shared.slots.size(); ++i)
      if (shared.slots[i].present()) {
        batch.flush(*shared.slots[i].device);
        slots.push_back(i);
      }
  }
  if (failed.load()) return fail_sys(EIO, "flush");
  if (batch.run()) return {};
  Status status;
  for (size_t op = 0; op < batch.size(); ++op) {
    const Error why = Error::sys(batch.error(op), "flush");
    if (no_room(why.code()))
      status = volfs::fail(why);
    else if (batch.error(op) != 0 && !fail_member(slots[op], why))
      return fail_sys(EIO, "flush");
  }
  // What was lost of it may be any of what was written.
  if (!status && redundant) left_torn(0, personality->sync_size());
  return status;
}

// ---- superblocks ---------------------------------------------------------------------------

Status Array::Core::commit(std::unique_lock<Mutex>& lock) {
  if (read_only || !redundant) return {};
  const uint64_t target = wanted;
  while (written < target && !failed.load()) {
    if (updating) {
      changed.wait(mutex);
      continue;
    }
    updating = true;
    Status status = write_superblocks(lock);
    updating = false;
    changed.notify_all();
    VOLFS_TRY(std::move(status));
  }
  if (failed.load()) return fail_sys(EIO, "the array has failed");
  return {};
}

Status Array::Core::commit_later(std::unique_lock<Mutex>& lock) {
  Status status = commit(lock);
  if (status || !no_room(status.error().code())) return status;
  log_warning("{}: it is recorded when there is room", status.error().text());
  return {};
}

Status Array::Core::record_losses() {
  if (!unrecorded.load()) return {};
  std::unique_lock lock(mutex);
  return commit(lock);
}

// 0.90 numbers active members by their slot, the others after these; a replacement is a spare to
// it.
void Array::Core::number_members() {
  const uint32_t disks = shared.geometry.raid_disks;
  if (!format->numbers_by_slot()) {
    uint32_t count = 0;
    for (const auto& m : members) count = std::max(count, m->sb.dev_number + 1);
    array.roles.assign(count, role_spare);
    for (const auto& m : members)
      array.roles[m->sb.dev_number] = m->faulty            ? role_faulty
                                      : m->slot == no_slot ? role_spare
                                                           : static_cast<uint16_t>(m->slot % disks);
    return;
  }
  array.roles.assign(max_devices(array.version), role_spare);
  std::vector<Device90> devices(max_devices(array.version));
  uint32_t next = disks;
  std::vector<bool> filled(disks);
  for (const auto& m : members) {
    const bool active = m->slot < disks && !m->faulty && shared.slots[m->slot].in_sync();
    uint32_t number = active ? m->slot : next;
    if (!active && number >= devices.size()) continue;
    if (!active) ++next;
    if (active) filled[number] = true;
    Device90& d = devices[number];
    auto& own = m->sb.array.devices90;
    if (m->sb.dev_number < own.size()) d = own[m->sb.dev_number];
    d.present = true;
    d.removed = false;
    d.write_mostly = m->sb.write_mostly;
    m->sb.dev_number = number;
    own.resize(devices.size());
    own[number] = d;
    array.roles[number] = active      ? static_cast<uint16_t>(m->slot)
                          : m->faulty ? role_faulty
                                      : role_spare;
  }
  for (uint32_t i = 0; i < disks; ++i)
    if (!filled[i]) {
      array.roles[i] = role_faulty;
      devices[i] = {};
      devices[i].present = devices[i].removed = true;
    }
  array.devices90 = std::move(devices);
}

void Array::Core::next_events(bool nospares) {
  const bool whole = clean.load() && resync_position == all_in_sync;
  if (nospares && whole && can_decrease_events && array.events != 1) {
    --array.events;
    can_decrease_events = false;
  } else {
    ++array.events;
    can_decrease_events = nospares;
  }
}

MemberMetadata Array::Core::described(const Member& member) const {
  MemberMetadata sb = member.sb;
  sb.array = array;
  sb.array.has_ppl = array.has_ppl && !log_short;
  sb.recovery_offset.reset();
  sb.recovery_by_bitmap = false;
  // To 0.90 it is a spare, as for Linux.
  sb.replacement =
      !member.faulty && shared.is_replacement(member.slot) && !format->numbers_by_slot();
  sb.bad_blocks = !bad_ranges(member).empty();
  if (member.slot != no_slot && !member.faulty && !shared.slots[member.slot].in_sync()) {
    sb.recovery_offset = member.recovered;
    sb.recovery_by_bitmap = member.by_bitmap;
  }
  sb.roles_room = std::max<uint32_t>(sb.roles_room, static_cast<uint32_t>(array.roles.size()));
  return sb;
}

// The superblocks and changed logs of members that do not have them yet; or only of who is behind.
Array::Core::Round Array::Core::describe(bool nospares, bool only_behind) {
  Round round;
  for (const auto& member : members) {
    if (member->faulty || (only_behind && !member->behind)) continue;
    const bool idle_spare = nospares && member->slot == no_slot;
    const bool told = member->written_events == array.events ||
                      (idle_spare && member->written_events + 1 == array.events);
    if (told && !member->behind) continue;
    auto image = format->encode(described(*member));
    if (!image) {
      log_error("{}: {}: {}", options.name, member->device->name(), image.error().text());
      continue;
    }
    round.images.emplace_back(member.get(), std::move(*image));
    if (!std::exchange(member->log_changed, false)) continue;
    if (auto log = encode_bad_blocks(member->sb, bad_ranges(*member)))
      round.logs.push_back({member.get(), std::move(*log)});
  }
  return round;
}

// Who cannot take his superblock is lost; who has no room for it stays behind, which is the error
// that is returned.
Status Array::Core::send(std::unique_lock<Mutex>& lock, const Round& round, bool with_bitmap) {
  const uint64_t events = array.events;
  lock.unlock();
  std::vector<Status> logged;
  logged.reserve(round.logs.size());
  for (const LogImage& log : round.logs) logged.push_back(write_log(log));
  IoBatch batch;
  std::vector<iovec> list(round.images.size());
  for (size_t i = 0; i < round.images.size(); ++i) {
    const auto& [member, image] = round.images[i];
    list[i] = {const_cast<std::byte*>(image.bytes.data()), image.bytes.size()};
    batch.write(*member->metadata, image.offset, {&list[i], 1}, Fua::yes);
  }
  WriteIntent::Outcome intent;
  if (bitmap && with_bitmap) intent = bitmap->write_events(events);
  const bool ok = batch.run().has_value();
  lock.lock();
  Status status;
  std::vector<Member*> lost;
  const auto not_written = [&](Member& member, const Error& why) {
    member.behind = true;
    if (no_room(why.code()))
      status =
          volfs::fail(Error(why).in(options.name + ": superblock of " + member.device->name()));
    else
      lost.push_back(&member);
  };
  for (size_t i = 0; i < round.images.size(); ++i) {
    Member& member = *round.images[i].first;
    member.behind = false;
    if (!ok && batch.error(i) != 0)
      not_written(member, Error::sys(batch.error(i), "write"));
    else
      member.written_events = events;
  }
  for (size_t i = 0; i < round.logs.size(); ++i) {
    if (logged[i]) continue;
    round.logs[i].member->log_changed = true;
    not_written(*round.logs[i].member, logged[i].error());
  }
  for (const uint32_t slot : intent.failed)
    if (Member* member = member_of(slot)) lost.push_back(member);
  if (intent.no_room != 0) status = fail_sys(intent.no_room, options.name + ": bitmap");
  for (Member* member : lost) {
    log_error("{}: {} failed: its superblock cannot be written", options.name,
              member->device->name());
    if (!fail_locked(*member)) return {};  // the array has failed
  }
  return status;
}

// Who missed an update is told it before there is another: one that were two behind would count as
// out of date, if the power went then.
Status Array::Core::catch_up(std::unique_lock<Mutex>& lock) {
  const Round round = describe(false, true);
  return round.images.empty() ? Status() : send(lock, round, false);
}

// One round: who cannot take his superblock fails, which the next round tells the others.
Status Array::Core::write_superblocks(std::unique_lock<Mutex>& lock) {
  for (;;) {
    VOLFS_TRY(catch_up(lock));
    if (failed.load()) return {};
    const uint64_t round = wanted;
    const bool nospares = clean_changed && !devices_changed && !degraded_now();
    clean_changed = devices_changed = false;
    next_events(nospares);
    number_members();
    array.utime = {static_cast<uint64_t>(wall_clock() / std::chrono::seconds(1)), 0};
    const bool dirty = !clean.load() && (!degraded_now() || format->tells_dirty_when_degraded());
    array.resync_offset = dirty ? 0 : resync_position;
    Status sent = send(lock, describe(nospares, false), true);
    if (failed.load()) return {};
    if (!sent) {
      devices_changed = true;  // the round that follows is for all
      return sent;
    }
    // A member that is one event behind counts as fresh, and Linux before 6.8 does not ask the
    // others whether it had failed: one that was lost must fall further behind. The others must
    // not, if the power goes: so it takes two rounds.
    if (std::exchange(member_lost, false)) {
      devices_changed = true;
      continue;
    }
    written = round;
    if (written == wanted) unrecorded.store(false);
    return {};
  }
}

}  // namespace volfs::md
