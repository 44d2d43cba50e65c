// SPDX-License-Identifier: GPL-2.0-or-later
// Maps: device-mapper tables of a definition.
#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "assembler.h"
#include "snapshot_parts.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/table.h"

namespace volfs::engine {
namespace {

// "table:3: what" -> row 2 of the map, "what". A message of another form belongs to the name.
std::pair<config::Position, std::string> place_of(const config::Map& map, std::string text) {
  constexpr std::string_view prefix = "table:";
  if (!text.starts_with(prefix)) return {map.name.at, std::move(text)};
  size_t line = 0;
  const char* begin = text.data() + prefix.size();
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), line);
  const auto after = static_cast<size_t>(end - text.data());
  if (error != std::errc{} || line == 0 || line > map.rows.size() ||
      text.compare(after, 2, ": ") != 0)
    return {map.name.at, std::move(text)};
  return {map.rows[line - 1].at, text.substr(after + 2)};
}

}  // namespace

// A merge begins with the resume of its table; it must not before the whole definition stands: the
// origin's other snapshots have their copies then, and a mount that fails has changed nothing.
// Until then there is the snapshot, whose contents are the same.
Status Assembler::hold_merge(const config::Map& map, dm::MappedDevice& mapped,
                             std::vector<dm::TableRow> rows) {
  const std::vector<dm::TableRow> merge = rows;
  rows.front().type = "snapshot";
  VOLFS_TRY(mapped.load(rows, resolver(), load_options(false)));
  VOLFS_TRY(mapped.resume());
  SnapshotState state;
  read_status(mapped, state);
  if (state.state == "invalid")  // there is nothing to merge: it is the origin
    return mapped.load(merge, resolver(), load_options(false));
  held_merges_.push_back({&map, &mapped, merge});
  return {};
}

void Assembler::start_held_merges() {
  for (const HeldMerge& held : std::exchange(held_merges_, {})) {
    Status started = held.mapped->load(held.rows, resolver(), load_options(false));
    if (started) started = held.mapped->resume();
    if (!started)
      report(held.map->name.at,
             fmt::format("{}: {}", held.map->name.value, started.error().text()));
  }
}

void Assembler::build(const config::Map& map) {
  // What failed to build below has its own report; saying it twice helps nobody.
  bool told = false;
  const auto refuse = [&](const Error& error) {
    if (told) return;
    const auto [at, text] = place_of(map, error.text());
    report(at, fmt::format("{}: {}", map.name.value, text));
  };
  const auto rows = dm::parse_table(map.table());
  if (!rows) return refuse(rows.error());
  auto owned = std::make_unique<dm::MappedDevice>(own_name(map.name.value, Kind::map),
                                                  map.uuid ? map.uuid->value : "");
  dm::MappedDevice& mapped = *owned;
  const auto resolve = [&, find = resolver()](std::string_view name) {
    auto found = find(name);
    if (!found) told = has_problems();
    return found;
  };
  const bool read_only = engine_->read_only() || map.readonly.value;
  if (auto loaded = mapped.load(*rows, resolve, load_options(read_only)); !loaded)
    return refuse(loaded.error());
  if (!read_only && rows->size() == 1 && rows->front().type == "snapshot-merge") {
    if (auto held = hold_merge(map, mapped, *rows); !held) return refuse(held.error());
  }
  if (auto resumed = mapped.resume(); !resumed) return refuse(resumed.error());
  Node* const node = add(map.name, Kind::map, std::move(owned), map.hidden.value);
  if (!node) return;
  if (is_origin(map.name.value)) engine_->snapshots_->adopt(mapped);
  node->read_only_wanted = map.readonly.value;
  if (map.uuid) node->uuid = map.uuid->value;
}

}  // namespace volfs::engine
