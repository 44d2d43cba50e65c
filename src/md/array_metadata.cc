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
    : options(o), shared(a.geometry), array(a) {
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
  s.faulty.store(false);
}

void Array::Core::detach(Member& member) {
  Slot& s = shared.slots[member.slot];
  s.device = nullptr;
  member.bad = s.bad.list();
  s.bad.assign({});
  s.recovered.store(0);
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
        return false;
      }
    }
  }
  mark_faulty(member);
  return true;
}

void Array::Core::mark_faulty(Member& member) {
  member.faulty = true;
  if (member.slot != no_slot) shared.slots[member.slot].faulty.store(true);
  member_lost = true;
  note(true);
  if (sync) sync->wake();
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
  // Even if another thread failed it: the others must say so on disk before a write counts.
  return commit(lock) && !failed.load();
}

// ---- errors of members ----------------------------------------------------------------------

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
  const std::lock_guard lock(mutex);
  torn = std::min(torn, begin);
  resync_position = std::min(resync_position, begin);
  shared.agreed.store(std::min(shared.agreed.load(), begin));
  if (bitmap) bitmap->need(begin, end);
  // On disk it is active now: after a crash all of it would be made right.
  note(false);
  sync->postpone();
}

bool Array::Core::sync_needed(uint64_t begin, uint64_t end) {
  const SyncKind kind = sync->kind();
  if (kind == SyncKind::check || kind == SyncKind::repair || !bitmap) return true;
  if (kind == SyncKind::recover) return !sync->by_bitmap() || bitmap->needed(begin, end, true);
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
  if (auto status = batch.run(); !status) {
    for (size_t op = 0; op < batch.size(); ++op)
      if (batch.error(op) != 0 && !fail_member(slots[op], Error::sys(batch.error(op), "flush")))
        return status;
  }
  return {};
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
    write_superblocks(lock);
    updating = false;
    changed.notify_all();
  }
  if (failed.load()) return fail_sys(EIO, "the array has failed");
  return {};
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
    if (m->sb.dev_number < array.devices90.size()) d = array.devices90[m->sb.dev_number];
    d.present = true;
    d.removed = false;
    d.write_mostly = m->sb.write_mostly;
    m->sb.dev_number = number;
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
  sb.recovery_offset.reset();
  sb.recovery_by_bitmap = false;
  sb.replacement = !member.faulty && shared.is_replacement(member.slot);
  sb.bad_blocks = !bad_ranges(member).empty();
  if (member.slot != no_slot && !member.faulty && !shared.slots[member.slot].in_sync()) {
    sb.recovery_offset = member.recovered;
    sb.recovery_by_bitmap = member.by_bitmap;
  }
  sb.roles_room = std::max<uint32_t>(sb.roles_room, static_cast<uint32_t>(array.roles.size()));
  return sb;
}

// One round: who cannot take his superblock fails, which the next round tells the others.
void Array::Core::write_superblocks(std::unique_lock<Mutex>& lock) {
  for (;;) {
    const uint64_t round = wanted;
    const bool nospares = clean_changed && !devices_changed && !degraded_now();
    clean_changed = devices_changed = false;
    next_events(nospares);
    number_members();
    array.utime = {static_cast<uint64_t>(wall_clock() / std::chrono::seconds(1)), 0};
    array.resync_offset = clean.load() ? resync_position : 0;
    std::vector<std::pair<Member*, SuperblockFormat::Image>> images;
    std::vector<LogImage> logs;
    for (const auto& member : members) {
      if (member->faulty) continue;
      const bool idle_spare = nospares && member->slot == no_slot;
      if (member->written_events == array.events ||
          (idle_spare && member->written_events + 1 == array.events))
        continue;
      auto image = format->encode(described(*member));
      if (!image) {
        log_error("{}: {}: {}", options.name, member->device->name(), image.error().text());
        continue;
      }
      images.emplace_back(member.get(), std::move(*image));
      if (!std::exchange(member->log_changed, false)) continue;
      if (auto log = encode_bad_blocks(member->sb, bad_ranges(*member)))
        logs.push_back({member.get(), std::move(*log)});
    }
    const uint64_t events = array.events;
    lock.unlock();
    std::vector<Member*> lost;
    for (const LogImage& log : logs)
      if (!write_log(log)) lost.push_back(log.member);
    IoBatch batch;
    std::vector<iovec> list(images.size());
    for (size_t i = 0; i < images.size(); ++i) {
      list[i] = {images[i].second.bytes.data(), images[i].second.bytes.size()};
      batch.write(*images[i].first->metadata, images[i].second.offset, {&list[i], 1}, Fua::yes);
    }
    WriteIntent::Failed no_bitmap;
    if (bitmap) no_bitmap = bitmap->write_events(events);
    const bool ok = batch.run().has_value();
    lock.lock();
    for (size_t i = 0; i < images.size(); ++i) {
      if (!ok && batch.error(i) != 0)
        lost.push_back(images[i].first);
      else
        images[i].first->written_events = events;
    }
    for (const uint32_t slot : no_bitmap)
      if (Member* m = member_of(slot)) lost.push_back(m);
    for (Member* m : lost) {
      log_error("{}: {} failed: its superblock cannot be written", options.name, m->device->name());
      if (!fail_locked(*m)) return;
    }
    // A member that is one event behind counts as fresh, and Linux before 6.8 does not ask the
    // others whether it had failed: one that was lost must fall further behind. The others must
    // not, if the power goes: so it takes two rounds.
    if (std::exchange(member_lost, false)) {
      devices_changed = true;
      continue;
    }
    written = round;
    return;
  }
}

