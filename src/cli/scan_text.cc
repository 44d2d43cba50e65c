// SPDX-License-Identifier: GPL-2.0-or-later
#include "scan_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "volfs/engine/scan.h"
#include "volfs/md/layout.h"
#include "volfs/md/uuid.h"
#include "volfs/units.h"

namespace volfs::cli {

using nlohmann::json;

namespace {

// A word that YAML and our own grammar read back as it is.
std::string yaml_quoted(const std::string& text) {
  return json(text).dump();
}

std::string_view level_word(config::ArrayLevel level) {
  constexpr std::array<std::string_view, 7> words{"linear", "raid0", "raid1", "raid4",
                                                  "raid5",  "raid6", "raid10"};
  return words[static_cast<size_t>(level)];
}

std::string_view metadata_word(config::ArrayMetadata metadata) {
  constexpr std::array<std::string_view, 4> words{"0.90", "1.0", "1.1", "1.2"};
  return words[static_cast<size_t>(metadata)];
}

// The layout's name; nothing where a definition has no word for it.
std::optional<std::string> layout_word(const config::Array& array) {
  if (!array.layout) return std::nullopt;
  const uint32_t layout = array.layout->value;
  const uint32_t near = layout & 255, far = layout >> 8 & 255;
  if (array.level.value == config::ArrayLevel::raid10 &&
      ((near > 1 && far > 1) || near * far < 2 || layout >> 17 != 0))
    return std::nullopt;
  const int32_t level = array.level.value == config::ArrayLevel::raid0    ? 0
                        : array.level.value == config::ArrayLevel::raid5  ? 5
                        : array.level.value == config::ArrayLevel::raid6  ? 6
                        : array.level.value == config::ArrayLevel::raid10 ? 10
                                                                          : 1;
  return md::layout_name(level, layout);
}

std::string device_word(const config::ArrayDevice& device) {
  if (device.missing) return "missing";
  const std::string name = yaml_quoted(device.device.value);
  return device.write_mostly.value ? fmt::format("{{device: {}, write_mostly: true}}", name) : name;
}

std::string array_yaml(const config::Array& array) {
  std::string devices, spares;
  for (const auto& each : array.devices)
    devices += (devices.empty() ? "" : ", ") + device_word(each);
  for (const auto& each : array.spares) spares += (spares.empty() ? "" : ", ") + device_word(each);
  std::string text = fmt::format("{}: {{level: {}, devices: [{}]", yaml_quoted(array.name.value),
                                 level_word(array.level.value), devices);
  if (!spares.empty()) text += fmt::format(", spares: [{}]", spares);
  if (array.chunk) text += fmt::format(", chunk: {}", array.chunk->value);
  if (const auto layout = layout_word(array)) text += fmt::format(", layout: {}", *layout);
  text += fmt::format(", metadata: \"{}\"", metadata_word(array.metadata.value));
  if (array.uuid) text += fmt::format(", uuid: \"{}\"", md::format_uuid({array.uuid->value}));
  // One slot, or members that are out of date, are enough only so.
  if (array.force.value || array.devices.size() == 1) text += ", force: true";
  if (array.readonly.value) text += ", readonly: true";
  return text + "}";
}

}  // namespace

void print_scan_yaml(const engine::Scan& scan) {
  const config::Definition& definition = scan.definition;
  for (std::string remark : scan.remarks) {
    std::ranges::replace(remark, '\n', ' ');
    fmt::print("# {}\n", remark);
  }
  fmt::print("volfs: 1\nreadonly: true\nimages:\n");
  for (const config::Image& image : definition.images) {
    fmt::print("  {}: {{path: {}", yaml_quoted(image.name.value), yaml_quoted(image.path.value));
    if (image.partition) fmt::print(", partition: {}", image.partition->value);
    if (image.pad) fmt::print(", pad: {}", format_size(image.pad->value));
    fmt::print("}}\n");
  }
  if (!scan.arrays.empty()) fmt::print("arrays:\n");
  for (const engine::FoundArray& array : scan.arrays) {
    for (const std::string& note : array.notes) fmt::print("  # {}\n", note);
    if (!array.problem.empty()) fmt::print("  # not assembled: {}\n", array.problem);
    fmt::print("  {}{}\n", array.problem.empty() ? "" : "# ", array_yaml(array.definition));
  }
  if (definition.volume_groups.empty()) return;
  fmt::print("volume_groups:\n");
  for (const config::VolumeGroup& group : definition.volume_groups) {
    fmt::print("  {}:\n    physical_volumes:\n", yaml_quoted(group.name.value));
    for (const config::PhysicalVolume& pv : group.physical_volumes)
      fmt::print("      - {}\n", yaml_quoted(pv.device.value));
  }
}

namespace {

bool fills_slot(const engine::FoundMember& member) {
  return member.state == engine::FoundMember::State::in_sync ||
         member.state == engine::FoundMember::State::recovering;
}

// Of two copies of a member one fills it.
size_t slots_filled(const engine::FoundArray& array) {
  std::set<uint32_t> slots;
  for (const auto& member : array.members)
    if (fills_slot(member) && member.slot) slots.insert(*member.slot);
  return slots.size();
}

std::string events_text(const engine::FoundArray& array) {
  std::set<uint64_t, std::greater<>> counts;
  for (const auto& member : array.members) counts.insert(member.events);
  std::string text;
  for (const uint64_t count : counts)
    text += fmt::format("{}{}", text.empty() ? "" : " and ", count);
  return fmt::format("event count{} {}", counts.size() == 1 ? "" : "s", text);
}

void print_array(const engine::FoundArray& array) {
  const config::Array& d = array.definition;
  fmt::print("array '{}': {} of {} members of a {} '{}', {}", array.name, slots_filled(array),
             d.devices.size(), level_word(d.level.value), array.md_name, events_text(array));
  if (array.size != 0) fmt::print(", {}", format_size(array.size));
  if (const auto layout = layout_word(d)) fmt::print(", layout {}", *layout);
  if (d.chunk) fmt::print(", chunk {}", format_size(d.chunk->value));
  fmt::print(", metadata {}\n", array.metadata);
  for (const engine::FoundMember& member : array.members) {
    if (fills_slot(member))
      fmt::print("  slot {}: {}", *member.slot, member.device);
    else
      fmt::print("  {}", member.device);
    fmt::print(", {}, {} events\n", engine::to_string(member.state), member.events);
  }
  for (const std::string& note : array.notes) fmt::print("  {}\n", note);
  if (!array.problem.empty()) fmt::print("  not assembled: {}\n", array.problem);
}

// The devices of a group but those that are copies of one another.
std::vector<std::string> pvs_there(const config::VolumeGroup& group,
                                   const engine::Scan::PhysicalVolumes& pvs) {
  std::vector<std::string> there;
  for (const config::PhysicalVolume& pv : group.physical_volumes)
    if (std::ranges::find(pvs.doubles, pv.device.value) == pvs.doubles.end())
      there.push_back(pv.device.value);
  return there;
}

}  // namespace

void print_scan(const engine::Scan& scan) {
  for (const engine::FoundArray& array : scan.arrays) print_array(array);
  for (const config::VolumeGroup& group : scan.definition.volume_groups) {
    const engine::Scan::PhysicalVolumes& pvs = scan.physical_volumes.at(group.name.value);
    const auto there = pvs_there(group, pvs);
    fmt::print("volume group '{}': {} of {} physical volumes{}", group.name.value, there.size(),
               pvs.all, there.empty() ? "" : ": ");
    fmt::print("{}{}{}\n", fmt::join(there, " "),
               pvs.missing != 0 ? fmt::format("; {} missing", pvs.missing) : "",
               pvs.doubles.empty()
                   ? ""
                   : fmt::format("; on several devices: {}", fmt::join(pvs.doubles, " ")));
  }
  for (const std::string& remark : scan.remarks) fmt::print("{}\n", remark);
  if (scan.definition.volume_groups.empty() && scan.arrays.empty() && scan.remarks.empty())
    fmt::print("nothing found\n");
}

namespace {

json array_json(const engine::FoundArray& array) {
  json members = json::array();
  for (const engine::FoundMember& member : array.members) {
    json entry{{"device", member.device},
               {"state", engine::to_string(member.state)},
               {"events", member.events}};
    if (member.slot) entry["slot"] = *member.slot;
    members.push_back(std::move(entry));
  }
  json entry{{"name", array.name},
             {"md_name", array.md_name},
             {"uuid", array.uuid},
             {"level", level_word(array.definition.level.value)},
             {"raid_disks", array.definition.devices.size()},
             {"metadata", array.metadata},
             {"members", std::move(members)},
             {"notes", array.notes}};
  if (array.definition.chunk) entry["chunk"] = array.definition.chunk->value;
  if (const auto layout = layout_word(array.definition)) entry["layout"] = *layout;
  if (array.problem.empty())
    entry["size"] = array.size;
  else
    entry["problem"] = array.problem;
  return entry;
}

}  // namespace

json scan_json(const engine::Scan& scan) {
  json images = json::array(), arrays = json::array(), groups = json::array();
  for (const config::Image& image : scan.definition.images) {
    json entry{{"name", image.name.value}, {"path", image.path.value}};
    if (image.partition) entry["partition"] = image.partition->value;
    for (const engine::CutImage& cut : scan.cut_off)
      if (cut.name == image.name.value) {
        entry["pad"] = cut.wanted;
        entry["missing"] = cut.wanted - cut.size;
      }
    images.push_back(std::move(entry));
  }
  for (const engine::FoundArray& array : scan.arrays) arrays.push_back(array_json(array));
  for (const config::VolumeGroup& group : scan.definition.volume_groups) {
    const engine::Scan::PhysicalVolumes& pvs = scan.physical_volumes.at(group.name.value);
    json entry{{"name", group.name.value},
               {"missing_physical_volumes", pvs.missing},
               {"physical_volumes", pvs_there(group, pvs)}};
    if (!pvs.doubles.empty()) entry["doubled_physical_volumes"] = pvs.doubles;
    groups.push_back(std::move(entry));
  }
  return {{"images", std::move(images)},
          {"arrays", std::move(arrays)},
          {"volume_groups", std::move(groups)},
          {"remarks", scan.remarks}};
}

}  // namespace volfs::cli
