// SPDX-License-Identifier: GPL-2.0-or-later
// The data path of an array, and what its owner does to it.
#include "volfs/md/array.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "array_core.h"
#include "personality/partial_parity.h"
#include "ppl_format.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"
#include "volfs/md/agreement.h"

namespace volfs::md {
Array::Array(const ArrayOptions& options, std::unique_ptr<Core> core, uint64_t size,
             const Limits& limits)
    : BlockDevice(options.name, size, limits, core->read_only), core_(std::move(core)) {
  core_->find_service();
}

Array::~Array() {
  if (auto stopped = stop(); !stopped) log_warning("{}: stop: {}", name(), stopped.error().text());
}

Status Array::start() {
  Core& c = *core_;
  if (c.read_only || !c.redundant) return {};
  {
    std::unique_lock lock(c.mutex);
    // Members that are missing now must not count as fresh later, after writes they did not see.
    const auto& roles = c.array.roles;
    // What was forced lasts, as with mdadm.
    const bool changed = c.forced || std::any_of(roles.begin(), roles.end(), [&](uint16_t role) {
                           return role < c.shared.geometry.raid_disks && !c.member_of(role);
                         });
    if (changed) c.note(true);
    c.unrecorded.store(changed);
    if (Status status = c.commit(lock); !status) {
      if (!no_room(status.error().code())) return status;
      log_warning("{}: nothing can be written until there is room", status.error().text());
    }
  }
  VOLFS_TRY_ASSIGN(c.daemon, Thread::start("volfs-md", [&c] { c.run_daemon(); }));
  return c.sync->start();
}

Status Array::stop() {
  Core& c = *core_;
  {
    const std::lock_guard lock(c.mutex);
    if (c.stopping) return {};
    c.stopping = true;
    c.changed.notify_all();
  }
  if (c.sync) c.sync->stop();
  c.daemon.join();
  if (c.read_only || c.failed.load()) return {};
  if (!c.redundant) return flush();
  VOLFS_TRY(c.flush_members());
  if (c.bitmap) c.sweep_bitmap(true);
  std::unique_lock lock(c.mutex);
  if (!c.clean.exchange(true)) c.note(false);
  return c.commit(lock);
}

// ---- the data path -------------------------------------------------------------------------

bool Array::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  Core& c = *core_;
  if (op != Op::read && !c.personality->maps_writes()) {
    out.add(*this, offset, length);
    return true;
  }
  const bool inside = out.holds(c.maps);  // by other bytes of the same request
  if (!inside) {
    if (wait == Wait::yes)
      c.maps.enter();
    else if (!c.maps.try_enter())
      return false;
  }
  c.operations.fetch_add(1, std::memory_order_relaxed);
  const bool failed = c.failed.load(std::memory_order_relaxed);
  const bool mapped = !failed && (!out.careful() || c.personality->maps_writes()) &&
                      c.personality->mappable(offset, length);
  if (mapped) {
    if (!inside) out.hold(c.maps);
    c.personality->map(offset, length, out);
    return true;
  }
  if (!inside) c.maps.exit();
  if (failed)
    out.add_error(EIO, length);
  else
    out.add(*this, offset, length);
  return true;
}

Status Array::do_read(uint64_t offset, IoSpan iov) {
  Core& c = *core_;
  const Inside inside(c.works);
  c.operations.fetch_add(1, std::memory_order_relaxed);
  if (c.failed.load()) return fail_sys(EIO, "");
  return c.personality->read(offset, iov);
}

template <class Work>
Status Array::guarded_write(uint64_t offset, uint64_t length, Work work) {
  Core& c = *core_;
  const Inside inside(c.works);
  c.operations.fetch_add(1, std::memory_order_relaxed);
  if (c.failed.load()) return fail_sys(EIO, "");
  if (!c.redundant) return work();
  Status status = c.begin_write();
  if (status) {
    const auto span = c.personality->sync_span(offset, length);
    if (c.bitmap) status = c.bitmap->start(span.begin, span.end);
    if (status && c.failed.load()) status = fail_sys(EIO, "");
    const bool begun = status.has_value();
    if (begun) status = work();
    if (c.bitmap)
      c.bitmap->end(span.begin, span.end, !begun || (status.has_value() && !c.degraded_now()));
    if (status) status = c.record_losses();
  }
  c.end_write();
  return status;
}

