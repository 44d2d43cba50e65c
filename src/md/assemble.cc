// SPDX-License-Identifier: GPL-2.0-or-later
// Making an array of members that agree: the freshest says who belongs where. The rules are those
// of md.c and mdadm's Assemble.c.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <tuple>

#include "array_core.h"
#include "volfs/log.h"
#include "volfs/md/agreement.h"

namespace volfs::md {

class Assembler {
 public:
  Assembler(std::span<BlockDevice* const> devices, const ArrayOptions& options)
      : devices_(devices), o_(options) {}
  Result<std::unique_ptr<Array>> run();

 private:
  struct Candidate {
    BlockDevice* device;
    MemberMetadata sb;
    uint16_t role = role_spare;  // by the freshest superblock
    uint32_t slot = no_slot;     // index in Members::slots
    bool stale = false, apart = false, forced = false;
    bool spare() const { return role == role_spare; }
  };
  Status read_all();
  Status check_same();
  Status check_copies() const;
  Status check_supported() const;
  bool has_logs() const;
  void find_roles();
  Status place();
  void tell_left_out() const;
  void tell_absent() const;
  std::string forcible();
  Status put_into(Candidate& c, uint32_t slot);
  Status add_members();
  std::vector<Candidate*> to_force();
  void force_members();
  void use_replacements(bool whole);
  Status check_replacements() const;
  const Candidate* in_slot(uint32_t slot) const;
  SlotSet missing() const;
  Status check_dirty();
  void restart_replacements();
  Status make_personality();
  Status recover_log();
  void order_arrivals();
  Array::Core& core() { return *core_; }
  uint32_t disks() const { return fresh_->sb.array.geometry.raid_disks; }

