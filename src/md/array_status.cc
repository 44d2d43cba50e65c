// SPDX-License-Identifier: GPL-2.0-or-later
// What an array says of itself. The lines of mdstat are those of md_seq_show, the personalities'
// status functions and status_resync; programs parse them.
#include <fmt/format.h>

#include <algorithm>

#include "array_core.h"

namespace volfs::md {

std::string_view array_state_name(ArrayState state) {
  constexpr std::string_view names[] = {"active", "degraded", "failed"};
  return names[static_cast<size_t>(state)];
}

std::string_view member_state_name(MemberState state) {
  constexpr std::string_view names[] = {"in_sync", "recovering", "spare", "faulty"};
  return names[static_cast<size_t>(state)];
}

std::string_view sync_action_name(SyncAction action) {
  constexpr std::string_view names[] = {"idle", "resync", "recover", "check", "repair"};
  return names[static_cast<size_t>(action)];
}

namespace {

std::string geometry_text(const Geometry& g) {
  switch (g.level) {
    case level_linear:
      return fmt::format(" {}k rounding", g.chunk / KiB);
    case 0:
      return fmt::format(" {}k chunks", g.chunk / KiB);
    case 4:
    case 5:
    case 6:
      return fmt::format(" level {}, {}k chunk, algorithm {}", g.level, g.chunk / KiB, g.layout);
    case 10: {
      const uint32_t near = g.layout & 255, far = g.layout >> 8 & 255;
      std::string text;
      if (near < g.raid_disks) text += fmt::format(" {}K chunks", g.chunk / KiB);
      if (near > 1) text += fmt::format(" {} near-copies", near);
      if (far > 1)
        text += fmt::format(" {} {}-copies", far, (g.layout & 1u << 16) != 0 ? "offset" : "far");
      const uint32_t set = g.layout >> 17 == 0   ? g.raid_disks
                           : g.layout >> 17 == 1 ? g.raid_disks / far
                                                 : far * near;
      if (far > 1 && set != g.raid_disks) text += fmt::format(" {} devices per set", set);
      return text;
    }
    default:
      return {};
  }
}

std::string progress_text(const ArrayStatus& s) {
  const SyncProgress& p = s.sync;
  if (p.action == SyncAction::idle)
    return s.resynced != all_in_sync ? "\tresync=PENDING\n      " : "";
  const uint64_t position = p.position / sector_size, size = p.size / sector_size;
  const uint64_t per_mille = (position >> 10) * 1000 / ((size >> 10) + 1);
  const size_t done = std::min<uint64_t>(per_mille / 50, 20);
  const char* what = p.action == SyncAction::check     ? "check"
                     : p.action == SyncAction::recover ? "recovery"
                                                       : "resync";
  return fmt::format(
      "[{:=>{}}>{:.>{}}]  {} ={:3}.{}% ({}/{}) finish={}.{}min speed={}K/sec\n      ", "", done, "",
      20 - done, what, per_mille / 10, per_mille % 10, position / 2, size / 2, p.seconds_left / 60,
      p.seconds_left % 60 / 6, p.speed / KiB);
}

std::string members_text(const ArrayStatus& s) {
  std::string text;
  for (const MemberStatus& m : s.members) {
    text += fmt::format(" {}[{}]", m.device, m.number);
    if (m.write_mostly) text += "(W)";
    if (m.state == MemberState::faulty)
      text += "(F)";
    else if (!m.slot)
      text += "(S)";
    else if (m.replacement)
      text += "(R)";
  }
  return text;
}

}  // namespace

SyncProgress Array::progress() const {
  return core_->sync ? core_->sync->progress() : SyncProgress();
}

ArrayStatus Array::status() const {
  const Core& c = *core_;
  ArrayStatus s;
  s.sync = progress();
  if (c.sync) s.mismatches = c.sync->mismatches();
  if (c.bitmap) {
    const auto usage = c.bitmap->usage();
    s.bitmap = {c.bitmap->superblock().chunk, usage.pages, usage.used_pages, usage.dirty_bits,
                c.bitmap->superblock().write_behind};
  }
  s.size = size();
  s.read_only = c.read_only;
  s.sync_speed_min = c.sync_speed_min.load();
  s.sync_speed_max = c.sync_speed_max.load();
  const std::lock_guard lock(c.mutex);
  s.state = c.state();
  s.sync_size = c.personality->sync_size();
  s.resynced = c.resync_position;
  s.clean = c.clean.load() && c.resync_position == all_in_sync;
  s.version = c.array.version;
  s.uuid = c.array.uuid;
  s.name = c.array.name;
  s.geometry = c.shared.geometry;
  s.member_size = c.array.member_size;
  s.events = c.array.events;
  s.has_ppl = c.array.has_ppl;
  std::vector<const Member*> order;
  for (const auto& m : c.members) order.push_back(m.get());
  std::sort(order.begin(), order.end(),
            [](const Member* a, const Member* b) { return a->arrival > b->arrival; });
  for (const Member* m : order) {
    MemberStatus member{m->device->name(),  m->sb.dev_number,   std::nullopt,
                        MemberState::spare, m->sb.write_mostly, m->all_read_errors};
    if (m->slot != no_slot) member.slot = m->slot % c.shared.disks();
    member.replacement = c.shared.is_replacement(m->slot);
    member.to_replace = m->to_replace;
    member.failfast = m->sb.failfast;
    member.data_offset = m->sb.data_offset;
    if (m->faulty)
      member.state = MemberState::faulty;
    else if (m->slot != no_slot)
      member.state = !c.redundant || c.shared.slots[m->slot].in_sync() ? MemberState::in_sync
                                                                       : MemberState::recovering;
    s.members.push_back(std::move(member));
  }
  return s;
}

std::string Array::mdstat() const {
  const ArrayStatus s = status();
  std::string text = fmt::format("{} : {}{} {}{}\n      {} blocks", name(),
                                 s.state == ArrayState::failed ? "broken" : "active",
                                 s.read_only ? " (read-only)" : "", level_name(s.geometry.level),
                                 members_text(s), s.size / KiB);
  if (s.version != SuperblockVersion::v0_90)
    text += fmt::format(" super {}", version_name(s.version));
  text += geometry_text(s.geometry);
  if (s.geometry.level > 0) {
    std::vector<bool> in_sync(s.geometry.raid_disks);
    for (const MemberStatus& m : s.members)
      if (m.slot && m.state == MemberState::in_sync) in_sync[*m.slot] = true;
    text += fmt::format(" [{}/{}] [", s.geometry.raid_disks,
                        std::count(in_sync.begin(), in_sync.end(), true));
    for (const bool here : in_sync) text += here ? 'U' : '_';
    text += ']';
  }
  text += "\n      ";
  if (s.geometry.level > 0) text += progress_text(s);
  if (s.bitmap) {
    const auto& b = *s.bitmap;
    text += fmt::format(
        "bitmap: {}/{} pages [{}KB], {} chunk\n", b.used_pages, b.pages, b.used_pages * 4,
        b.chunk >= KiB ? fmt::format("{}KB", b.chunk / KiB) : fmt::format("{}B", b.chunk));
  }
  return text + "\n";
}

}  // namespace volfs::md
