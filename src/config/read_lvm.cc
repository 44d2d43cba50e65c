// SPDX-License-Identifier: GPL-2.0-or-later
// Section `volume_groups`: lvm2's words and lvm2's rules.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <unordered_map>
#include <unordered_set>

#include "lv_words.h"
#include "names.h"
#include "sections.h"

namespace volfs::config {
namespace {

constexpr std::array<std::string_view, 8> group_keys{
    "physical_volumes", "extent_size", "logical_volumes", "tags",
    "activation",       "alloc",       "readonly",        "uuid"};
constexpr std::array<std::string_view, 4> pv_keys{"device", "uuid", "tags", "allocatable"};
constexpr std::array<std::string_view, 20> lv_keys{
    "size",       "extents",          "type",       "stripes",     "stripe_size",
    "mirrors",    "origin",           "chunk_size", "region_size", "mirror_log",
    "nosync",     "physical_volumes", "tags",       "permission",  "alloc",
    "activation", "active",           "hidden",     "uuid",        "readonly"};

constexpr std::array<Word<Activation>, 3> activation_words{{{"complete", Activation::complete},
                                                            {"degraded", Activation::degraded},
                                                            {"partial", Activation::partial}}};
constexpr std::array<Word<Allocation>, 5> alloc_words{{{"normal", Allocation::normal},
                                                       {"contiguous", Allocation::contiguous},
                                                       {"cling", Allocation::cling},
                                                       {"anywhere", Allocation::anywhere},
                                                       {"inherit", Allocation::inherit}}};
constexpr std::array<Word<Permission>, 5> permission_words{{{"read-write", Permission::read_write},
                                                            {"read-only", Permission::read_only},
                                                            {"rw", Permission::read_write},
                                                            {"r", Permission::read_only},
                                                            {"ro", Permission::read_only}}};
constexpr std::array<Word<MirrorLog>, 2> log_words{
    {{"disk", MirrorLog::disk}, {"core", MirrorLog::core}}};

template <class T>
std::string_view name_of(std::span<const Word<T>> words, T value) {
  return std::ranges::find(words, value, &Word<T>::value)->name;
}

constexpr std::string_view known_types =
    "linear, striped, raid0, raid1, raid4, raid5, raid6, raid10, mirror, snapshot, error or zero "
    "(raid5 and raid6 also with their layout, as raid5_ls)";
constexpr std::string_view size_expected =
    "a size in whole sectors of 512 bytes, or N%FREE, N%VG, N%PVS or (snapshots) N%ORIGIN";
constexpr std::string_view extents_expected =
    "a number of extents, or N%FREE, N%VG, N%PVS or (snapshots) N%ORIGIN";

void read_uuid(MapReader& reader, Optional<std::string>& out) {
  const Node* node = reader.find("uuid");
  if (node == nullptr) return;
  if (node->kind == Node::Kind::scalar && is_lvm_uuid(node->text))
    out = Text{node->text, node->at};
  else
    reader.report("uuid", *node, "lvm2's form, letters and digits in groups of 6-4-4-4-4-4-6");
}

template <class Owner>
void read_tags(MapReader& reader, Owner& owner) {
  owner.tags_listed = reader.find("tags") != nullptr;
  reader.read("tags", owner.tags, "a tag");
  for (const Text& tag : owner.tags)
    if (const auto bad = bad_tag(tag.value))
      reader.context().report(tag.at, fmt::format("tag {} of {}", quote(tag.value), reader.owner()),
                              *bad);
}

class VolumeReader {
 public:
  VolumeReader(Context& context, const Node& node, const VolumeGroup& group, LogicalVolume& volume)
      : reader_(context, node,
                fmt::format("logical volume {}", quote(group.name.value + "/" + volume.name.value)),
                lv_keys),
        group_(group),
        volume_(volume) {}