  std::span<BlockDevice* const> devices_;
  const ArrayOptions& o_;
  std::vector<Candidate> found_;
  const Candidate* fresh_ = nullptr;
  std::unique_ptr<Array::Core> core_;
};

Status Assembler::read_all() {
  for (size_t i = 0; i < devices_.size(); ++i) {
    for (size_t j = 0; j < i; ++j)
      if (devices_[i] == devices_[j])
        return fail_invalid(fmt::format("{} is given twice", devices_[i]->name()));
    VOLFS_TRY_ASSIGN(auto sb, scan(*devices_[i], o_.choice));
    if (!sb) return fail_invalid(fmt::format("{} bears no md superblock", devices_[i]->name()));
    // That it has all is recorded, only not yet that it is in sync.
    if (sb->recovery_offset && !sb->recovery_by_bitmap &&
        *sb->recovery_offset >= sb->array.member_size)
      sb->recovery_offset.reset();
    found_.push_back({devices_[i], std::move(*sb)});
  }
  if (found_.empty()) return fail_invalid("no members are given");
  return {};
}

// Of one member given twice, the older content is out of date, as for mdadm; if none is older than
// a crash may leave it, nobody knows which of them is meant.
Status Assembler::check_copies() const {
  for (const Candidate& c : found_)
    for (const Candidate& other : found_) {
      if (&c == &other) break;
      const MemberMetadata &a = c.sb, &b = other.sb;
      const bool same = a.array.version == SuperblockVersion::v0_90
                            ? a.dev_number == b.dev_number && a.array.events == b.array.events
                            : a.device_uuid == b.device_uuid;
      const uint64_t least = std::min(a.array.events, b.array.events);
      const bool one_is_stale = std::max(a.array.events, b.array.events) > least + 1 &&
                                least + 1 < fresh_->sb.array.events;
      if (same && !one_is_stale)
        return fail_invalid(fmt::format("{} and {} are the same member (device {}): one is a copy",
                                        other.device->name(), c.device->name(), a.dev_number));
    }
  return {};
}

Status Assembler::check_same() {
  for (const Candidate& c : found_) {
    const Candidate& first = found_.front();
    if (c.sb.array.uuid != first.sb.array.uuid)
      return fail_invalid(fmt::format("{} belongs to array {}, but {} to {}", c.device->name(),
                                      format_uuid(c.sb.array.uuid), first.device->name(),
                                      format_uuid(first.sb.array.uuid)));
    if (c.sb.array.version != first.sb.array.version)
      return fail_invalid(fmt::format("{} has metadata {}, but {} has {}", c.device->name(),
                                      version_name(c.sb.array.version), first.device->name(),
                                      version_name(first.sb.array.version)));
    if (const auto text = disagreement(c.sb.array, first.sb.array); !text.empty())
      return fail_invalid(fmt::format("the superblock of {} does not match that of {}: {}",
                                      c.device->name(), first.device->name(), text));
  }
  std::vector<const MemberMetadata*> all;
  all.reserve(found_.size());
  for (const Candidate& c : found_) all.push_back(&c.sb);
  fresh_ = &found_[freshest(all)];
  return check_copies();
}

Status Assembler::check_supported() const {
  const ArrayMetadata& a = fresh_->sb.array;
  if (a.reshape)
    return fail(Error::make(ENOTSUP, "a reshape was begun and has not ended: not supported"));
  if (o_.read_only) {
    if (a.has_journal)
      log_warning("{}: its journal is not replayed: what only that holds is not shown", o_.name);
    return {};
  }
  if (a.has_journal)
    return fail(Error::make(ENOTSUP, "a journal device is needed for writing: assemble read-only"));
  const bool logs = has_logs();
  for (const Candidate& c : found_)
    if (logs && c.sb.ppl_size < 2 * superblock_size)
      return fail(
          Error::make(ENOSPC, fmt::format("{}: {} bytes are too few for a partial parity log",
                                          c.device->name(), c.sb.ppl_size)));
  for (const Candidate& c : found_)
    if (c.device->read_only())
      return fail(
          Error::make(EROFS, fmt::format("{} is read-only: assemble read-only", c.device->name())));
  return {};
}

// Partial parity logs count if no member in use denies it. Where something is torn that they do not
// hold a member says that there are none, and a crash may leave others that were not told.
bool Assembler::has_logs() const {
  return fresh_->sb.array.has_ppl && std::all_of(found_.begin(), found_.end(), [this](auto& c) {
           return c.sb.array.has_ppl || c.sb.array.events + 1 < fresh_->sb.array.events;
         });
}

void Assembler::find_roles() {
  for (Candidate& c : found_) {
    const Standing s = standing(c.sb, fresh_->sb);
    c.role = s.role;
    c.stale = s.stale;
    c.apart = s.apart;
  }
}

const Assembler::Candidate* Assembler::in_slot(uint32_t slot) const {
  const auto found = std::find_if(found_.begin(), found_.end(),
                                  [slot](const Candidate& c) { return c.slot == slot; });
  return found == found_.end() ? nullptr : &*found;
}

SlotSet Assembler::missing() const {
  SlotSet set;
  for (uint32_t s = 0; s < disks(); ++s) {
    const Candidate* c = in_slot(s);
    set[s] = !c || c->sb.recovery_offset;
  }
  return set;
}

// With force: who is given and not in use, but was in a slot that is empty. The freshest first, as
// mdadm, until it is enough: also who has failed by the others, whom Linux tells the last failure
// with one event; what was written apart only if nothing else helps. Empty if it is not enough.
std::vector<Assembler::Candidate*> Assembler::to_force() {
  const Geometry& geometry = fresh_->sb.array.geometry;
  std::vector<Candidate*> order, chosen;
  for (Candidate& c : found_)
    if (c.slot == no_slot && c.sb.role() < disks() && !in_slot(c.sb.role()) && !c.sb.replacement &&
        !c.sb.recovery_offset)
      order.push_back(&c);
  std::sort(order.begin(), order.end(), [](const Candidate* a, const Candidate* b) {
    return std::tuple(a->apart, b->sb.array.events, a->sb.role()) <
           std::tuple(b->apart, a->sb.array.events, b->sb.role());
  });
  SlotSet gone = missing();
  for (Candidate* c : order) {
    if (survives(geometry, gone)) break;
    if (!gone[c->sb.role()]) continue;
    gone[c->sb.role()] = false;
    chosen.push_back(c);
  }
  if (!survives(geometry, gone)) return {};
  // Of a mirror perhaps more than are needed.
  for (size_t i = chosen.size(); i-- > 0;) {
    const uint16_t slot = chosen[i]->sb.role();
    gone[slot] = true;
    if (survives(geometry, gone))
      chosen.erase(chosen.begin() + static_cast<ptrdiff_t>(i));
    else
      gone[slot] = false;
  }
  return chosen;
}

void Assembler::force_members() {
  for (Candidate* c : to_force()) {
    const uint16_t own = c->sb.role();
    log_warning("{}: forcing {} into slot {}{}", o_.name, c->device->name(), own,
                c->apart ? ", which was written apart from the others" : "");
    c->slot = c->role = own;
    c->stale = c->apart = false;
    c->forced = true;
  }
}

// Where nobody is to be replaced any more, those that were to do it are the members. WHOLE: only
// those that hold all that the others did.
void Assembler::use_replacements(bool whole) {
  for (Candidate& c : found_) {
    if (c.slot == no_slot || c.slot < disks() || in_slot(c.slot - disks())) continue;
    if (!whole || !c.sb.recovery_offset) c.slot -= disks();
  }
}

Status Assembler::check_replacements() const {
  for (const Candidate& c : found_) {
    if (c.slot == no_slot || c.slot < disks()) continue;
    const Candidate& replaced = *in_slot(c.slot - disks());
    if (replaced.sb.recovery_offset)
      return fail_invalid(
          fmt::format("{} is to replace {}, which is not in sync itself: leave one of them out",
                      c.device->name(), replaced.device->name()));
  }
  return {};
}

// Who was told later is meant, as for mdadm: a crash may leave a member of 0.90 that has just been
// replaced, under the number that its replacement has now.
Status Assembler::put_into(Candidate& c, uint32_t slot) {
  const auto other = std::find_if(found_.begin(), found_.end(),
                                  [slot](const Candidate& each) { return each.slot == slot; });
  if (other == found_.end()) {
    c.slot = slot;
    return {};
  }
  if (c.sb.array.events == other->sb.array.events)
    return fail_invalid(fmt::format("{} and {} both {} slot {}", c.device->name(),
                                    other->device->name(), c.sb.replacement ? "replace" : "are",
                                    c.role));
  Candidate& older = c.sb.array.events < other->sb.array.events ? c : *other;
  Candidate& newer = &older == &c ? *other : c;
  log_warning("{}: {} is left out: {} is slot {} now", o_.name, older.device->name(),
              newer.device->name(), c.role);
  older.slot = no_slot;
  older.stale = true;
  newer.slot = slot;
  return {};
}

void Assembler::tell_left_out() const {
  const MemberMetadata& fresh = fresh_->sb;
  for (const Candidate& c : found_) {
    if (c.apart)
      log_warning(
          "{}: {} is left out and not changed: it and {} were written apart, each without the "
          "other; of {}, which is taken, {}",
          o_.name, c.device->name(), fresh_->device->name(), fresh_->device->name(),
          why_fresher(fresh, c.sb));
    else if (c.stale && c.role < max_role && c.sb.array.events + 1 < fresh.array.events)
      log_warning("{}: {} is left out: its events are {}, others have {}", o_.name,
                  c.device->name(), c.sb.array.events, fresh.array.events);
  }
}

void Assembler::tell_absent() const {
  SlotSet empty;
  for (uint32_t slot = 0; slot < disks(); ++slot) empty[slot] = !in_slot(slot);
  std::vector<GivenMember> given;
  given.reserve(found_.size());
  for (const Candidate& c : found_) given.push_back({c.sb, c.device->name(), c.slot == no_slot});
  for (const std::string& line : absent_members(fresh_->sb, empty, given))
    log_warning("{}: {}", o_.name, line);
}

// What force would use, for a refusal.
std::string Assembler::forcible() {
  std::string text;
  for (const Candidate* c : to_force())
    text += fmt::format("{}{}, which {}", text.empty() ? "; force would use " : "; and ",
                        c->device->name(),
                        c->apart   ? "was written apart, and mix what they hold"
                        : c->stale ? "is out of date"
                                   : "failed by the others' superblocks");
  return text;
}

Status Assembler::place() {
  for (Candidate& c : found_) {
    if (c.stale || c.role >= disks()) continue;
    VOLFS_TRY(put_into(c, c.sb.replacement ? disks() + c.role : c.role));
  }
  use_replacements(true);
  if (o_.force) force_members();
  use_replacements(false);
  VOLFS_TRY(check_replacements());
  if (!o_.quiet) {
    tell_left_out();
    tell_absent();
  }
  if (const SlotSet gone = missing(); !survives(fresh_->sb.array.geometry, gone)) {
    return fail(Error::make(EIO, fmt::format("too few members of {}: {} missing or not in sync{}",
                                             disks(), slots_are(gone), forcible())));
  }
  return add_members();
}

// Those of the slots first, then spares, the freshest first: one that was taken out may have left
// its number to another, and md takes no two of one number. 0.90 numbers its devices anew.
Status Assembler::add_members() {
  Array::Core& c = core();
  std::vector<const Candidate*> order;
  order.reserve(found_.size());
  for (const Candidate& from : found_)
    if (from.spare() || from.slot != no_slot) order.push_back(&from);
  std::stable_sort(order.begin(), order.end(), [](const Candidate* a, const Candidate* b) {
    if (!a->spare() || !b->spare()) return b->spare() && !a->spare();
    return a->sb.array.events > b->sb.array.events;
  });
  for (const Candidate* from : order) {
    const auto same = std::find_if(c.members.begin(), c.members.end(), [&](const auto& m) {
      return m->sb.dev_number == from->sb.dev_number && !c.format->numbers_by_slot();
    });
    if (same != c.members.end()) {
      if (!from->spare())
        return fail_invalid(fmt::format("{} and {} both are device {}", (*same)->device->name(),
                                        from->device->name(), from->sb.dev_number));
      log_warning("{}: {} is left out: it was device {}, which now is {}", o_.name,
                  from->device->name(), from->sb.dev_number, (*same)->device->name());
      continue;
    }
    auto member = std::make_unique<Array::Member>();
    member->device = member->metadata = from->device;
    member->written_events = from->sb.array.events;
    // Who is forced stays as it is until the others say so, too.
    member->behind = !from->spare() && !from->forced && from->sb.array.events != c.array.events;
    c.forced = c.forced || from->forced;
    member->sb = from->sb;
    member->by_bitmap = from->sb.recovery_by_bitmap;
    VOLFS_TRY(Array::Core::read_bad_blocks(*member));
    if (!from->spare())
      c.attach(*member, from->slot, from->sb.recovery_offset.value_or(all_in_sync));
    c.members.push_back(std::move(member));
  }
  return {};
}

// mdadm gives members to the kernel by their slots, spares last, but the first of all at the end.
void Assembler::order_arrivals() {
  Array::Core& c = core();
  std::vector<Array::Member*> order;
  for (const auto& member : c.members) order.push_back(member.get());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->slot < b->slot; });
  if (order.size() > 1) std::rotate(order.begin(), order.begin() + 1, order.end());
  for (Array::Member* member : order) member->arrival = ++c.arrivals;
}

