// SPDX-License-Identifier: GPL-2.0-or-later
#include "apply_fixed.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "apply_planner.h"
#include "volfs/md/layout.h"
#include "volfs/md/uuid.h"
#include "volfs/units.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

// What it takes to follow the definition.
constexpr const char* new_mount = "which takes a new mount";
constexpr const char* new_file = "which is for new files only: that takes another file";
constexpr const char* mdadm = "which is so on the disks: that takes mdadm, or making it anew";
constexpr const char* pvmove = "which is so on the disks: that takes lvm2 (pvmove)";
constexpr const char* lvm2 = "which is so on the disks: that takes lvm2, or making it anew";

class FixedDifferences {
 public:
  FixedDifferences(const config::Definition& definition, const json& status)
      : definition_(definition), status_(status) {
    for (const json& device : status["devices"]) devices_[device.value("name", "")] = &device;
  }

  std::vector<std::string> run() {
    look_at_the_mount();
    for (const config::Image& image : definition_.images) look(image);
    for (const config::Array& array : definition_.arrays) look(array);
    for (const config::Map& map : definition_.maps) {
      const json* device = look_hidden("map", map.name.value, map.hidden.value);
      if (device && map.uuid)
        compare("map " + map.name.value, "uuid", device->value("uuid", json("")), map.uuid->value,
                new_mount);
    }
    for (const config::Snapshot& snapshot : definition_.snapshots)
      look_hidden("snapshot", snapshot.name.value, snapshot.hidden.value);
    for (const config::VolumeGroup& group : definition_.volume_groups) look(group);
    return std::move(found_);
  }

 private:
  static std::string text_of(std::string_view key, const json& value) {
    static const std::set<std::string_view> sizes{
        "size",        "offset",      "length",      "pad",        "chunk",      "bitmap_chunk",
        "data_offset", "extent_size", "stripe_size", "chunk_size", "region_size"};
    if (value.is_null()) return "not given";
    if (value.is_number_unsigned() && value != 0 && sizes.contains(key))
      return format_size(value.get<uint64_t>());
    return value.is_string() ? value.get<std::string>() : value.dump();
  }

  void compare(const std::string& owner, const char* key, const json& now, const json& wanted,
               const char* takes) {
    if (now == wanted) return;
    found_.push_back(fmt::format("{}: {} is {} on the mount and {} in the definition, {}", owner,
                                 key, text_of(key, now), text_of(key, wanted), takes));
  }
  // What a definition does not say is as it is found.
  template <class T>
  void compare_given(const std::string& owner, const char* key, const json& now,
                     const config::Optional<T>& wanted, const char* takes) {
    if (wanted) compare(owner, key, now, wanted->value, takes);
  }

  static json account(const config::Optional<config::Account>& account) {
    if (!account) return nullptr;
    return account->value.id ? std::to_string(*account->value.id) : account->value.name;
  }

  void look_at_the_mount() {
    const auto at = status_.find("defined");
    if (at == status_.end()) return;
    const config::Expose& expose = definition_.expose;
    compare("the mount", "readonly", (*at)["readonly"], definition_.readonly.value, new_mount);
    compare("expose", "mode", fmt::format("{:04o}", at->value("mode", 0U)),
            fmt::format("{:04o}", expose.mode.value), new_mount);
    compare("expose", "owner", (*at)["owner"], account(expose.owner), new_mount);
    compare("expose", "group", (*at)["group"], account(expose.group), new_mount);
    compare("expose", "hidden", (*at)["hidden"], expose.hidden.value, new_mount);
  }

  // The device, if it is there and is such a one.
  const json* look_hidden(const char* kind, const std::string& name, bool hidden) {
    const auto at = devices_.find(name);
    if (at == devices_.end()) {
      // A map is made hidden.
      if (hidden && kind != std::string_view("map") && !status_.value("shows_hidden", false))
        found_.push_back(fmt::format(
            "{} {}: is hidden in the definition and not on the mount, which takes a new mount",
            kind, name));
      return nullptr;
    }
    const json& device = *at->second;
    if (!status_.value("shows_hidden", false) && device.value("size", uint64_t{0}) > 0)
      compare(fmt::format("{} {}", kind, name), "hidden", !device.contains("volume"), hidden,
              new_mount);
    return &device;
  }