Status Array::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  return guarded_write(offset, total_length(iov),
                       [&] { return core_->personality->write(offset, iov, fua); });
}

// What is discarded must read the same from every copy and agree with its parity, so it becomes
// zeros; a part that is smaller than that is worth is left alone.
Status Array::do_discard(uint64_t offset, uint64_t length) {
  if (core_->personality->maps_writes()) {
    const Inside inside(core_->works);
    Mapping mapping(Order::any);
    core_->personality->map(offset, length, mapping);
    for (const Extent& extent : mapping.extents())
      VOLFS_TRY(extent.device->discard(extent.offset, extent.length));
    return {};
  }
  const uint64_t unit = std::max<uint64_t>(limits().discard_granularity, 1);
  const uint64_t begin = round_up(offset, unit), end = round_down(offset + length, unit);
  if (begin >= end) return {};
  return do_write_zeroes(begin, end - begin, Unmap::yes);
}

Status Array::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  if (length == 0) return {};
  return guarded_write(offset, length,
                       [&] { return core_->personality->write_zeroes(offset, length, unmap); });
}

Status Array::do_flush() {
  Core& c = *core_;
  const Inside inside(c.works);
  if (c.read_only) return {};
  VOLFS_TRY(c.flush_members());
  return c.record_losses();
}

Service Array::do_service(Op) const {
  return core_->service.load(std::memory_order_relaxed);
}

void Array::do_for_each_below(const Visit& visit) const {
  std::vector<BlockDevice*> devices;
  {
    const std::lock_guard lock(core_->mutex);
    for (const auto& member : core_->members) devices.push_back(member->device);
  }
  for (BlockDevice* device : devices) visit(*device);
}

// ---- members -------------------------------------------------------------------------------

// The core's mutex is held.
Result<Array::Member*> Array::find_member(std::string_view device) {
  for (const auto& member : core_->members)
    if (member->device->name() == device) return member.get();
  return volfs::fail(Error::make(ENOENT, fmt::format("{}: {} is not a member", name(), device)));
}

Status Array::set_sync_speed(uint64_t min, uint64_t max) {
  if (max == 0 || min > max)
    return fail_invalid(
        fmt::format("{}: sync speeds from {} to {}; expected a lower and an upper bound, not 0",
                    name(), min, max));
  core_->sync_speed_min = min;
  core_->sync_speed_max = max;
  return {};
}

Status Array::fail(std::string_view device) {
  Core& c = *core_;
  if (c.read_only) return fail_sys(EROFS, name());
  if (!c.redundant) return fail_invalid(name() + ": the level has no redundancy");
  std::unique_lock lock(c.mutex);
  VOLFS_TRY_ASSIGN(Member * member, find_member(device));
  if (member->faulty) return {};
  if (member->slot < c.shared.disks() && c.shared.slots[member->slot].in_sync()) {
    SlotSet missing = c.shared.missing();
    missing[member->slot] = true;
    if (!survives(c.shared.geometry, missing))
      return volfs::fail(
          Error::make(EBUSY, fmt::format("{}: cannot do without {}", name(), device)));
  }
  c.mark_faulty(*member);
  return c.commit(lock);
}

