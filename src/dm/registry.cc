// SPDX-License-Identifier: GPL-2.0-or-later
// The list of target types: a new one is added here and nowhere else.
#include "targets/targets.h"
#include "volfs/dm/target.h"

namespace volfs::dm {

std::span<const TargetType* const> target_types() {
  static constexpr const TargetType* types[] = {
      &linear_type,   &striped_type,         &zero_type,           &error_type,  &unstriped_type,
      &delay_type,    &flakey_type,          &dust_type,           &mirror_type, &raid_type,
      &snapshot_type, &snapshot_origin_type, &snapshot_merge_type,
  };
  return types;
}

const TargetType* find_target_type(std::string_view name) {
  for (const TargetType* type : target_types())
    if (type->name == name) return type;
  return nullptr;
}

}  // namespace volfs::dm