  // What was said of an image when it joined; the snapshot's origin of its name may stand on it.
  void look(const config::Image& image) {
    const json* device = nullptr;
    for (const std::string& name : {image.name.value, image.name.value + "-real"})
      if (const auto at = devices_.find(name);
          at != devices_.end() && at->second->contains("given"))
        device = at->second;
    if (!device) return;
    const json* given = &(*device)["given"];
    const std::string owner = "image " + image.name.value;
    const auto number = [](const auto& said) { return said ? said->value : 0; };
    compare(owner, "readonly", (*given)["readonly"], image.readonly.value, new_mount);
    compare(owner, "direct", (*given)["direct"], image.direct && image.direct->value, new_mount);
    compare(owner, "partition", (*given)["partition"], number(image.partition), new_mount);
    compare(owner, "offset", (*given)["offset"], image.offset.value, new_mount);
    compare(owner, "length", (*given)["length"], number(image.length), new_mount);
    compare(owner, "pad", (*given)["pad"], number(image.pad), new_mount);
    if (device->contains("file_size"))
      compare_given(owner, "size", (*device)["file_size"], image.size, new_file);
  }

  void look(const config::Array& array) {
    const json* device = look_hidden("array", array.name.value, array.hidden.value);
    if (!device || !device->contains("array")) return;
    const json& now = (*device)["array"];
    const std::string owner = "array " + array.name.value;
    const md::Uuid uuid{array.uuid ? array.uuid->value : config::Uuid{}};
    if (array.uuid) compare(owner, "uuid", now["uuid"], md::format_uuid(uuid), mdadm);
    if (array.array_name) look_at_name(owner, now.value("name", ""), array);
    if (array.metadata.at.given())
      compare(owner, "metadata", now["metadata"], metadata_word(array.metadata.value), mdadm);
    const bool read_only = status_.value("read_only", false) || array.readonly.value;
    compare(owner, "readonly", (*device)["read_only"], read_only, new_mount);
    look_at_geometry(owner, now, array);
    look_at_consistency(owner, now, array);
    for (const auto* list : {&array.devices, &array.spares})
      for (const config::ArrayDevice& each : *list)
        look(owner, now["members"], each, array.data_offset);
  }

  void look_at_geometry(const std::string& owner, const json& now, const config::Array& array) {
    compare_given(owner, "chunk", now["chunk"], array.chunk, mdadm);
    compare_given(owner, "size", now["component_size"], array.size, mdadm);
    if (!array.layout || array.level.value == config::ArrayLevel::raid0) return;
    if (const auto level = md::parse_level(to_string(array.level.value)))
      compare(owner, "layout", now["layout"], md::layout_name(*level, array.layout->value), mdadm);
  }

  void look_at_consistency(const std::string& owner, const json& now, const config::Array& array) {
    if (array.bitmap)
      compare(owner, "bitmap", now.contains("bitmap") ? "internal" : "none",
              array.bitmap->value == config::ArrayBitmap::internal ? "internal" : "none", mdadm);
    if (now.contains("bitmap"))
      compare_given(owner, "bitmap_chunk", now["bitmap"]["chunk"], array.bitmap_chunk, mdadm);
    compare_given(owner, "write_behind", now["write_behind"], array.write_behind, mdadm);
    if (!array.consistency) return;
    const config::ArrayConsistency policy = array.consistency->value;
    const char* wanted = policy == config::ArrayConsistency::ppl      ? "ppl"
                         : policy == config::ArrayConsistency::bitmap ? "bitmap"
                                                                      : "resync";
    compare(owner, "consistency", now["consistency_policy"], wanted, mdadm);
  }

  void look(const std::string& array, const json& members, const config::ArrayDevice& member,
            const config::Optional<uint64_t>& data_offset) {
    const auto at = std::ranges::find_if(
        members, [&](const json& each) { return each.value("device", "") == member.device.value; });
    if (member.missing || at == members.end()) return;
    const std::string owner = fmt::format("{}: member {}", array, member.device.value);
    compare_given(owner, "data_offset", (*at)["data_offset"], data_offset, mdadm);
    if (member.write_mostly.at.given())
      compare(owner, "write_mostly", (*at)["write_mostly"], member.write_mostly.value, mdadm);
    if (member.failfast.at.given())
      compare(owner, "failfast", (*at)["failfast"], member.failfast.value, mdadm);
  }

  // The superblock has the host before it, perhaps.
  void look_at_name(const std::string& owner, std::string name, const config::Array& array) {
    if (const size_t colon = name.find(':'); colon != std::string::npos && !array.homehost)
      name.erase(0, colon + 1);
    const std::string host = array.homehost ? array.homehost->value + ":" : "";
    if (name != array.array_name->value)
      compare(owner, "name", name, host + array.array_name->value, mdadm);
  }

  static std::string metadata_word(config::ArrayMetadata metadata) {
    switch (metadata) {
      case config::ArrayMetadata::v0_90:
        return "0.90";
      case config::ArrayMetadata::v1_0:
        return "1.0";
      case config::ArrayMetadata::v1_1:
        return "1.1";
      case config::ArrayMetadata::v1_2:
        break;
    }
    return "1.2";
  }