Status Array::remove(std::string_view device) {
  Core& c = *core_;
  if (c.read_only) return fail_sys(EROFS, name());
  const std::lock_guard turn(c.turn);
  {
    std::unique_lock lock(c.mutex);
    VOLFS_TRY_ASSIGN(Member * member, find_member(device));
    if (member->slot != no_slot && !member->faulty)
      return volfs::fail(
          Error::make(EBUSY, fmt::format("{}: {} is in use: fail it first", name(), device)));
  }
  const Reconfiguration closed(c);
  std::unique_lock lock(c.mutex);
  // A spare may have been taken into a slot meanwhile.
  VOLFS_TRY_ASSIGN(Member * member, find_member(device));
  if (member->slot != no_slot && !member->faulty)
    return volfs::fail(Error::make(EBUSY, fmt::format("{}: {} is in use", name(), device)));
  // A round of superblock writing may still hold the member.
  c.changed.wait(c.mutex, [&c] { return !c.updating; });
  if (member->slot != no_slot) c.detach(*member);
  std::erase_if(c.members, [&](const auto& m) { return m.get() == member; });
  c.note(true);
  c.sync->wake();
  return c.commit_later(lock);
}

Status Array::replace(std::string_view device, std::string_view with) {
  Core& c = *core_;
  if (c.read_only) return fail_sys(EROFS, name());
  if (!c.redundant) return fail_invalid(name() + ": the level has no redundancy");
  const std::lock_guard lock(c.mutex);
  VOLFS_TRY_ASSIGN(Member * member, find_member(device));
  if (member->slot >= c.shared.disks() || member->faulty || !c.shared.slots[member->slot].in_sync())
    return volfs::fail(Error::make(
        EBUSY,
        fmt::format("{}: {} is not in sync: only such a member can be replaced", name(), device)));
  if (!with.empty()) {
    VOLFS_TRY_ASSIGN(Member * spare, find_member(with));
    if (spare->slot == c.shared.replacement_of(member->slot) && !spare->faulty) return {};
    if (!spare->spare())
      return fail_invalid(fmt::format("{}: {} is no spare: add it first", name(), with));
    spare->reserved_for = member->slot;
  }
  member->to_replace = true;
  c.sync->wake();
  return {};
}

Status Array::add(BlockDevice& device) {
  return add_member(device, false);
}

bool Array::was_apart(const MemberMetadata& superblock) const {
  const std::lock_guard lock(core_->mutex);
  return core_->was_apart(superblock);
}

bool Array::Core::was_apart(const MemberMetadata& sb) const {
  return std::ranges::any_of(members, [&](const auto& member) {
    return member->slot != no_slot && !member->faulty && written_apart(sb, described(*member));
  });
}

Status Array::re_add(BlockDevice& device) {
  return add_member(device, true);
}

Status Array::add_member(BlockDevice& device, bool only_old) {
  Core& c = *core_;
  if (c.read_only || device.read_only()) return fail_sys(EROFS, name());
  if (!c.redundant) return fail_invalid(name() + ": the level takes no spares");
  auto found = scan(device);
  const std::lock_guard turn(c.turn);
  const Reconfiguration closed(c);
  std::unique_lock lock(c.mutex);
  for (const auto& m : c.members)
    if (m->device == &device || m->device->name() == device.name())
      return volfs::fail(
          Error::make(EBUSY, fmt::format("{}: {} is a member already", name(), device.name())));
  auto member = std::make_unique<Member>();
  member->device = member->metadata = &device;
  uint32_t slot = no_slot;
  if (found && *found && c.bitmap && c.could_be_old(**found)) {
    const uint16_t role = (*found)->role();
    if (role < c.shared.geometry.raid_disks && !c.member_of(role)) slot = role;
  }
  if (slot != no_slot) {
    member->sb = std::move(**found);
    member->by_bitmap = true;
    for (const auto& m : c.members)
      if (m->sb.dev_number == member->sb.dev_number) slot = no_slot;
    // What it was written itself, if it was started without the others meanwhile.
    const auto own = c.read_bitmap(*member);
    if (!own || own->super.chunk != c.bitmap->superblock().chunk || !Core::read_bad_blocks(*member))
      slot = no_slot;
    else
      c.bitmap->need_too(own->image);
  }
  if (slot == no_slot) {
    if (only_old)
      return fail_invalid(fmt::format(
          "{}: {} cannot be re-added: it must be a former member of an empty slot, and the array "
          "must have a bitmap that covers the time it was away",
          name(), device.name()));
    member->by_bitmap = false;
    member->bad.clear();
    VOLFS_TRY_ASSIGN(member->sb, c.new_member(device.size()));
    if (!c.format->numbers_by_slot()) member->sb.device_uuid = random_uuid();
  }
  member->written_events = 0;
  member->arrival = ++c.arrivals;
  if (c.array.has_ppl)
    VOLFS_TRY(empty_ppl(device, member->sb.ppl_position(), member->sb.ppl_size,
                        ppl_signature(c.array.uuid)));
  if (c.bitmap) {
    // The others' bits, before the superblock says that it has a bitmap.
    const auto image = c.bitmap->image();
    const uint64_t position = member->sb.bitmap_position();
    lock.unlock();
    VOLFS_TRY(device.write(position, image, Fua::yes));
    lock.lock();
  }
  if (slot != no_slot) c.attach(*member, slot, 0);
  c.members.push_back(std::move(member));
  c.note(true);
  c.sync->wake();
  return c.commit_later(lock);
}

