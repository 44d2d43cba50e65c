// SPDX-License-Identifier: GPL-2.0-or-later
// md arrays: members by name, assembled.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "array_options.h"
#include "assembler.h"
#include "volfs/md/array.h"

namespace volfs::engine {

int32_t md_level(config::ArrayLevel level) {
  switch (level) {
    case config::ArrayLevel::linear:
      return md::level_linear;
    case config::ArrayLevel::raid0:
      return 0;
    case config::ArrayLevel::raid1:
      return 1;
    case config::ArrayLevel::raid4:
      return 4;
    case config::ArrayLevel::raid5:
      return 5;
    case config::ArrayLevel::raid6:
      return 6;
    case config::ArrayLevel::raid10:
      return 10;
  }
  return 0;
}

md::SuperblockVersion md_version(config::ArrayMetadata metadata) {
  switch (metadata) {
    case config::ArrayMetadata::v0_90:
      return md::SuperblockVersion::v0_90;
    case config::ArrayMetadata::v1_0:
      return md::SuperblockVersion::v1_0;
    case config::ArrayMetadata::v1_1:
      return md::SuperblockVersion::v1_1;
    case config::ArrayMetadata::v1_2:
      break;
  }
  return md::SuperblockVersion::v1_2;
}

md::SuperblockChoice choice_of(const config::Array& array) {
  md::SuperblockChoice choice;
  if (array.uuid) choice.uuid = md::Uuid{array.uuid->value};
  if (array.metadata.at.given()) choice.version = md_version(array.metadata.value);
  return choice;
}

namespace {

// Where the superblocks put members elsewhere than the definition, as a sentence.
std::string other_order(const config::Array& array, const md::ArrayStatus& status) {
  std::vector<std::string> listed, real(status.geometry.raid_disks, "missing");
  for (const config::ArrayDevice& each : array.devices)
    listed.push_back(each.missing ? "missing" : each.device.value);
  bool differ = false;
  for (const md::MemberStatus& member : status.members) {
    if (!member.slot || *member.slot >= real.size() || member.replacement) continue;
    real[*member.slot] = member.device;
    const auto place = std::ranges::find(listed, member.device);
    differ |= place != listed.end() && place - listed.begin() != *member.slot;
  }
  if (!differ) return {};
  return fmt::format(
      "{}: its devices are [{}] in the definition, but by their superblocks [{}]: the superblocks "
      "count",
      array.name.value, fmt::join(listed, ", "), fmt::join(real, ", "));
}

}  // namespace

void Assembler::build(const config::Array& array) {
  std::vector<BlockDevice*> members;
  for (const auto* list : {&array.devices, &array.spares})
    for (const config::ArrayDevice& each : *list) {
      if (each.missing) continue;
      BlockDevice* found = device(each.device);
      if (!found) return;
      members.push_back(found);
    }
  md::ArrayOptions options;
  options.name = array.name.value;
  // Who only looks must not start a resync.
  options.read_only = engine_->read_only() || array.readonly.value || options_.probe;
  options.force = array.force.value || options_.force;
  options.hold_sync = options_.frozen;
  options.quiet = options_.quiet || definition_.scanned;
  options.choice = choice_of(array);
  if (array.layout && array.level.value == config::ArrayLevel::raid0)
    options.raid0_layout = array.layout->value;
  if (array.sync_speed_min) options.sync_speed_min = array.sync_speed_min->value;
  if (array.sync_speed_max) options.sync_speed_max = array.sync_speed_max->value;
  auto assembled = md::Array::assemble(members, options);
  if (!assembled) return report(array.name.at, assembled.error().text());
  const md::ArrayStatus status = (*assembled)->status();
  if (status.geometry.level != md_level(array.level.value))
    return report(array.level.at,
                  fmt::format("the members of {} say that it is a {}", array.name.value,
                              md::level_name(status.geometry.level)));
  if (array.uuid && status.uuid.bytes != array.uuid->value)
    return report(array.uuid->at, fmt::format("the members of {} have the uuid {}",
                                              array.name.value, md::format_uuid(status.uuid)));
  if (status.geometry.raid_disks != array.devices.size())
    return report(array.name.at,
                  fmt::format("the members of {} say that it has {} devices, not {}",
                              array.name.value, status.geometry.raid_disks, array.devices.size()));
  if (const std::string text = other_order(array, status); !text.empty()) warn(text);
  if (Node* node = add(array.name, Kind::array, std::move(*assembled), array.hidden.value))
    node->uuid = md::format_uuid(status.uuid);
}

}  // namespace volfs::engine
