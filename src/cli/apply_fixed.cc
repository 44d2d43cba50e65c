// SPDX-License-Identifier: GPL-2.0-or-later
#include "apply_fixed.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "volfs/md/uuid.h"

namespace volfs::cli {
namespace {

using nlohmann::json;

class FixedDifferences {
 public:
  FixedDifferences(const config::Definition& definition, const json& status)
      : definition_(definition), status_(status) {
    for (const json& device : status["devices"]) devices_[device.value("name", "")] = &device;
  }

  std::vector<std::string> run() {
    look_at_the_mount();
    for (const config::Array& array : definition_.arrays) look(array);
    for (const config::Map& map : definition_.maps) {
      const json* device = look_hidden("map", map.name.value, map.hidden.value);
      if (device && map.uuid)
        compare("map " + map.name.value, "uuid", device->value("uuid", json("")), map.uuid->value);
    }
    for (const config::Snapshot& snapshot : definition_.snapshots)
      look_hidden("snapshot", snapshot.name.value, snapshot.hidden.value);
    for (const config::VolumeGroup& group : definition_.volume_groups) look(group);
    return std::move(found_);
  }

 private:
  static std::string text_of(const json& value) {
    if (value.is_null()) return "not given";
    return value.is_string() ? value.get<std::string>() : value.dump();
  }

  void compare(const std::string& owner, const char* key, const json& now, const json& wanted) {
    if (now == wanted) return;
    found_.push_back(
        fmt::format("{}: {} is {} on the mount and {} in the definition, which takes a new mount",
                    owner, key, text_of(now), text_of(wanted)));
  }

  static json account(const config::Optional<config::Account>& account) {
    if (!account) return nullptr;
    return account->value.id ? std::to_string(*account->value.id) : account->value.name;
  }

  void look_at_the_mount() {
    const auto at = status_.find("defined");
    if (at == status_.end()) return;
    const config::Expose& expose = definition_.expose;
    compare("the mount", "readonly", (*at)["readonly"], definition_.readonly.value);
    compare("expose", "mode", fmt::format("{:04o}", at->value("mode", 0U)),
            fmt::format("{:04o}", expose.mode.value));
    compare("expose", "owner", (*at)["owner"], account(expose.owner));
    compare("expose", "group", (*at)["group"], account(expose.group));
    compare("expose", "hidden", (*at)["hidden"], expose.hidden.value);
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
      compare(fmt::format("{} {}", kind, name), "hidden", !device.contains("volume"), hidden);
    return &device;
  }

  void look(const config::Array& array) {
    const json* device = look_hidden("array", array.name.value, array.hidden.value);
    if (!device || !device->contains("array")) return;
    const json& now = (*device)["array"];
    const std::string owner = "array " + array.name.value;
    const md::Uuid uuid{array.uuid ? array.uuid->value : config::Uuid{}};
    if (array.uuid) compare(owner, "uuid", now["uuid"], md::format_uuid(uuid));
    if (array.chunk) compare(owner, "chunk", now["chunk"], array.chunk->value);
    if (array.array_name) look_at_name(owner, now.value("name", ""), array);
    if (array.bitmap)
      compare(owner, "bitmap", now.contains("bitmap") ? "internal" : "none",
              array.bitmap->value == config::ArrayBitmap::internal ? "internal" : "none");
    if (array.metadata.at.line != 0)
      compare(owner, "metadata", now["metadata"], metadata_word(array.metadata.value));
    const bool read_only = status_.value("read_only", false) || array.readonly.value;
    compare(owner, "readonly", (*device)["read_only"], read_only);
  }

  // The superblock has the host before it, perhaps.
  void look_at_name(const std::string& owner, std::string name, const config::Array& array) {
    if (const size_t colon = name.find(':'); colon != std::string::npos && !array.homehost)
      name.erase(0, colon + 1);
    const std::string host = array.homehost ? array.homehost->value + ":" : "";
    if (name != array.array_name->value)
      compare(owner, "name", name, host + array.array_name->value);
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
      if (group.extent_size.at.line != 0)
        compare(owner, "extent_size", now["extent_size"], group.extent_size.value);
      if (group.uuid) compare(owner, "uuid", now["uuid"], group.uuid->value);
      for (const config::LogicalVolume& volume : group.logical_volumes)
        for (const json& each : now["logical_volumes"])
          if (each.value("name", "") == volume.name.value) look(group.name.value, volume, each);
    }
  }

  void look(const std::string& group, const config::LogicalVolume& volume, const json& now) {
    const std::string owner = fmt::format("lv {}/{}", group, volume.name.value);
    if (volume.uuid) compare(owner, "uuid", now["uuid"], volume.uuid->value);
    // What a definition does not say is as it is found.
    if (volume.permission.at.line != 0)
      compare(owner, "permission", now["writable"] == true ? "rw" : "r",
              volume.permission.value == config::Permission::read_only ? "r" : "rw");
    if (volume.tags.empty()) return;
    std::set<std::string> wanted;
    for (const config::Text& tag : volume.tags) wanted.insert(tag.value);
    compare(owner, "tags", json(now["tags"].get<std::set<std::string>>()), json(wanted));
  }

  const config::Definition& definition_;
  const json& status_;
  std::map<std::string, const json*> devices_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<std::string> fixed_differences(const config::Definition& definition,
                                           const json& status) {
  return FixedDifferences(definition, status).run();
}

}  // namespace volfs::cli