  void read() {
    if (!reader_.is_map()) return;
    read_size();
    read_type();
    read_layout();
    read_snapshot();
    reader_.read("physical_volumes", volume_.physical_volumes, "a device's name");
    read_tags(reader_, volume_);
    reader_.read<Permission>("permission", volume_.permission, permission_words,
                             "read-write or read-only");
    read_readonly();
    reader_.read<Allocation>("alloc", volume_.alloc, alloc_words);
    reader_.read<Activation>("activation", volume_.activation, activation_words);
    reader_.read("active", volume_.active);
    reader_.read("hidden", volume_.hidden);
    read_uuid(reader_, volume_.uuid);
  }

 private:
  LvType type() const { return volume_.type.value; }
  std::string with_type() const { return fmt::format("type {}", to_string(type())); }

  static std::string_view expected_size(const Node& node, bool in_extents) {
    if (in_extents) return extents_expected;
    const auto size =
        node.kind == Node::Kind::scalar ? parse_size(node.text) : Result<uint64_t>(uint64_t{0});
    return !size && size.error().code() == ERANGE ? "a size below 8EiB" : size_expected;
  }

  void read_size() {
    const Node* extents = reader_.find("extents");
    if (extents != nullptr) reader_.forbid("size", "'extents'", "either of the two");
    const bool in_extents = extents != nullptr;
    const Node* node =
        in_extents ? extents : reader_.require("size", "'size: 128MiB' or 'extents: 100%FREE'");
    if (node == nullptr) return;
    const auto size = node->kind == Node::Kind::scalar ? parse_lv_size(node->text, in_extents)
                                                       : std::optional<LvSize>{};
    if (size)
      volume_.size = {*size, node->at};
    else
      reader_.report(in_extents ? "extents" : "size", *node, expected_size(*node, in_extents));
  }

  // As lvcreate, the type follows from the other keys if it is not given.
  void read_type() {
    const Node* node = reader_.find("type");
    if (node == nullptr) {
      const Node* mirrors = reader_.find("mirrors");
      const Node* stripes = reader_.find("stripes");
      const bool mirrored = mirrors && mirrors->text != "0";
      const bool striped = stripes && stripes->text != "1";
      if (reader_.find("origin"))
        volume_.type.value = LvType::snapshot;
      else if (mirrored)
        volume_.type.value = striped ? LvType::raid10 : LvType::raid1;
      else if (striped)
        volume_.type.value = LvType::striped;
      return;
    }
    if (node->kind == Node::Kind::scalar && is_other_lv_type(node->text)) {
      reader_.context().report(node->at,
                               fmt::format("type {} of {}, which volfs does not make",
                                           quote(node->text), reader_.owner()),
                               known_types);
      type_known_ = false;
      return;
    }
    reader_.read<LvType>("type", volume_.type, lv_type_words(), known_types);
    type_known_ = volume_.type.at.given();
  }

  template <class Predicate>
  static std::string types_where(Predicate predicate) {
    std::vector<std::string_view> names;
    for (const Word<LvType>& word : lv_type_words()) {
      if (!predicate(lv_rule(word.value))) continue;
      // The levels are enough: not each of raid5_ls, raid5_la...
      const std::string_view level =
          word.name.starts_with("raid") ? word.name.substr(0, word.name.find('_')) : word.name;
      if (std::find(names.begin(), names.end(), level) == names.end()) names.push_back(level);
    }
    return "it only with type " + join_words(names);
  }

  template <class Predicate>
  bool applies(std::string_view key, Predicate predicate) {
    if (predicate(lv_rule(type()))) return true;
    reader_.forbid(key, with_type(), types_where(predicate));
    return false;
  }

