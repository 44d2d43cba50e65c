// SPDX-License-Identifier: GPL-2.0-or-later
// Sections `snapshots` and `maps`.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "names.h"
#include "sections.h"

namespace volfs::config {
namespace {

constexpr std::array<std::string_view, 9> snapshot_keys{"origin",
                                                        "cow",
                                                        "chunk_size",
                                                        "persistent",
                                                        "overflow",
                                                        "discard_zeroes_cow",
                                                        "discard_passdown_origin",
                                                        "readonly",
                                                        "hidden"};
constexpr std::array<std::string_view, 2> cow_keys{"path", "size"};
constexpr std::array<std::string_view, 4> map_keys{"table", "readonly", "uuid", "hidden"};

void read_cow(MapReader& reader, Snapshot& snapshot) {
  constexpr std::string_view expected = "a device's name, or a map with path and size";
  const Node* node = reader.require("cow", fmt::format("'cow:' and {}", expected));
  if (node == nullptr) return;
  if (node->kind == Node::Kind::map) {
    MapReader file(reader.context(), *node, fmt::format("'cow' of {}", reader.owner()), cow_keys);
    Image image;
    file.require("path", "'path: FILE'");
    file.read("path", image.path, "the path of a file or block device");
    file.read("size", image.size, SizeRule{});
    snapshot.cow_image = std::move(image);
  } else if (node->kind == Node::Kind::scalar && !node->text.empty()) {
    snapshot.cow_device = {node->text, node->at};
  } else {
    reader.report("cow", *node, expected);
  }
}

void read_snapshot(Context& context, const Node& node, Snapshot& snapshot) {
  MapReader reader(context, node, fmt::format("snapshot {}", quote(snapshot.name.value)),
                   snapshot_keys);
  if (!reader.is_map()) return;
  reader.require("origin", "'origin:' and a device's name");
  reader.read("origin", snapshot.origin, "a device's name");
  read_cow(reader, snapshot);
  const SizeRule chunk_rule{.least = 4 * KiB, .most = 512 * KiB, .power_of_two = true};
  reader.read("chunk_size", snapshot.chunk_size, chunk_rule);
  reader.read("persistent", snapshot.persistent);
  reader.read("overflow", snapshot.overflow);
  if (snapshot.overflow.value && !snapshot.persistent.value)
    reader.forbid("overflow", "'persistent: false'", "'persistent: true'");
  reader.read("discard_zeroes_cow", snapshot.discard_zeroes_cow);
  reader.read("discard_passdown_origin", snapshot.discard_passdown_origin);
  if (snapshot.discard_passdown_origin.value && !snapshot.discard_zeroes_cow.value)
    reader.forbid("discard_passdown_origin", "no 'discard_zeroes_cow'",
                  "'discard_zeroes_cow: true' too");
  reader.read("readonly", snapshot.readonly);
  reader.read("hidden", snapshot.hidden);
}

// Splits TEXT, which NODE holds, into rows, each with the place where it stands. In a block
// scalar ('|') row N is the Nth line below; in a quoted or plain one the rows follow each other on
// the node's line. A row that is written otherwise (escapes, a folded text) has the node's place.
void add_rows(Context& context, const Node& node, std::vector<Text>& rows) {
  std::string_view rest = node.text;
  const std::string_view own = context.source.line(node.at.line - 1);
  size_t from = node.at.column - 1;
  for (size_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view row = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    Position at = node.at;
    const size_t below = node.at.line - 1 + number;
    if (const size_t column = own.find(row, from); column != std::string_view::npos) {
      at = context.source.position(node.at.line - 1, column);
      from = column + row.size();
    } else if (const size_t indent = context.source.line(below).find(row);
               indent != std::string_view::npos) {
      at = context.source.position(below, indent);
    }
    rows.push_back({std::string(row), at});
  }
}

bool is_blank(const Text& row) {
  const size_t first = row.value.find_first_not_of(" \t");
  return first == std::string::npos || row.value[first] == '#';
}

// Where in ROW the word NAME begins, as bytes; 0 if it is not there as a word.
size_t column_of(std::string_view row, std::string_view name) {
  constexpr std::string_view blanks = " \t";
  for (size_t from = row.find(name); from != std::string_view::npos;
       from = row.find(name, from + 1)) {
    const size_t end = from + name.size();
    const bool begins = from == 0 || blanks.find(row[from - 1]) != std::string_view::npos;
    const bool ends = end == row.size() || blanks.find(row[end]) != std::string_view::npos;
    if (begins && ends) return from;
  }
  return 0;
}

// Byte COLUMN of ROW; the row's own place if it is not written there as it is.
Position within(const Source& source, const Text& row, size_t column) {
  const size_t number = row.at.line - 1;
  const std::string_view line = source.line(number);
  for (size_t begin = line.find(row.value); begin != std::string_view::npos;
       begin = line.find(row.value, begin + 1))
    if (source.position(number, begin).column == row.at.column)
      return source.position(number, begin + column);
  return row.at;
}

void scan_table(Context& context, Map& map) {
  if (!context.scan_table) return;
  const TableScan scan = context.scan_table(map.table());
  for (const TableScan::Problem& problem : scan.problems) {
    if (problem.row >= map.rows.size()) continue;
    const Text& row = map.rows[problem.row];
    context.report(within(context.source, row, std::min(problem.column, row.value.size())),
                   problem.found, problem.expected);
  }
  for (const TableScan::Reference& reference : scan.references) {
    if (reference.row >= map.rows.size()) continue;
    const Text& row = map.rows[reference.row];
    map.devices.push_back(
        {reference.name, within(context.source, row, column_of(row.value, reference.name))});
  }
}

void read_table(MapReader& reader, Map& map) {
  constexpr std::string_view expected = "a table's text, or a list of its rows";
  const Node* node = reader.require("table", "'table: |' and its rows below");
  if (node == nullptr) return;
  if (node->kind == Node::Kind::scalar) {
    add_rows(reader.context(), *node, map.rows);
  } else if (node->kind == Node::Kind::list) {
    for (const Node* item : node->items) {
      if (item->kind == Node::Kind::scalar)
        add_rows(reader.context(), *item, map.rows);
      else
        reader.context().report(
            item->at, fmt::format("a row of 'table' of {} is {}", reader.owner(), item->describe()),
            "START LENGTH TARGET ARGUMENTS...");
    }
  } else {
    reader.report("table", *node, expected);
    return;
  }
  if (std::all_of(map.rows.begin(), map.rows.end(), is_blank))
    reader.context().report(node->at, fmt::format("'table' of {} has no row", reader.owner()),
                            "START LENGTH TARGET ARGUMENTS...");
  else
    scan_table(reader.context(), map);
}

void read_map(Context& context, const Node& node, Map& map) {
  MapReader reader(context, node, fmt::format("map {}", quote(map.name.value)), map_keys);
  if (!reader.is_map()) return;
  read_table(reader, map);
  reader.read("readonly", map.readonly);
  reader.read("hidden", map.hidden);
  reader.read("uuid", map.uuid, "a text");
  if (!map.uuid) return;
  if (const auto expected = bad_map_uuid(map.uuid->value))
    context.report(map.uuid->at,
                   fmt::format("'uuid' of {} is {}", reader.owner(), quote(map.uuid->value)),
                   *expected);
}

}  // namespace

std::string Map::table() const {
  std::string text;
  for (const Text& row : rows) text += row.value + '\n';
  return text;
}

void read_snapshots(Context& context, const Node& section, Names& names, Definition& out) {
  for_each_entry(context, section, "'snapshots'", "a map from names to snapshots",
                 [&](const Node& key, const Node& value) {
                   names.add(context, key, {DeviceKind::snapshot, out.snapshots.size()});
                   Snapshot& snapshot = out.snapshots.emplace_back();
                   snapshot.name = {key.text, key.at};
                   read_snapshot(context, value, snapshot);
                 });
}

void read_maps(Context& context, const Node& section, Names& names, Definition& out) {
  for_each_entry(context, section, "'maps'", "a map from names to maps",
                 [&](const Node& key, const Node& value) {
                   names.add(context, key, {DeviceKind::map, out.maps.size()});
                   Map& map = out.maps.emplace_back();
                   map.name = {key.text, key.at};
                   read_map(context, value, map);
                 });
}

}  // namespace volfs::config
