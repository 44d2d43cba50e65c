// SPDX-License-Identifier: GPL-2.0-or-later
// What only the whole file can tell: names that nothing defines, devices used twice, files
// named twice, uuids given twice, and what builds on itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sections.h"
#include "volfs/config/definition.h"

namespace volfs::config {

// How a device is used by what builds on it.
enum class Role { member, spare, physical_volume, cow, origin, table, readonly_table };

struct Use {
  const Text* name;  // as written: an item's name, or GROUP/VOLUME
  Item user;
  std::string_view user_name;
  Role role;
  const Names::Entry* target = nullptr;  // null if nothing has that name
};

// Every use of a device, in the order of the file's sections, resolved; tells unknown names.
std::vector<Use> collect_uses(Context& context, const Names& names, const Definition& definition);

void check_exclusive(Context& context, const std::vector<Use>& uses);
void check_paths(Context& context, const Definition& definition);
void check_uuids(Context& context, const Definition& definition);

// Fills definition.build_order; tells cycles and stacks that are too high.
void check_order(Context& context, const std::vector<Use>& uses, Definition& definition);

}  // namespace volfs::config