  void read_layout() {
    if (!type_known_) return;
    const LvRule& rule = lv_rule(type());
    const auto striping = [](const LvRule& r) { return r.most_stripes > 1; };
    const auto mirroring = [](const LvRule& r) { return r.most_mirrors > 0; };
    const auto syncing = [](const LvRule& r) { return r.has_regions; };
    volume_.stripes.value = rule.default_stripes;
    volume_.mirrors.value = rule.default_mirrors;
    // "1 stripe" and "0 mirrors" say nothing and are let pass with any type that has them not.
    if (rule.most_stripes > 1 || !says("stripes", "1"))
      if (applies("stripes", striping)) read_stripes(rule);
    if (rule.most_mirrors > 0 || !says("mirrors", "0"))
      if (applies("mirrors", mirroring))
        reader_.read("mirrors", volume_.mirrors, 1, rule.most_mirrors);
    const SizeRule stripe_rule{.least = 4 * KiB, .most = GiB, .power_of_two = true};
    if (applies("stripe_size", striping)) {
      reader_.read("stripe_size", volume_.stripe_size, stripe_rule);
      check_stripe_size();
    }
    const SizeRule region_rule{.least = 4 * KiB, .most = GiB, .power_of_two = true};
    if (applies("region_size", syncing))
      reader_.read("region_size", volume_.region_size, region_rule);
    if (applies("nosync", syncing)) {
      reader_.read("nosync", volume_.nosync);
      if (volume_.nosync.value && rule.parity == 2)
        reader_.forbid("nosync", with_type(),
                       "a sync, without which raid6 reads nothing back right");
    }
    if (applies("mirror_log", [](const LvRule& r) { return r.type == LvType::mirror; }))
      reader_.read<MirrorLog>("mirror_log", volume_.mirror_log, log_words);
  }

  bool says(std::string_view key, std::string_view text) {
    const Node* node = reader_.find(key);
    return node != nullptr && node->kind == Node::Kind::scalar && node->text == text;
  }

  void read_stripes(const LvRule& rule) {
    if (rule.default_stripes == 0) reader_.require("stripes", "'stripes: 2' or more");
    reader_.read("stripes", volume_.stripes, rule.least_stripes, rule.most_stripes);
    if (volume_.stripes.value == 0) volume_.stripes.value = rule.least_stripes;
  }

  void check_stripe_size() {
    if (volume_.stripes.value < 2 || volume_.stripe_size.value <= group_.extent_size.value) return;
    reader_.context().report(
        volume_.stripe_size.at.given() ? volume_.stripe_size.at : reader_.at(),
        fmt::format("a stripe size of {} of {}", format_size(volume_.stripe_size.value),
                    reader_.owner()),
        fmt::format("at most an extent of {}", format_size(group_.extent_size.value)));
  }

  void read_snapshot() {
    if (!type_known_) return;
    const auto snapshotting = [](const LvRule& r) { return r.type == LvType::snapshot; };
    if (volume_.size.value.unit == LvSize::Unit::percent_origin && !snapshotting(lv_rule(type())))
      reader_.context().report(
          volume_.size.at,
          fmt::format("a size of %ORIGIN of {} with {}", reader_.owner(), with_type()),
          types_where(snapshotting));
    if (!applies("origin", snapshotting)) {
      applies("chunk_size", snapshotting);
      return;
    }
    const SizeRule chunk_rule{.least = 4 * KiB, .most = 512 * KiB, .power_of_two = true};
    reader_.read("chunk_size", volume_.chunk_size, chunk_rule);
    reader_.require("origin", "'origin:' and a volume of the group");
    reader_.read("origin", volume_.origin, "a volume of the group");
    const std::string prefix = group_.name.value + "/";
    if (volume_.origin.value.starts_with(prefix)) volume_.origin.value.erase(0, prefix.size());
  }

  void read_readonly() {
    Located<bool> readonly;
    reader_.read("readonly", readonly);
    if (!readonly.at.given()) return;
    if (volume_.permission.at.given())
      reader_.forbid("readonly", "'permission'", "either of the two");
    else
      volume_.permission = {readonly.value ? Permission::read_only : Permission::read_write,
                            readonly.at};
  }

  MapReader reader_;
  const VolumeGroup& group_;
  LogicalVolume& volume_;
  bool type_known_ = true;
};

// What the volumes of one group mean to each other and to its physical volumes.
class GroupChecker {
 public:
  GroupChecker(Context& context, const VolumeGroup& group) : context_(context), group_(group) {
    for (const LogicalVolume& volume : group.logical_volumes)
      volumes_.emplace(volume.name.value, &volume);
    for (const PhysicalVolume& pv : group.physical_volumes) devices_.insert(pv.device.value);
  }

