// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan_arrays.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "array_options.h"
#include "volfs/config/names.h"
#include "volfs/md/agreement.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

using State = FoundMember::State;

std::optional<config::ArrayLevel> config_level(int32_t level) {
  for (const auto each :
       {config::ArrayLevel::linear, config::ArrayLevel::raid0, config::ArrayLevel::raid1,
        config::ArrayLevel::raid4, config::ArrayLevel::raid5, config::ArrayLevel::raid6,
        config::ArrayLevel::raid10})
    if (md_level(each) == level) return each;
  return std::nullopt;
}

config::ArrayMetadata config_metadata(md::SuperblockVersion version) {
  switch (version) {
    case md::SuperblockVersion::v0_90:
      return config::ArrayMetadata::v0_90;
    case md::SuperblockVersion::v1_0:
      return config::ArrayMetadata::v1_0;
    case md::SuperblockVersion::v1_1:
      return config::ArrayMetadata::v1_1;
    case md::SuperblockVersion::v1_2:
    case md::SuperblockVersion::dm_raid:  // a scan does not look for it
      break;
  }
  return config::ArrayMetadata::v1_2;
}

auto age_of(const ArrayMember& member) {
  const md::ArrayMetadata& a = member.sb.array;
  return std::tuple(a.events, a.utime.seconds, a.utime.microseconds);
}

// Part of a sentence: "a.img has 4179 events, the others have 4182".
std::string events_text(const FoundMember& member, uint64_t freshest) {
  return fmt::format("it has {} event{}, the others have {}", member.events,
                     member.events == 1 ? "" : "s", freshest);
}

// Only force takes it.
bool is_left_out(const FoundMember& member) {
  return member.state == State::stale || member.state == State::faulty ||
         member.state == State::apart;
}

}  // namespace

std::string_view to_string(FoundMember::State state) {
  constexpr std::array<std::string_view, 9> names{"in sync",     "recovering", "spare",
                                                  "out of date", "faulty",     "replacement",
                                                  "journal",     "copy",       "written apart"};
  return names[static_cast<size_t>(state)];
}

const ArrayMember& ArrayGroup::freshest() const {
  std::vector<const md::MemberMetadata*> all;
  all.reserve(members_.size());
  for (const ArrayMember& each : members_) all.push_back(&each.sb);
  return members_[md::freshest(all)];
}

const ArrayMember& ArrayGroup::member(const std::string& device) const {
  return *std::ranges::find(members_, device, &ArrayMember::device);
}

FoundMember ArrayGroup::look_at(const ArrayMember& member) const {
  const md::ArrayMetadata& a = freshest().sb.array;
  const uint32_t disks = a.geometry.raid_disks;
  FoundMember found{member.device, std::nullopt, member.sb.array.events, State::faulty};
  const uint16_t own = member.sb.role();
  const md::Standing standing = md::standing(member.sb, freshest().sb);
  const uint16_t role = standing.role;
  if (own < disks) found.slot = own;
  if (standing.apart) {
    found.state = State::apart;
  } else if (role == md::role_journal) {
    found.state = State::journal;
  } else if (role == md::role_spare && own == md::role_spare) {
    found.state = State::spare;
  } else if (standing.stale) {
    found.state = State::stale;
  } else if (role == md::role_spare) {
    found.state = State::spare;
    found.slot.reset();
  } else if (role < disks) {
    found.slot = role;
    found.state = member.sb.replacement       ? State::replacement
                  : member.sb.recovery_offset ? State::recovering
                                              : State::in_sync;
  }
  return found;
}

bool ArrayGroup::complete() const {
  std::vector<bool> filled(freshest().sb.array.geometry.raid_disks);
  for (const ArrayMember& member : members_) {
    const FoundMember found = look_at(member);
    if (found.state == State::in_sync) filled[*found.slot] = true;
  }
  return std::find(filled.begin(), filled.end(), false) == filled.end();
}

std::string ArrayGroup::wanted_name() const {
  const md::ArrayMetadata& a = freshest().sb.array;
  if (a.version == md::SuperblockVersion::v0_90) return fmt::format("md{}", a.preferred_minor);
  std::string name = a.name.substr(a.name.find(':') + 1);  // npos + 1 is 0
  if (std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; }))
    name = "md" + name;
  for (char& c : name)
    if (config::bad_device_name(std::string("x") + c)) c = '_';
  return config::bad_device_name(name) ? "md_" + name : name;
}