// Parity that may be wrong cannot stand in for what is missing. A member that is to get nothing but
// parity misses nothing.
Status Assembler::check_dirty() {
  Array::Core& c = core();
  const int32_t level = c.array.geometry.level;
  c.resync_position = c.redundant ? c.array.resync_offset : all_in_sync;
  const SlotSet doubtful = c.shared.lacking_data();
  SlotSet absent;
  for (uint32_t slot = 0; slot < disks(); ++slot)
    absent[slot] = doubtful[slot] && !c.shared.slots[slot].present();
  if (level >= 4 && level <= 6 && c.resync_position != all_in_sync && doubtful.any() &&
      !c.read_only) {
    if (c.array.has_ppl)
      log_warning("{}: starting dirty and degraded with a partial parity log", o_.name);
    else if (!o_.force)
      return fail(Error::make(
          EIO, fmt::format("the array was not stopped cleanly and {} {}: what is computed for that "
                           "may be wrong; force starts it all the same",
                           slots_are(doubtful),
                           doubtful == absent ? "missing"
                           : absent.any()     ? "missing or not in sync"
                                              : "not in sync")));
    if (!c.array.has_ppl) {
      log_warning("{}: forced: a dirty and degraded array is taken for clean", o_.name);
      c.resync_position = all_in_sync;
      c.forced = true;
    }
  }
  c.shared.agreed.store(c.resync_position);
  restart_replacements();
  return {};
}