  void check(bool devices_whole) {
    const LogicalVolume* taker = nullptr;
    for (const LogicalVolume& volume : group_.logical_volumes) {
      check_origin(volume);
      if (devices_whole) check_devices(volume);
      if (taker != nullptr && volume.size.at.given() && takes_room(volume))
        context_.report(
            volume.size.at,
            fmt::format("{} after '100%FREE' of {}", quoted(volume), quote(taker->name.value)),
            "the volume that takes all that is free to be the last");
      if (taker == nullptr && takes_all(volume)) taker = &volume;
    }
  }

 private:
  std::string quoted(const LogicalVolume& volume) const {
    return fmt::format("logical volume {}", quote(group_.name.value + "/" + volume.name.value));
  }

  static bool takes_room(const LogicalVolume& volume) {
    return volume.type.value != LvType::error && volume.type.value != LvType::zero;
  }
  static bool takes_all(const LogicalVolume& volume) {
    return volume.size.value.unit == LvSize::Unit::percent_free && volume.size.value.value == 100 &&
           volume.type.value == LvType::linear && volume.physical_volumes.empty();
  }

  void check_origin(const LogicalVolume& volume) {
    if (volume.origin.value.empty()) return;
    const auto found = volumes_.find(volume.origin.value);
    const std::string what =
        fmt::format("origin {} of {}", quote(volume.origin.value), quoted(volume));
    if (found == volumes_.end()) {
      std::vector<std::string_view> names;
      for (const LogicalVolume& other : group_.logical_volumes)
        if (&other != &volume) names.push_back(other.name.value);
      const std::string_view near =
          context_.suggestions_left-- > 0 ? nearest(volume.origin.value, names) : "";
      context_.report(volume.origin.at,
                      near.empty()
                          ? what + " is not defined"
                          : fmt::format("{} is not defined (did you mean '{}'?)", what, near),
                      fmt::format("a logical volume of {}", quote(group_.name.value)));
    } else if (found->second == &volume) {
      context_.report(volume.origin.at, what + " is the snapshot itself", "another volume");
    } else if (found->second->type.value == LvType::snapshot) {
      context_.report(volume.origin.at, what + " is a snapshot",
                      "a volume that is none, as lvm2 has no snapshots of snapshots");
    }
  }

  void check_devices(const LogicalVolume& volume) {
    std::unordered_set<std::string_view> chosen;
    for (const Text& device : volume.physical_volumes) {
      if (!devices_.contains(device.value))
        context_.report(device.at,
                        fmt::format("{} for {} is no physical volume of {}", quote(device.value),
                                    quoted(volume), quote(group_.name.value)),
                        "one of the group's");
      else if (!chosen.insert(device.value).second)
        context_.report(device.at,
                        fmt::format("{} for {} again", quote(device.value), quoted(volume)),
                        "each physical volume once");
    }
    const size_t available = volume.physical_volumes.empty() ? devices_.size() : chosen.size();
    const uint32_t areas = volume.areas();
    if (areas <= available || available == 0) return;
    const Position at = volume.stripes.at.given()   ? volume.stripes.at
                        : volume.mirrors.at.given() ? volume.mirrors.at
                        : volume.type.at.given()    ? volume.type.at
                                                    : volume.name.at;
    context_.report(at,
                    fmt::format("{} of type {} needs {} physical volumes and {} {}", quoted(volume),
                                to_string(volume.type.value), areas, available,
                                available == 1 ? "is there" : "are there"),
                    fmt::format("at least {}, each for one part", areas));
  }

  Context& context_;
  const VolumeGroup& group_;
  std::unordered_map<std::string_view, const LogicalVolume*> volumes_;
  std::unordered_set<std::string_view> devices_;
};

class GroupReader {
 public:
  GroupReader(Context& context, const Node& node, VolumeGroup& group)
      : reader_(context, node, fmt::format("volume group {}", quote(group.name.value)), group_keys),
        group_(group) {}