config::Array ArrayGroup::definition(const std::vector<FoundMember>& members) const {
  const md::MemberMetadata& sb = freshest().sb;
  const md::ArrayMetadata& a = sb.array;
  const md::Geometry& g = a.geometry;
  config::Array array;
  array.level.value = config_level(g.level).value_or(config::ArrayLevel::raid1);
  array.metadata.value = config_metadata(a.version);
  if (g.chunk != 0 && g.level != 1) array.chunk = {g.chunk, {}};
  const bool has_layout = g.level == 5 || g.level == 6 || g.level == 10 ||
                          (g.level == 0 && g.layout != md::raid0_layout::unknown);
  if (has_layout) array.layout = {g.layout, {}};
  if (a.has_bitmap) array.bitmap = {config::ArrayBitmap::internal, {}};
  if (a.has_ppl) array.consistency = {config::ArrayConsistency::ppl, {}};
  array.uuid = {uuid_.bytes, {}};
  array.readonly.value = a.has_journal;  // which is not written
  array.devices.resize(g.raid_disks);
  for (config::ArrayDevice& slot : array.devices) slot.missing = true;
  for (const FoundMember& found : members) {
    const bool in_slot = found.state == State::in_sync || found.state == State::recovering;
    if (in_slot && array.devices[*found.slot].missing) {
      put(array.devices[*found.slot], found);
    } else if (in_slot || found.state == State::spare || found.state == State::replacement) {
      // Two in one slot are refused by assembly, which says so.
      put(array.spares.emplace_back(), found);
    }
  }
  return array;
}

void ArrayGroup::put(config::ArrayDevice& slot, const FoundMember& found) const {
  slot.missing = false;
  slot.device.value = found.device;
  for (const ArrayMember& member : members_)
    if (member.device == found.device) slot.write_mostly.value = member.sb.write_mostly;
}

bool ArrayGroup::put_left_out(FoundArray& array) const {
  std::vector<const FoundMember*> order;
  for (const FoundMember& found : array.members)
    if (is_left_out(found) && found.slot) order.push_back(&found);
  std::ranges::stable_sort(order, {}, [](const FoundMember* m) {
    return std::tuple(m->state == State::apart, UINT64_MAX - m->events);
  });
  bool any = false;
  auto& slots = array.definition.devices;
  for (const FoundMember* found : order) {
    if (*found->slot >= slots.size() || !slots[*found->slot].missing) continue;
    put(slots[*found->slot], *found);
    any = true;
  }
  return any;
}

std::vector<std::string> ArrayGroup::notes(const std::vector<FoundMember>& members) const {
  const md::ArrayMetadata& a = freshest().sb.array;
  std::vector<std::string> notes;
  md::SlotSet missing;
  for (uint32_t slot = 0; slot < a.geometry.raid_disks; ++slot)
    missing[slot] = std::none_of(members.begin(), members.end(), [&](const FoundMember& m) {
      const bool serves = m.state == State::in_sync || m.state == State::recovering || m.taken;
      return m.slot == slot && serves;
    });
  if (missing.any()) notes.push_back(md::slots_are(missing) + " missing");
  note_halves(members, notes);
  for (const ArrayMember& each : members_) {
    const auto in_use = std::ranges::find(members, each.device, &FoundMember::device);
    const uint64_t last = freshest().sb.array.utime.seconds, own = each.sb.array.utime.seconds;
    if (in_use != members.end() && in_use->state == State::in_sync && own < last)
      notes.push_back(
          fmt::format("{} was updated {} s before the others: if it is an older copy, what is read "
                      "may be mixed of old and new",
                      each.device, last - own));
  }
  for (const FoundMember& m : members) {
    if (m.taken)
      notes.push_back(
          fmt::format("{}, slot {}, is {}, but is taken and will be changed, for there are too few "
                      "others: what "
                      "is read may be mixed of old and new",
                      m.device, *m.slot, to_string(m.state)));
    else if (m.state == State::stale)
      notes.push_back(fmt::format("{}{} out of date: {}", m.device,
                                  m.slot ? fmt::format(", once slot {}, is", *m.slot) : " is",
                                  events_text(m, a.events)));
    else if (m.state == State::faulty)
      notes.push_back(
          fmt::format("{} is left out: the others say that it is faulty or removed", m.device));
    else if (m.state == State::recovering)
      notes.push_back(
          fmt::format("{}, slot {}, has not been recovered to the end", m.device, *m.slot));
    else if (m.state == State::replacement)
      notes.push_back(fmt::format("{} is to replace the member of slot {}, which has not ended",
                                  m.device, *m.slot));
  }
  if (a.geometry.level > 0 && a.resync_offset != md::all_in_sync)
    notes.push_back("it was not stopped cleanly, or never synced to the end");
  const bool parity = a.geometry.level >= 4 && a.geometry.level <= 6;
  if (parity && a.resync_offset != md::all_in_sync && missing.any() && !a.has_ppl)
    notes.push_back(
        "to be written it needs force: what is computed for what is missing may be wrong");
  if (a.has_journal)
    notes.push_back(
        "it has a journal device: what only the journal holds is not shown, and it is read-only");
  return notes;
}