WriteIntent::Failed Array::Core::write_bitmap(uint64_t offset, std::span<const std::byte> bytes) {
  IoBatch batch;
  std::vector<uint32_t> slots;
  const OneSlice slice(bytes);
  {
    const std::lock_guard lock(mutex);
    if (failed.load()) return {};
    for (const auto& member : members) {
      if (member->faulty || member->slot == no_slot) continue;
      batch.write(*member->metadata, member->sb.bitmap_position() + offset, slice, Fua::yes);
      slots.push_back(member->slot);
    }
  }
  WriteIntent::Failed failures;
  if (batch.run()) return failures;
  for (size_t op = 0; op < batch.size(); ++op)
    if (batch.error(op) != 0) failures.push_back(slots[op]);
  return failures;
}

// Reads the bitmap of all members in sync; a bit that is set on one of them counts.
Status Array::Core::open_bitmap() {
  if (!array.has_bitmap || !redundant) return {};
  std::optional<BitmapSuperblock> super;
  std::vector<std::byte> image;
  uint64_t room = UINT64_MAX;
  bool trusted = true;
  Error last = Error::make(EIO, "no member in sync");
  for (const auto& m : members) {
    room = std::min(room, m->sb.bitmap_room());
    if (m->slot == no_slot || m->faulty || !shared.slots[m->slot].in_sync()) continue;
    std::vector<std::byte> bytes(bitmap_superblock_size * 2);
    if (auto read = m->metadata->read(m->sb.bitmap_position(), bytes); !read) {
      last = read.error();
      continue;
    }
    auto found = decode_bitmap_superblock(bytes);
    if (!found) {
      last = Error(found.error()).in(m->device->name());
      continue;
    }
    found->sync_size = personality->sync_size();  // as md, whatever it says
    const BitmapGeometry geometry(*found);
    if (geometry.disk_size() > m->sb.bitmap_room() || found->uuid != array.bitmap_uuid()) {
      last = Error::invalid(m->device->name() + ": the bitmap does not belong to the array");
      continue;
    }
    bytes.resize(round_up(geometry.disk_size(), sector_size));
    if (auto read = m->metadata->read(m->sb.bitmap_position(), bytes); !read) {
      last = read.error();
      continue;
    }
    if (!super) {
      super = *found;
      image = std::move(bytes);
    } else if (bytes.size() == image.size() && found->chunk == super->chunk) {
      for (size_t i = bitmap_superblock_size; i < bytes.size(); ++i) image[i] |= bytes[i];
    }
    trusted = trusted && !found->stale && found->events >= array.events;
  }
  if (!super) {
    if (read_only) return {};
    return volfs::fail(std::move(last).in("bitmap"));
  }
  super->stale = false;
  auto fail_slots = [this](const WriteIntent::Failed& slots) {
    bool survived = true;
    for (const uint32_t slot : slots)
      survived = fail_member(slot, Error::make(EIO, "bitmap write")) && survived;
    return survived;
  };
  bitmap = std::make_unique<WriteIntent>(
      *super, room, std::move(image),
      [this](uint64_t offset, std::span<const std::byte> bytes) {
        return write_bitmap(offset, bytes);
      },
      fail_slots);
  const bool dirty = resync_position != all_in_sync;
  const bool keep = degraded_now() && super->events_cleared != array.events;
  if ((dirty || keep) && !trusted)
    bitmap->need_everything();
  else if (dirty || keep)
    bitmap->need_all_set();
  return {};
}

}  // namespace volfs::md