  void read() {
    if (!reader_.is_map()) return;
    if (const Node* list = reader_.require("physical_volumes", "'physical_volumes:' with a list"))
      read_devices(*list);
    const SizeRule extent_rule{.least = KiB, .most = TiB, .power_of_two = true};
    reader_.read("extent_size", group_.extent_size, extent_rule);
    read_tags(reader_, group_);
    reader_.read<Activation>("activation", group_.activation, activation_words);
    reader_.read<Allocation>("alloc", group_.alloc, std::span(alloc_words).first(4));
    reader_.read("readonly", group_.readonly);
    read_uuid(reader_, group_.uuid);
    check_uuid();
    if (const Node* volumes = find_volumes()) read_volumes(*volumes);
    GroupChecker(reader_.context(), group_).check(devices_whole_);
  }

 private:
  // NAME@UUID says it already.
  void check_uuid() {
    const std::string_view name = group_.name.value;
    const size_t at = own_group_name(name).size();
    if (group_.uuid && at < name.size() && name.substr(at + 1) != group_.uuid->value)
      reader_.context().report(
          group_.uuid->at, fmt::format("uuid {} of {}", quote(group_.uuid->value), reader_.owner()),
          "the uuid in its name");
  }

  const Node* find_volumes() { return reader_.find("logical_volumes"); }

  void read_devices(const Node& list) {
    for_each_item(reader_, "physical_volumes", list, "a list of devices", [&](const Node& item) {
      PhysicalVolume pv;
      if (item.kind == Node::Kind::map) {
        MapReader entry(reader_.context(), item,
                        fmt::format("a physical volume of {}", reader_.owner()), pv_keys);
        entry.require("device", "'device: NAME'");
        entry.read("device", pv.device, "a device's name");
        read_uuid(entry, pv.uuid);
        read_tags(entry, pv);
        entry.read("allocatable", pv.allocatable);
      } else if (item.kind == Node::Kind::scalar && !item.text.empty()) {
        pv.device = {item.text, item.at};
      } else {
        reader_.context().report(item.at,
                                 fmt::format("an item of 'physical_volumes' of {} is {}",
                                             reader_.owner(), item.describe()),
                                 "a device's name");
      }
      if (!pv.device.value.empty()) group_.physical_volumes.push_back(std::move(pv));
    });
    devices_whole_ = list.kind == Node::Kind::list && !list.items.empty() &&
                     list.items.size() == group_.physical_volumes.size();
  }

  void read_volumes(const Node& section) {
    group_.volumes_listed = section.kind == Node::Kind::map;
    for_each_entry(
        reader_.context(), section, fmt::format("'logical_volumes' of {}", reader_.owner()),
        "a map from names to volumes", [&](const Node& key, const Node& value) {
          if (const auto bad = bad_volume_name(group_.name.value, key.text))
            reader_.context().report(
                key.at, fmt::format("{} as the name of a logical volume", quote(key.text)), *bad);
          LogicalVolume& volume = group_.logical_volumes.emplace_back();
          volume.name = {key.text, key.at};
          VolumeReader(reader_.context(), value, group_, volume).read();
        });
  }

  MapReader reader_;
  VolumeGroup& group_;
  bool devices_whole_ = false;
};

}  // namespace

std::string_view word_of(Activation activation) {
  return name_of<Activation>(activation_words, activation);
}
std::string_view word_of(Allocation policy) {
  return name_of<Allocation>(alloc_words, policy);
}

void read_volume_groups(Context& context, const Node& section, Names& names, Definition& out) {
  for_each_entry(context, section, "'volume_groups'", "a map from names to volume groups",
                 [&](const Node& key, const Node& value) {
                   names.add(context, key, {DeviceKind::volume_group, out.volume_groups.size()});
                   VolumeGroup& group = out.volume_groups.emplace_back();
                   group.name = {key.text, key.at};
                   GroupReader(context, value, group).read();
                 });
}

}  // namespace volfs::config