// A write that a crash cut off may have reached the replacement and not the member, or the other
// way round. When it takes over, what has been read of the member must be what it has: so it gets
// that anew. Where it was written the bitmap says; without one it gets all of it anew. (md does
// neither, and leaves the two different.)
void Assembler::restart_replacements() {
  Array::Core& c = core();
  if (c.resync_position == all_in_sync) return;
  for (const auto& member : c.members) {
    if (!c.shared.is_replacement(member->slot)) continue;
    Slot& slot = c.shared.slots[member->slot];
    member->recovered = c.array.has_bitmap ? std::min(member->recovered, c.array.member_size) : 0;
    slot.copied.store(member->recovered);
    slot.recovered.store(0);
  }
}

Status Assembler::make_personality() {
  Array::Core& c = core();
  c.shared.member_size = c.array.member_size;
  for (uint32_t i = 0; i < disks(); ++i) {
    const Array::Member* m = c.member_of(i);
    if (!m) continue;
    if (!c.redundant)
      c.shared.sizes.push_back(c.array.member_size != 0 ? c.array.member_size : m->sb.data_size);
  }
  VOLFS_TRY_ASSIGN(c.personality, md::make_personality(c.shared));
  return {};
}

// As md: an array that was in use when it stopped, and whose log was of use, is in sync then.
Status Assembler::recover_log() {
  Array::Core& c = core();
  if (!c.array.has_ppl) return {};
  const bool dirty = c.resync_position != all_in_sync;
  if (c.read_only) {
    if (dirty) log_warning("{}: what its partial parity log holds is not carried out", o_.name);
    return {};
  }
  VOLFS_TRY_ASSIGN(const LogRecovery log, c.personality->recover_log(dirty));
  if (log.done + log.unusable > 0)
    log_info("{}: partial parity log: {} writes made right, {} unusable", o_.name, log.done,
             log.unusable);
  if (c.resync_position != 0 || c.degraded_now() || log.done == 0 || log.unusable > 0) return {};
  c.resync_position = all_in_sync;
  c.shared.agreed.store(all_in_sync);
  c.note(false);
  return {};
}

