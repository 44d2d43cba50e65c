// SPDX-License-Identifier: GPL-2.0-or-later
#include "watcher.h"

#include <algorithm>
#include <charconv>
#include <sstream>

#include "volfs/dm/mapped_device.h"
#include "volfs/engine/engine.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

constexpr Nanos between_looks = std::chrono::milliseconds(200);

const md::MemberStatus* find_member(const md::ArrayStatus& status, const std::string& device) {
  const auto it = std::ranges::find(status.members, device, &md::MemberStatus::device);
  return it == status.members.end() ? nullptr : &*it;
}

const char* member_event(md::MemberState state) {
  switch (state) {
    case md::MemberState::in_sync:
      return "member.in_sync";
    case md::MemberState::recovering:
      return "member.recovering";
    case md::MemberState::spare:
      return "member.spare";
    case md::MemberState::faulty:
      return "member.failed";
  }
  return "member.failed";
}

void member_changes(const std::string& name, const md::ArrayStatus& before,
                    const md::ArrayStatus& after, std::vector<Event>& events) {
  for (const md::MemberStatus& member : after.members) {
    const md::MemberStatus* const old = find_member(before, member.device);
    if (!old) events.push_back({"member.added", name, {{"member", member.device}}});
    if (old ? old->state != member.state : member.state != md::MemberState::spare)
      events.push_back({member_event(member.state), name, {{"member", member.device}}});
    if (old && member.read_errors > old->read_errors)
      events.push_back({"member.read_error",
                        name,
                        {{"member", member.device},
                         {"corrected", uint64_t{member.read_errors} - old->read_errors}}});
  }
  for (const md::MemberStatus& old : before.members)
    if (!find_member(after, old.device))
      events.push_back({"member.removed", name, {{"member", old.device}}});
}

// One row of a map's status, of the snapshot targets.
struct SnapshotRow {
  std::string type, word;  // word: "Invalid", "Overflow", "Merge failed", "Merged" or empty
  uint64_t percent = 0;
};

uint64_t number(std::string_view text) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// START LENGTH TYPE USED/TOTAL METADATA, or a word instead of the numbers.
SnapshotRow snapshot_row(const std::string& status) {
  SnapshotRow row;
  std::istringstream words(status);
  std::string start, length, usage, metadata;
  if (!(words >> start >> length >> row.type >> usage)) return row;
  if (row.type != "snapshot" && row.type != "snapshot-merge") return row;
  words >> metadata;
  const size_t slash = usage.find('/');
  if (slash == std::string::npos) {
    row.word = usage == "Merge" ? "Merge failed" : usage;
    return row;
  }
  const uint64_t used = number(std::string_view(usage).substr(0, slash));
  const uint64_t total = number(std::string_view(usage).substr(slash + 1));
  row.percent = total > 0 ? used * 100 / total : 0;
  if (row.type == "snapshot-merge" && used == number(metadata)) row.word = "Merged";
  return row;
}

struct Look {
  std::map<std::string, md::ArrayStatus> arrays;
  std::map<std::string, std::string> maps;
};

Look look_at(Engine& engine) {
  Look look;
  engine.for_each_node([&](const Node& node) {
    if (const auto* array = dynamic_cast<const md::Array*>(node.device.get()))
      look.arrays.emplace(node.name, array->status());
    else if (const auto* map = dynamic_cast<const dm::MappedDevice*>(node.device.get())) {
      look.maps.emplace(node.name, map->status());
      if (const auto raid = map->array_status()) look.arrays.emplace(node.name, *raid);
    }
  });
  return look;
}

// Calls TELL with what a device was and is, for those that were there before.
template <class Map, class Tell>
void compare(const Map& before, const Map& after, EventHub& hub, Tell tell) {
  for (const auto& [name, now] : after)
    if (const auto old = before.find(name); old != before.end())
      for (const Event& event : tell(name, old->second, now)) hub.publish(event);
}

}  // namespace

std::vector<Event> array_events(const std::string& name, const md::ArrayStatus& before,
                                const md::ArrayStatus& after) {
  std::vector<Event> events;
  member_changes(name, before, after, events);
  if (before.state != after.state)
    events.push_back({"array.state",
                      name,
                      {{"state", std::string(md::array_state_name(after.state))},
                       {"before", std::string(md::array_state_name(before.state))}}});
  if (before.size != after.size)
    events.push_back({"array.resized", name, {{"size", after.size}, {"before", before.size}}});
  const auto action = [](const md::ArrayStatus& status) {
    return std::string(md::sync_action_name(status.sync.action));
  };
  if (before.sync.action == after.sync.action) return events;
  if (before.sync.action != md::SyncAction::idle)
    events.push_back(
        {"sync.done",
         name,
         {{"action", action(before)}, {"mismatch_cnt", after.mismatches / sector_size}}});
  if (after.sync.action != md::SyncAction::idle)
    events.push_back({"sync.started", name, {{"action", action(after)}}});
  return events;
}

std::vector<Event> map_events(const std::string& name, const std::string& before,
                              const std::string& after) {
  std::vector<Event> events;
  if (before == after) return events;
  const SnapshotRow was = snapshot_row(before), is = snapshot_row(after);
  if (is.word != was.word) {
    if (is.word == "Invalid") events.push_back({"snapshot.invalid", name, {}});
    if (is.word == "Overflow") events.push_back({"snapshot.full", name, {}});
    if (is.word == "Merge failed") events.push_back({"snapshot.merge_failed", name, {}});
    if (is.word == "Merged") events.push_back({"snapshot.merged", name, {}});
  }
  // As dmeventd warns: from 80 % on, every 5 %.
  if (is.type == "snapshot" && is.percent >= 80 && is.percent / 5 > was.percent / 5)
    events.push_back({"snapshot.filling", name, {{"percent", is.percent}}});
  return events;
}

void watch_for_events(Engine& engine) {
  EventHub& hub = engine.events();
  while (hub.wait_for_reader()) {
    Look before = look_at(engine);
    while (hub.has_reader() && hub.pause(between_looks)) {
      Look after = look_at(engine);
      compare(before.arrays, after.arrays, hub, array_events);
      compare(before.maps, after.maps, hub, map_events);
      before = std::move(after);
    }
  }
}

}  // namespace volfs::engine
