// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "checks.h"
#include "names.h"

namespace volfs::config {
namespace {

class Collector {
 public:
  Collector(Context& context, const Names& names, const Definition& definition)
      : context_(context), names_(names), definition_(definition) {}

  std::vector<Use> collect() {
    for (size_t i = 0; i < definition_.arrays.size(); ++i) {
      const Array& array = definition_.arrays[i];
      user_ = {DeviceKind::array, i};
      for (const ArrayDevice& device : array.devices)
        if (!device.missing) add(device.device, array.name, Role::member);
      for (const ArrayDevice& device : array.spares) add(device.device, array.name, Role::spare);
    }
    for (size_t i = 0; i < definition_.volume_groups.size(); ++i) {
      const VolumeGroup& group = definition_.volume_groups[i];
      user_ = {DeviceKind::volume_group, i};
      for (const PhysicalVolume& pv : group.physical_volumes)
        add(pv.device, group.name, Role::physical_volume);
    }
    for (size_t i = 0; i < definition_.snapshots.size(); ++i) {
      const Snapshot& snapshot = definition_.snapshots[i];
      user_ = {DeviceKind::snapshot, i};
      add(snapshot.origin, snapshot.name, Role::origin);
      add(snapshot.cow_device, snapshot.name, Role::cow);
    }
    for (size_t i = 0; i < definition_.maps.size(); ++i) {
      const Map& map = definition_.maps[i];
      user_ = {DeviceKind::map, i};
      const bool readonly = map.readonly.value || definition_.readonly.value;
      for (const Text& device : map.devices)
        add(device, map.name, readonly ? Role::readonly_table : Role::table);
    }
    return std::move(uses_);
  }

 private:
  void add(const Text& name, const Text& user, Role role) {
    if (name.value.empty()) return;
    Use use{&name, user_, user.value, role};
    use.target = resolve(name);
    uses_.push_back(use);
  }

  const Names::Entry* resolve(const Text& name) {
    const size_t slash = name.value.find('/');
    const Names::Entry* found = names_.find(name.value.substr(0, slash));
    const bool is_group = found && found->item.kind == DeviceKind::volume_group;
    if (found && is_group && slash == std::string::npos) {
      context_.report(name.at, fmt::format("{} is a volume group", quote(name.value)),
                      fmt::format("one of its volumes, {}/NAME", name.value));
      return nullptr;
    }
    if (found && is_group) {
      const VolumeGroup& group = definition_.volume_groups[found->item.index];
      return resolve_volume(name, group, name.value.substr(slash + 1)) ? found : nullptr;
    }
    if (found && slash == std::string::npos) return found;
    unknown(name, "the name of an image, array, map or snapshot, or GROUP/VOLUME");
    return nullptr;
  }

  bool resolve_volume(const Text& name, const VolumeGroup& group, const std::string& volume) {
    // Volumes that the file does not list are those of the disks, to be seen when they are read.
    if (!group.volumes_listed) {
      if (!bad_volume_name(group.name.value, volume)) return true;
    } else {
      auto& listed = volumes_[&group];
      if (listed.empty())
        for (const LogicalVolume& lv : group.logical_volumes) listed.emplace(lv.name.value, &lv);
      if (listed.contains(volume)) return true;
    }
    unknown(name, fmt::format("a logical volume of {}", quote(group.name.value)));
    return false;
  }

  void unknown(const Text& name, std::string_view expected) {
    std::string_view near;
    if (!context_.diagnostics.full() && context_.suggestions_left-- > 0) {
      fill_known();
      near = nearest(name.value, known_);
    }
    context_.report(name.at,
                    near.empty() ? fmt::format("{} is not defined", quote(name.value))
                                 : fmt::format("{} is not defined (did you mean '{}'?)",
                                               quote(name.value), near),
                    expected);
  }

  void fill_known() {
    if (!known_.empty()) return;
    for (const auto& [known, entry] : names_.all())
      if (entry.item.kind != DeviceKind::volume_group) known_.push_back(known);
    for (const VolumeGroup& group : definition_.volume_groups)
      for (const LogicalVolume& volume : group.logical_volumes)
        joined_.push_back(group.name.value + "/" + volume.name.value);
    for (const std::string& name : joined_) known_.push_back(name);
    // Of two that are as near, always the same one.
    std::sort(known_.begin(), known_.end());
    constexpr size_t most_candidates = 2000;
    known_.resize(std::min(known_.size(), most_candidates));
  }

  Context& context_;
  const Names& names_;
  const Definition& definition_;
  Item user_{};
  std::vector<Use> uses_;
  std::unordered_map<const VolumeGroup*, std::unordered_map<std::string_view, const LogicalVolume*>>
      volumes_;
  std::vector<std::string_view> known_;
  std::vector<std::string> joined_;
};

bool is_exclusive(Role role) {
  return role == Role::member || role == Role::spare || role == Role::physical_volume ||
         role == Role::cow;
}

// Whether both uses of one device may stand beside each other. Maps share what they like (the
// ranges of their rows are seen later), and look at everything when they only read. An origin
// may be used by others, whose writes are then copied first, but is no one's store.
bool compatible(Role a, Role b) {
  if (is_exclusive(a) && is_exclusive(b)) return false;
  if (!is_exclusive(a) && !is_exclusive(b)) return true;
  if (is_exclusive(b)) std::swap(a, b);
  if (b == Role::readonly_table) return true;
  return b == Role::origin && a != Role::cow;
}

std::string describe(const Use& use) {
  const std::string_view name = use.user_name;
  switch (use.role) {
    case Role::member:
      return fmt::format("a device of array '{}'", name);
    case Role::spare:
      return fmt::format("a spare of array '{}'", name);
    case Role::physical_volume:
      return fmt::format("a physical volume of '{}'", name);
    case Role::cow:
      return fmt::format("the cow of snapshot '{}'", name);
    case Role::origin:
      return fmt::format("the origin of snapshot '{}'", name);
    case Role::table:
    case Role::readonly_table:
      return fmt::format("in the table of map '{}'", name);
  }
  return {};
}

}  // namespace

std::vector<Use> collect_uses(Context& context, const Names& names, const Definition& definition) {
  return Collector(context, names, definition).collect();
}

void check_exclusive(Context& context, const std::vector<Use>& uses) {
  std::vector<const Use*> ordered;
  for (const Use& use : uses)
    if (use.target != nullptr) ordered.push_back(&use);
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const Use* a, const Use* b) { return a->name->at < b->name->at; });
  // Of the uses of one device before, the first of each role says enough.
  std::unordered_map<std::string_view, std::vector<const Use*>> before;
  for (const Use* use : ordered) {
    auto& earlier = before[use->name->value];
    bool role_seen = false;
    const Use* clash = nullptr;
    for (const Use* other : earlier) {
      role_seen = role_seen || other->role == use->role;
      if (clash == nullptr && !compatible(other->role, use->role)) clash = other;
    }
    if (clash != nullptr) {
      const bool map_over = use->role == Role::table;
      context.report(use->name->at,
                     fmt::format("{} is {} and already {} (line {})", quote(use->name->value),
                                 describe(*use), describe(*clash), clash->name->at.line),
                     map_over ? "a device that nothing else owns, or 'readonly: true' for the map"
                              : "each device in one place");
    }
    if (!role_seen) earlier.push_back(use);
  }
}

}  // namespace volfs::config