  void look(const config::VolumeGroup& group) {
    if (!status_.contains("volume_groups")) return;
    for (const json& now : status_["volume_groups"]) {
      if (now.value("name", "") != group.name.value) continue;
      const std::string owner = "volume group " + group.name.value;
      if (group.extent_size.at.given())
        compare(owner, "extent_size", now["extent_size"], group.extent_size.value, lvm2);
      compare_given(owner, "uuid", now["uuid"], group.uuid, lvm2);
      if (group.tags_listed) compare_tags(owner, now["tags"], group.tags);
      if (group.alloc.at.given())
        compare(owner, "alloc", now["alloc"], word_of(group.alloc.value), lvm2);
      compare(owner, "readonly", now["readonly"], group.readonly.value, new_mount);
      compare(owner, "activation", now["activation"], word_of(group.activation.value), new_mount);
      for (const config::PhysicalVolume& pv : group.physical_volumes)
        for (const json& each : now["physical_volumes"])
          if (each["device"] == pv.device.value) look(owner, pv, each);
      for (const config::LogicalVolume& volume : group.logical_volumes)
        for (const json& each : now["logical_volumes"])
          if (each.value("name", "") == volume.name.value) look(group, volume, each);
    }
  }

  void compare_tags(const std::string& owner, const json& now,
                    const std::vector<config::Text>& wanted) {
    compare(owner, "tags", json(now.get<std::set<std::string>>()), json(texts_of(wanted)), lvm2);
  }

  void look(const std::string& group, const config::PhysicalVolume& pv, const json& now) {
    const std::string owner = fmt::format("{}: {}", group, pv.device.value);
    compare_given(owner, "uuid", now["uuid"], pv.uuid, lvm2);
    if (pv.tags_listed) compare_tags(owner, now["tags"], pv.tags);
    if (pv.allocatable.at.given())
      compare(owner, "allocatable", now["allocatable"], pv.allocatable.value, lvm2);
  }

  // Its size, tags and permission follow at once.
  void look(const config::VolumeGroup& group, const config::LogicalVolume& volume,
            const json& now) {
    const std::string owner = fmt::format("lv {}/{}", group.name.value, volume.name.value);
    compare_given(owner, "uuid", now["uuid"], volume.uuid, lvm2);
    const auto compare_said = [&](const char* key, const auto& wanted) {
      if (wanted.at.given()) compare(owner, key, now[key], wanted.value, lvm2);
    };
    // The type follows from other keys, too.
    if (volume.type.at.given() || volume.stripes.at.given() || volume.mirrors.at.given() ||
        volume.origin.at.given())
      compare(owner, "type", now["type"], to_string(volume.type.value), lvm2);
    compare_said("stripes", volume.stripes);
    compare_said("mirrors", volume.mirrors);
    compare_said("nosync", volume.nosync);
    compare_devices(owner, now["physical_volumes"], volume.physical_volumes);
    if (now["stripe_size"] != 0) compare_said("stripe_size", volume.stripe_size);
    compare_given(owner, "region_size", now["region_size"], volume.region_size, lvm2);
    if (now.contains("origin")) {
      compare_said("origin", volume.origin);
      compare_said("chunk_size", volume.chunk_size);
    }
    if (volume.alloc.at.given())
      compare(owner, "alloc", now["alloc"], word_of(volume.alloc.value), lvm2);
    compare(owner, "hidden", now["hidden"], volume.hidden.value, new_mount);
    compare(owner, "activation", now["activation"],
            word_of(volume.activation ? volume.activation->value : group.activation.value),
            new_mount);
  }

  // A volume may be on fewer than it may be allocated on.
  void compare_devices(const std::string& owner, const json& now,
                       const std::vector<config::Text>& wanted) {
    const std::set<std::string> allowed = texts_of(wanted);
    const bool fits = std::ranges::all_of(
        now, [&](const json& device) { return allowed.contains(device.get<std::string>()); });
    if (!allowed.empty() && !fits) compare(owner, "physical_volumes", now, json(allowed), pvmove);
  }

  const config::Definition& definition_;
  const json& status_;
  std::map<std::string, const json*> devices_;
  std::vector<std::string> found_;
};

}  // namespace

std::set<std::string> texts_of(const std::vector<config::Text>& tags) {
  std::set<std::string> all;
  for (const config::Text& tag : tags) all.insert(tag.value);
  return all;
}

std::vector<std::string> fixed_differences(const config::Definition& definition,
                                           const json& status) {
  return FixedDifferences(definition, status).run();
}

}  // namespace volfs::cli