Result<std::unique_ptr<Array>> Assembler::run() {
  VOLFS_TRY(read_all());
  VOLFS_TRY(check_same());
  VOLFS_TRY(check_supported());
  find_roles();
  ArrayMetadata array = fresh_->sb.array;
  array.has_ppl = has_logs();
  if (array.geometry.level == 0 && array.geometry.layout == raid0_layout::unknown &&
      o_.raid0_layout)
    array.geometry.layout = *o_.raid0_layout;
  core_ = std::make_unique<Array::Core>(o_, array);
  Array::Core& c = core();
  c.read_only = o_.read_only;
  c.redundant = array.geometry.level > 0;
  c.format = std::make_unique<MdSuperblockFormat>(array.version);
  VOLFS_TRY(place());
  order_arrivals();
  VOLFS_TRY(check_dirty());
  VOLFS_TRY(make_personality());
  VOLFS_TRY(recover_log());
  if (c.redundant) c.sync = std::make_unique<SyncEngine>(c);
  VOLFS_TRY(c.open_bitmap());
  const uint64_t size = c.personality->size();
  std::vector<BlockDevice*> members;
  for (const auto& member : c.members) members.push_back(member->device);
  const Limits limit = array_limits(c.array.geometry, members);
  auto result = std::unique_ptr<Array>(new Array(o_, std::move(core_), size, limit));
  VOLFS_TRY(result->start());
  return result;
}

Result<std::unique_ptr<Array>> Array::assemble(std::span<BlockDevice* const> devices,
                                               const ArrayOptions& options) {
  return in(options.name, Assembler(devices, options).run());
}

}  // namespace volfs::md
