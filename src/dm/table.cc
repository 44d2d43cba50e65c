// SPDX-License-Identifier: GPL-2.0-or-later
#include "table.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "args.h"
#include "make_target.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

std::string known_types() {
  std::string names;
  for (const TargetType* type : target_types()) {
    if (!names.empty()) names += ", ";
    names += type->name;
  }
  return names;
}

}  // namespace

Result<std::unique_ptr<Target>> make_target(const TableRow& row, size_t rows,
                                            const TargetContext& context) {
  const TargetType* type = find_target_type(row.type);
  if (!type)
    return fail_invalid(
        fmt::format("target type \"{}\": expected one of {}", row.type, known_types()));
  if (type->singleton && rows != 1)
    return fail_invalid(fmt::format("{}: expected to be the only row of its table", row.type));
  if (type->always_writable && context.read_only)
    return fail_invalid(fmt::format("{}: cannot be part of a read-only table", row.type));
  return in(row.type, type->create(context, row.args));
}

Result<std::unique_ptr<Table>> Table::build(std::span<const TableRow> rows, std::string_view device,
                                            std::string_view place, bool read_only,
                                            const Resolver& resolve,
                                            std::shared_ptr<EventSink> events,
                                            OriginRegistry* origins, bool hold_sync) {
  std::unique_ptr<Table> table(new Table);
  table->events_ = std::move(events);
  table->place_ = place;
  table->read_only_ = read_only;
  bool first = true;
  for (const TableRow& row : rows) {
    const TargetContext context{.device = device,
                                .start = row.start,
                                .length = row.length,
                                .read_only = read_only,
                                .resolve = resolve,
                                .event = [sink = table->events_] { sink->tell(); },
                                .origins = origins,
                                .hold_sync = hold_sync};
    auto target = in(fmt::format("{}:{}", place, row.line), make_target(row, rows.size(), context));
    if (!target) return fail(std::move(target.error()));
    const Limits limits = (*target)->limits();
    table->limits_ = first ? limits : Limits::stack(table->limits_, limits);
    first = false;
    table->targets_.push_back(std::move(*target));
    table->ends_.push_back(row.start + row.length);
    table->lines_.push_back(row.line);
  }
  VOLFS_TRY(table->check_ranges());
  VOLFS_TRY(table->check_blocks());
  table->collect_below();
  return table;
}

Error Table::at(size_t target, const std::string& text) const {
  return Error::invalid(
      fmt::format("{}:{}: {}: {}", place_, lines_[target], targets_[target]->type().name, text));
}

// As the kernel: a device of size 0 (one without a table yet) is taken as it is.
Status Table::check_ranges() const {
  Status result;
  for (size_t i = 0; i < targets_.size(); ++i) {
    targets_[i]->for_each_range([&](BlockDevice& device, uint64_t offset, uint64_t length) {
      const uint64_t size = device.size();
      if (!result || size == 0 || range_within(offset, length, size)) return;
      result = fail(at(i, fmt::format("device \"{}\": too small: {} sectors from sector {} on, "
                                      "but it has {}",
                                      device.name(), length / sector_size, offset / sector_size,
                                      size / sector_size)));
    });
  }
  return result;
}

// A request that respects the table's logical block must, cut at the borders of the rows, give
// pieces that respect those of the devices below; the kernel has the same rule.
Status Table::check_blocks() const {
  const uint64_t block = limits_.logical_block;
  if (block <= sector_size) return {};
  uint64_t hanging = 0;  // how much of a block that began in an earlier row is still to come
  for (size_t i = 0; i < targets_.size(); ++i) {
    const Target& target = *targets_[i];
    const uint64_t own = target.logical_block();
    if (hanging < target.size() && hanging % own != 0)
      return fail(at(i, fmt::format("starts at sector {}: not aligned to the logical block of {} "
                                    "bytes of what is below",
                                    target.start() / sector_size, own)));
    const uint64_t over = ends_[i] % block;
    hanging = over == 0 ? 0 : block - over;
    Status result;
    target.for_each_range([&](BlockDevice& device, uint64_t offset, uint64_t length) {
      const uint64_t least = device.logical_block();
      if (!result || (offset % least == 0 && length % least == 0)) return;
      result = fail(
          at(i, fmt::format("device \"{}\": {} sectors from sector {} on: not aligned "
                            "to its logical block of {} bytes",
                            device.name(), length / sector_size, offset / sector_size, least)));
    });
    VOLFS_TRY(std::move(result));
  }
  if (hanging != 0)
    return fail(at(targets_.size() - 1,
                   fmt::format("the table ends at sector {}: not aligned to the logical block of "
                               "{} bytes",
                               size() / sector_size, block)));
  return {};
}

void Table::collect_below() {
  std::unordered_set<BlockDevice*> seen, flushed;
  for (const auto& target : targets_) {
    target->for_each_below([&](BlockDevice& device) {
      if (seen.insert(&device).second) below_.push_back(&device);
      if (target->flush_is_plain() && flushed.insert(&device).second) to_flush_.push_back(&device);
    });
    if (!target->flush_is_plain()) to_flush_.push_back(target.get());
  }
}

size_t Table::find(uint64_t offset) const {
  return static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin());
}

std::string Table::table_text() const {
  std::string out;
  for (const auto& target : targets_)
    out += fmt::format("{} {} {} {}\n", target->start() / sector_size, target->size() / sector_size,
                       target->type().name, target->table_params());
  return out;
}

std::string Table::status_text() const {
  std::string out;
  for (const auto& target : targets_)
    out += fmt::format("{} {} {} {}\n", target->start() / sector_size, target->size() / sector_size,
                       target->type().name, target->status_params());
  return out;
}

}  // namespace volfs::dm