// Of each half, or what it is of the whole, that was written without the freshest.
void ArrayGroup::note_halves(const std::vector<FoundMember>& members,
                             std::vector<std::string>& notes) const {
  std::vector<std::vector<const ArrayMember*>> halves;
  for (const FoundMember& each : members) {
    if (each.state != State::apart || each.taken) continue;
    const ArrayMember& found = member(each.device);
    const auto half = std::ranges::find_if(halves, [&](const auto& known) {
      return !md::written_apart(found.sb, known.front()->sb) &&
             !md::written_apart(known.front()->sb, found.sb);
    });
    if (half == halves.end())
      halves.push_back({&found});
    else
      half->push_back(&found);
  }
  for (const auto& half : halves) {
    std::string names;
    for (const ArrayMember* each : half)
      names += (names.empty() ? "" : each == half.back() ? " and " : ", ") + each->device;
    notes.push_back(fmt::format(
        "{} {} written apart from {}: each was started without the other, and does not have what "
        "was written to the other since then",
        names, half.size() == 1 ? "was" : "were", freshest().device));
    notes.push_back(fmt::format("the half of {} is taken: {}; {} {} left out and not changed",
                                freshest().device, md::why_fresher(freshest().sb, half.front()->sb),
                                names, half.size() == 1 ? "is" : "are"));
    notes.push_back(fmt::format(
        "to see the other half name only {} to volfs mount, which is read-only then", names));
  }
}

// Of members with one identity only the one that was written last stays; the first that was given
// where their superblocks do not tell.
void ArrayGroup::leave_out_copies(FoundArray& array) const {
  for (size_t i = 0; i < members_.size(); ++i) {
    const auto same = [&](const ArrayMember& other) {
      const md::MemberMetadata &one = members_[i].sb, &two = other.sb;
      if (one.dev_number != two.dev_number || one.device_uuid != two.device_uuid) return false;
      // 0.90 gives the number of who left to another.
      return one.device_uuid != md::Uuid() || one.array.events == two.array.events;
    };
    const ArrayMember* best = nullptr;
    for (const ArrayMember& other : members_)
      if (same(other) && (!best || age_of(other) > age_of(*best))) best = &other;
    if (best == &members_[i]) continue;
    array.members[i].state = State::copy;
    array.notes.push_back(fmt::format(
        "{} is left out: it is a copy of {}, which is taken{}", members_[i].device, best->device,
        age_of(*best) > age_of(members_[i])
            ? ", for it was written later"
            : "; which of them was written later their superblocks do not tell"));
  }
}

FoundArray ArrayGroup::describe(bool force) const {
  const md::ArrayMetadata& a = freshest().sb.array;
  FoundArray array;
  array.md_name = a.version == md::SuperblockVersion::v0_90 ? wanted_name() : a.name;
  array.uuid = md::format_uuid(uuid_);
  array.metadata = md::version_name(a.version);
  for (const ArrayMember& member : members_) array.members.push_back(look_at(member));
  if (force) leave_out_copies(array);
  const auto rank = [](const FoundMember& m) {
    const bool in_slot = m.state == State::in_sync || m.state == State::recovering;
    return std::tuple(in_slot ? 0 : 1, m.slot.value_or(UINT32_MAX), UINT64_MAX - m.events);
  };
  std::stable_sort(array.members.begin(), array.members.end(),
                   [&](const auto& x, const auto& y) { return rank(x) < rank(y); });
  array.definition = definition(array.members);
  if (!config_level(a.geometry.level))
    array.problem = md::level_name(a.geometry.level) + " is not supported";
  return array;
}

void ArrayGroup::tell(FoundArray& array, const md::ArrayStatus& status,
                      const std::vector<ArrayMember>& cut_off) const {
  for (FoundMember& each : array.members) {
    const auto in_use = std::ranges::find(status.members, each.device, &md::MemberStatus::device);
    each.taken = is_left_out(each) && in_use != status.members.end() && in_use->slot;
  }
  for (std::string& note : notes(array.members)) array.notes.push_back(std::move(note));
  md::SlotSet empty;
  for (uint32_t slot = 0; slot < array.definition.devices.size(); ++slot)
    empty[slot] = array.definition.devices[slot].missing;
  std::vector<md::GivenMember> given;
  for (const ArrayMember& each : cut_off)
    if (each.sb.array.uuid == uuid_) given.push_back({each.sb, each.device});
  for (const ArrayMember& each : members_)
    given.push_back({each.sb, each.device, look_at(each).state == State::stale});
  for (std::string& line : md::absent_members(freshest().sb, empty, given))
    array.notes.push_back(std::move(line));
}

}  // namespace volfs::engine