// Whether it was a member that has missed nothing but what the bitmap says.
bool Array::Core::could_be_old(const MemberMetadata& sb) const {
  return sb.array.uuid == array.uuid && sb.array.version == array.version &&
         sb.array.geometry == array.geometry && sb.array.has_bitmap &&
         sb.array.member_size == array.member_size && !sb.recovery_offset && !sb.replacement &&
         sb.array.events >= bitmap->events_cleared() && sb.array.events <= array.events;
}

// The superblock of a device that was no member: placed as on those that are.
Result<MemberMetadata> Array::Core::new_member(uint64_t device_size) const {
  const MemberMetadata& like = members.front()->sb;
  MemberMetadata sb = like;
  sb.raw.clear();
  sb.recovery_offset.reset();
  sb.bad_blocks = sb.replacement = sb.write_mostly = sb.failfast = false;
  sb.corrected_reads = 0;
  const auto position = superblock_offset(array.version, round_down(device_size, sector_size));
  const bool at_end =
      array.version == SuperblockVersion::v1_0 || array.version == SuperblockVersion::v0_90;
  const uint64_t before = like.super_offset - std::min(like.super_offset, like.data_size);
  const uint64_t end = !position ? 0
                       : at_end  ? *position - std::min(*position, before)
                                 : device_size;
  if (!position || end < like.data_offset || end - like.data_offset < array.member_size)
    return volfs::fail(Error::make(ENOSPC, fmt::format("{} bytes are too few: the members use {}",
                                                       device_size, array.member_size)));
  sb.super_offset = *position;
  sb.data_size = at_end ? end : round_down(device_size, sector_size) - like.data_offset;
  const auto taken = [this](uint32_t number) {
    return std::any_of(members.begin(), members.end(),
                       [&](const auto& m) { return m->sb.dev_number == number; });
  };
  uint32_t number = shared.geometry.raid_disks;
  while (taken(number)) ++number;
  for (uint32_t i = 0; number >= max_devices(array.version) && i < number; ++i)
    if (!taken(i)) number = i;
  if (number >= max_devices(array.version))
    return volfs::fail(Error::make(ENOSPC, "the superblock has no room for another member"));
  sb.dev_number = number;
  if (format->numbers_by_slot()) sb.array.devices90[number] = new_device90(random_uuid());
  return sb;
}

// ---- sync ----------------------------------------------------------------------------------

Status Array::check() {
  if (!core_->sync) return fail_invalid(name() + ": the level has no redundancy");
  return core_->sync->request(SyncAction::check);
}

Status Array::repair() {
  if (!core_->sync) return fail_invalid(name() + ": the level has no redundancy");
  return core_->sync->request(SyncAction::repair);
}

void Array::cancel_check() {
  if (core_->sync) core_->sync->cancel();
}

bool Array::wait_sync(TimePoint deadline) {
  return !core_->sync || core_->sync->wait(deadline);
}

void Array::hold_sync(bool hold) {
  if (core_->sync) core_->sync->hold(hold);
}

}  // namespace volfs::md
