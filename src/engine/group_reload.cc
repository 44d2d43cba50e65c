// SPDX-License-Identifier: GPL-2.0-or-later
#include "group_reload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "volfs/dm/table.h"
#include "volfs/log.h"
#include "volfs/sync.h"

namespace volfs::engine {
namespace {

// How long I/O that is under way may hold up a change.
constexpr Nanos patience = std::chrono::seconds(60);
// close(2) returns before the server is told of it, and a stat(2) opens a volume for a moment.
constexpr Nanos closing_time = std::chrono::milliseconds(500);
// How long an operation on what is to go may hold that up.
constexpr Nanos unpinning_time = std::chrono::seconds(10);

dm::MappedDevice& map_behind(Node& node) {
  return dynamic_cast<dm::MappedDevice&>(*node.device);
}

std::string table_text(const lvm::PlannedDevice& device) {
  std::string text;
  for (const lvm::TableRow& row : device.table) text += lvm::to_string(row) + "\n";
  return text;
}

std::string_view first_word(std::string_view text) {
  return text.substr(0, text.find(' '));
}

// A row that keeps a snapshot's chunks: its table opens the store.
bool opens_store(const lvm::PlannedDevice& device) {
  return std::ranges::any_of(device.table, [](const lvm::TableRow& row) {
    return row.type == "snapshot" || row.type == "snapshot-merge";
  });
}

bool names(const lvm::PlannedDevice& device, std::string_view name) {
  for (const lvm::TableRow& row : device.table)
    for (std::string_view rest = row.params; !rest.empty();) {
      const std::string_view word = first_word(rest);
      if (word == name) return true;
      rest.remove_prefix(std::min(word.size() + 1, rest.size()));
    }
  return false;
}

// A table may need what the system has not got at the moment: threads, for a raid set. Its users
// wait anyway, and would do so for good if nobody tried again.
Status resume_at_last(dm::MappedDevice::Change& map) {
  constexpr int most_tries = 60;
  constexpr Nanos between = std::chrono::milliseconds(500);
  for (int tries = 1;; ++tries) {
    auto resumed = map.resume();
    if (resumed || tries == most_tries) return resumed;
    if (resumed.error().code() != EAGAIN && resumed.error().code() != ENOMEM) return resumed;
    sleep_for(between);
  }
}

}  // namespace

GroupReload::GroupReload(VolumeGroup& group, const lvm::ActivationPlan& plan)
    : group_(group), engine_(group.engine_) {
  const CanonicalTables canonical(group, plan);
  std::set<std::string_view> planned;
  for (const lvm::PlannedDevice& device : plan.devices) {
    planned.insert(device.uuid);
    Item item;
    item.planned = &device;
    item.canonical = canonical.of(device);
    if (const auto known = group.devices_.find(device.uuid); known != group.devices_.end()) {
      item.node = known->second.node;
      item.differs = item.canonical != known->second.canonical ||
                     device.read_only != known->second.planned.read_only;
    } else {
      item.is_new = true;
    }
    item.deferred = (item.is_new || item.differs) && opens_store(device);
    items_.push_back(std::move(item));
  }
  for (const auto& [uuid, device] : group.devices_)
    if (!planned.contains(uuid)) going_.push_back(uuid);
  note_reassembled();
}

// A leg that was missing, wholly or in part, is another now, under the same name.
void GroupReload::note_reassembled() {
  std::vector<std::string_view> changed;  // and what stands on them
  for (Item& item : items_) {
    const bool below = std::ranges::any_of(
        changed, [&](std::string_view name) { return names(*item.planned, name); });
    item.reassemble = below && !item.is_new && !item.differs &&
                      std::ranges::any_of(item.planned->table, [](const lvm::TableRow& row) {
                        return row.type == "raid";
                      });
    if (item.differs || (below && !item.reassemble)) changed.push_back(item.planned->name);
  }
}

GroupReload::~GroupReload() {
  if (!finished_) undo();
}

CanonicalTables::CanonicalTables(const VolumeGroup& group, const lvm::ActivationPlan& plan) {
  for (const lvm::PlannedDevice& each : plan.devices) identities_.emplace(each.name, each.uuid);
  const std::vector<std::string> pvs = group.pv_names();
  for (size_t i = 0; i < pvs.size(); ++i)
    if (!pvs[i].empty()) identities_.emplace(pvs[i], group.setup_.model.pvs[i].id.plain());
}

std::string CanonicalTables::of(const lvm::PlannedDevice& device) const {
  std::string out;
  for (const lvm::TableRow& row : device.table) {
    out += fmt::format("{} {} {}", row.start_sector, row.sectors, row.type);
    for (std::string_view rest = row.params; !rest.empty();) {
      const std::string_view word = first_word(rest);
      const auto identity = identities_.find(std::string(word));
      out += ' ';
      out += identity == identities_.end() ? word : identity->second;
      rest.remove_prefix(std::min(word.size() + 1, rest.size()));
    }
    out += '\n';
  }
  return out;
}

Status GroupReload::load(VolumeGroup& group, dm::MappedDevice::Change& map,
                         const lvm::PlannedDevice& planned) {
  VOLFS_TRY_ASSIGN(const auto rows, dm::parse_table(table_text(planned)));
  const auto resolve = [&](std::string_view name) -> Result<BlockDevice*> {
    if (Node* found = group.engine_.graph_.find(name)) return &found->shown();
    return fail(Error::make(ENXIO, "there is no such device"));
  };
  return map.load(rows, resolve,
                  {.read_only = group.setup_.read_only || planned.read_only,
                   .origins = &group.engine_.origins_,
                   .hold_sync = group.engine_.frozen_});
}

Status GroupReload::load(Item& item, const lvm::PlannedDevice& planned) {
  return in(item.node->name, load(group_, *item.change, planned));
}

void GroupReload::build_all(VolumeGroup& group, const lvm::ActivationPlan& plan,
                            std::map<std::string, std::string>& broken) {
  const CanonicalTables canonical(group, plan);
  const auto build = [&](const lvm::PlannedDevice& planned) -> Result<Node*> {
    auto map = std::make_unique<dm::MappedDevice>(planned.name, planned.uuid);
    {
      VOLFS_TRY_ASSIGN(auto change, map->change());
      VOLFS_TRY(load(group, change, planned));
      VOLFS_TRY(change.resume());
    }
    const std::lock_guard lock(group.engine_.structure_);
    return group.engine_.graph_.add(planned.name, Kind::logical_volume, std::move(map));
  };
  for (const lvm::PlannedDevice& planned : plan.devices) {
    auto node = build(planned);
    if (!node) {
      broken[planned.name] = node.error().text();
      continue;
    }
    (*node)->uuid = planned.uuid;
    (*node)->internal = true;
    (*node)->read_only_wanted = group.setup_.wanted_read_only || planned.read_only;
    group.devices_[planned.uuid] = {*node, planned, canonical.of(planned)};
  }
  for (const lvm::PlannedDevice& planned : plan.devices)
    if (broken.contains(planned.name)) keep_origin(group, planned, broken);
}

// A snapshot that is not there would see what is written to its origin: that is only read.
void GroupReload::keep_origin(VolumeGroup& group, const lvm::PlannedDevice& snapshot,
                              std::map<std::string, std::string>& broken) {
  if (snapshot.table.empty() || snapshot.table.front().type != "snapshot") return;
  const std::string real(first_word(snapshot.table.front().params));
  for (auto& [uuid, own] : group.devices_) {
    if (own.planned.read_only || own.planned.table.empty()) continue;
    const lvm::TableRow& row = own.planned.table.front();
    if (row.type != "snapshot-origin" || first_word(row.params) != real) continue;
    own.planned.read_only = true;
    own.node->read_only_wanted = true;
    auto& map = map_behind(*own.node);
    const Status kept = [&]() -> Status {
      VOLFS_TRY_ASSIGN(auto change, map.change());
      VOLFS_TRY(load(group, change, own.planned));
      return change.resume();
    }();
    if (!kept) broken[own.planned.name] = kept.error().text();
    log_warning("{}: only read, for its snapshot {} is not there", own.planned.name, snapshot.name);
  }
}

// `volfs snapshot` puts tables of its own into the devices that it takes snapshots of.
Status GroupReload::check_own_tables() const {
  const auto check = [&](const Node& node, const lvm::PlannedDevice& planned) -> Status {
    const auto rows = dm::parse_table(dynamic_cast<dm::MappedDevice&>(*node.device).table());
    const bool own = rows && std::ranges::equal(*rows, planned.table, {}, &dm::TableRow::type,
                                                &lvm::TableRow::type);
    if (own) return {};
    return fail(Error::make(EBUSY, fmt::format("{}: a snapshot from outside the group is taken of "
                                               "it; remove that first",
                                               node.name)));
  };
  for (const Item& item : items_)
    if (item.differs || item.reassemble)
      VOLFS_TRY(check(*item.node, group_.devices_.at(item.planned->uuid).planned));
  for (const std::string& uuid : going_)
    VOLFS_TRY(check(*group_.devices_.at(uuid).node, group_.devices_.at(uuid).planned));
  return {};
}

// Nobody else may stand on what goes.
Status GroupReload::check_going() const {
  for (const std::string& uuid : going_) {
    const Node& node = *group_.devices_.at(uuid).node;
    for (const std::string& user : engine_.graph_.users(*node.device)) {
      const Node* above = engine_.graph_.find(user);
      if (above && !group_.devices_.contains(above->uuid))
        return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", node.name, user)));
    }
  }
  return {};
}

// Nobody takes snapshots of the devices, nor gives them other tables, until this is over.
Status GroupReload::take_turns() {
  for (Item& item : items_) {
    if (item.is_new) continue;
    VOLFS_TRY_ASSIGN(auto change, map_behind(*item.node).change(now() + patience));
    item.change.emplace(std::move(change));
  }
  return {};
}

// What goes is found by nobody any more; who found it before is done with it, or stands on it.
Status GroupReload::let_go() {
  {
    const std::lock_guard lock(engine_.structure_);
    VOLFS_TRY(check_going());
    for (const std::string& uuid : going_)
      engine_.graph_.set_leaving(*group_.devices_.at(uuid).node, true);
  }
  const TimePoint deadline = now() + unpinning_time;
  for (const std::string& uuid : going_) {
    const Node& node = *group_.devices_.at(uuid).node;
    if (engine_.graph_.wait_unpinned(node, deadline)) continue;
    return fail(Error::make(EBUSY, fmt::format("{}: an operation on it is under way", node.name)));
  }
  return {};
}

Status GroupReload::withdraw() {
  std::vector<VolumeGroup::Shown> leaving;
  for (const auto& [id, shown] : group_.shown_)
    if (std::ranges::find(going_, shown.node->uuid) != going_.end()) leaving.push_back(shown);
  for (const VolumeGroup::Shown& shown : leaving)
    if (const auto volume = engine_.catalog_->find(shown.path))
      volume->wait_unused(now() + closing_time);
  const std::lock_guard lock(engine_.structure_);
  VOLFS_TRY(check_going());
  for (const VolumeGroup::Shown& shown : leaving) {
    VOLFS_TRY(engine_.catalog_->remove(shown.path));
    shown.node->volume.reset();
    withdrawn_.push_back({shown.path, shown.node});
  }
  return {};
}

Status GroupReload::rename_nodes() {
  const std::lock_guard lock(engine_.structure_);
  for (const Item& item : items_) {
    if (item.is_new || item.node->name == item.planned->name) continue;
    const std::string old = item.node->name;
    VOLFS_TRY(engine_.graph_.rename(old, item.planned->name));
    (**item.change).rename(item.planned->name);
    renamed_.emplace_back(item.node, old);
  }
  return {};
}

bool GroupReload::used_by_others(const lvm::PlannedDevice& planned) const {
  return std::ranges::any_of(items_, [&](const Item& item) {
    return item.planned != &planned && names(*item.planned, planned.name);
  });
}

// What stands on a device that grows can only be loaded when it has grown. Nobody looks behind its
// old end before.
Status GroupReload::grow(Item& item) {
  if (item.planned->size() <= item.node->device->size() || !used_by_others(*item.planned))
    return {};
  VOLFS_TRY(item.change->resume({.deadline = now() + patience}));
  item.grown = true;
  return {};
}

Status GroupReload::preload(Item& item) {
  if (item.is_new) {
    auto map = std::make_unique<dm::MappedDevice>(item.planned->name, item.planned->uuid);
    const std::lock_guard lock(engine_.structure_);
    VOLFS_TRY_ASSIGN(item.node,
                     engine_.graph_.add(item.planned->name, Kind::logical_volume, std::move(map)));
    item.node->uuid = item.planned->uuid;
    item.node->internal = true;
    item.node->read_only_wanted = group_.setup_.wanted_read_only || item.planned->read_only;
    VOLFS_TRY_ASSIGN(auto change, map_behind(*item.node).change());  // nobody else knows it
    item.change.emplace(std::move(change));
  }
  if (item.deferred) return {};
  if (item.is_new || item.differs) VOLFS_TRY(load(item, *item.planned));
  if (item.is_new) return item.change->resume();
  return item.differs ? grow(item) : Status();
}

Status GroupReload::prepare() {
  VOLFS_TRY(check_own_tables());
  VOLFS_TRY(let_go());
  VOLFS_TRY(take_turns());
  VOLFS_TRY(check_own_tables());
  VOLFS_TRY(withdraw());
  VOLFS_TRY(rename_nodes());
  for (Item& item : items_) VOLFS_TRY(preload(item));
  return {};
}

// What changes, and the origins that get or lose a snapshot.
void GroupReload::choose_suspended() {
  std::set<std::string> origins;  // the devices below them
  const auto note = [&](const lvm::PlannedDevice& device) {
    if (opens_store(device)) origins.emplace(first_word(device.table.front().params));
  };
  for (const Item& item : items_)
    if (item.is_new || item.differs) note(*item.planned);
  for (const std::string& uuid : going_) note(group_.devices_.at(uuid).planned);
  const auto is_origin = [&](const lvm::PlannedDevice& device) {
    return !device.table.empty() && device.table.front().type.starts_with("snapshot-") &&
           origins.contains(std::string(first_word(device.table.front().params)));
  };
  for (Item& item : items_)
    item.suspend = !item.is_new &&
                   (item.reassemble || (item.differs && !item.grown) || is_origin(*item.planned) ||
                    is_origin(group_.devices_.at(item.planned->uuid).planned));
}

Status GroupReload::suspend() {
  choose_suspended();
  // From the top: what is under way above must come through.
  for (auto item = items_.rbegin(); item != items_.rend(); ++item) {
    if (!item->suspend) continue;
    // One that could not be assembled before is suspended yet.
    item->suspended = item->reassemble;
    if ((*item->change)->suspended()) continue;
    VOLFS_TRY(item->change->suspend({.deadline = now() + patience}));
    item->suspended = true;
  }
  for (Item& item : items_)
    if (item.deferred) VOLFS_TRY(load(item, *item.planned));
  return {};
}

Status GroupReload::finish() {
  finished_ = true;
  Status first;
  const auto resume = [&](Item& item) {
    if (auto resumed = resume_at_last(*item.change); !resumed && first) first = std::move(resumed);
  };
  // A snapshot must be there before its origin is written to.
  for (Item& item : items_)
    if (item.is_new && item.deferred) resume(item);
  for (Item& item : items_)
    if (!item.is_new && (item.suspended || (item.differs && !item.grown))) resume(item);
  for (Item& item : items_) item.change.reset();
  remove_gone(first);
  for (const Item& item : items_)
    group_.devices_[item.planned->uuid] = {item.node, *item.planned, item.canonical};
  return first;
}

void GroupReload::remove_gone(Status& first) {
  const std::lock_guard lock(engine_.structure_);
  std::vector<Node*> nodes = engine_.graph_.nodes();
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    const std::string uuid = (*node)->uuid;
    if (std::ranges::find(going_, uuid) == going_.end()) continue;
    if (auto removed = engine_.graph_.remove((*node)->name); !removed) {
      if (first) first = std::move(removed);
      continue;
    }
    group_.devices_.erase(uuid);
  }
  std::erase_if(group_.shown_, [&](const auto& each) {
    return std::ranges::any_of(
        withdrawn_, [&](const Withdrawn& gone) { return gone.path == each.second.path; });
  });
}

