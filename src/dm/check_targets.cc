// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include "make_target.h"
#include "volfs/dm/table.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

// Stands for every device that a table names.
class AnyDevice final : public BlockDevice {
 public:
  AnyDevice() : BlockDevice("any", max_device_size) {}
};

}  // namespace

std::vector<RowProblem> check_targets(std::span<const TableRow> rows) {
  AnyDevice any;
  const Resolver resolve = [&any](std::string_view) -> Result<BlockDevice*> { return &any; };
  std::vector<RowProblem> problems;
  for (const TableRow& row : rows) {
    if (const TargetType* type = find_target_type(row.type); type && type->looks_at_devices)
      continue;
    const TargetContext context{.device = "table",
                                .start = row.start,
                                .length = row.length,
                                .read_only = false,
                                .resolve = resolve,
                                .event = [] {},
                                .origins = nullptr};
    if (auto target = make_target(row, rows.size(), context); !target)
      problems.push_back({row.line, target.error().text()});
  }
  return problems;
}

}  // namespace volfs::dm