void GroupReload::undo() {
  const auto told = [](const Status& status) {
    if (!status) log_error("undoing a change: {}", status.error().text());
  };
  for (Item& item : items_)
    if (item.change) told(item.change->clear());
  {
    const std::lock_guard lock(engine_.structure_);
    for (auto renamed = renamed_.rbegin(); renamed != renamed_.rend(); ++renamed) {
      told(engine_.graph_.rename(renamed->first->name, renamed->second));
      map_behind(*renamed->first).rename(renamed->second);
    }
  }
  for (Item& item : items_) {
    if (item.is_new || !item.change) continue;
    if (item.grown) {
      Status loaded = load(item, group_.devices_.at(item.planned->uuid).planned);
      told(loaded);
    }
    if (item.grown || item.suspended) told(item.change->resume());
  }
  for (Item& item : items_) item.change.reset();
  const std::lock_guard lock(engine_.structure_);
  for (const std::string& uuid : going_)
    engine_.graph_.set_leaving(*group_.devices_.at(uuid).node, false);
  for (auto item = items_.rbegin(); item != items_.rend(); ++item)
    if (item->is_new && item->node) told(engine_.graph_.remove(item->node->name));
  for (const Withdrawn& each : withdrawn_) {
    auto volume = engine_.catalog_->add(each.path, *each.node->device);
    each.node->volume = volume ? *volume : nullptr;
  }
}

}  // namespace volfs::engine
