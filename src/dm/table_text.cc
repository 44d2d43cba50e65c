// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "volfs/dm/table.h"
#include "volfs/dm/target.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

constexpr uint64_t max_sectors = max_device_size / sector_size;

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f' || c == '\n';
}

Error at(std::string_view place, unsigned line, std::string text) {
  return Error::invalid(fmt::format("{}:{}: {}", place, line, text));
}

// Cuts a line into words; false if there are too many. What STOPS says ends the line.
template <class Stops>
bool split_words(std::string_view line, std::vector<std::string>& words, Stops stops) {
  size_t i = 0;
  while (true) {
    while (i < line.size() && is_blank(line[i])) ++i;
    if (i == line.size() || stops(line[i])) return true;
    if (words.size() == max_row_args + 3) return false;
    std::string& word = words.emplace_back();
    for (; i < line.size() && !is_blank(line[i]) && !stops(line[i]); ++i) {
      if (line[i] == '\\' && i + 1 < line.size()) ++i;
      word += line[i];
    }
  }
}

Result<uint64_t> sectors(std::string_view what, const std::string& word) {
  const auto value = parse_u64(word.starts_with('+') ? word.substr(1) : word);
  if (!value)
    return fail_invalid(
        fmt::format("{} \"{}\": expected a decimal number of 512-byte sectors", what, word));
  if (*value > max_sectors)
    return fail_invalid(fmt::format("{} {}: expected at most {}", what, word, max_sectors));
  return *value * sector_size;
}

Result<TableRow> parse_row(std::vector<std::string> words) {
  if (words.size() < 3)
    return fail_invalid(fmt::format(
        "{} of the words of a row: expected \"<start sector> <sectors> <target type> ...\"",
        words.size() == 1 ? "only one" : "only two"));
  TableRow row;
  VOLFS_TRY_ASSIGN(row.start, sectors("start sector", words[0]));
  VOLFS_TRY_ASSIGN(row.length, sectors("number of sectors", words[1]));
  row.type = std::move(words[2]);
  words.erase(words.begin(), words.begin() + 3);
  row.args = std::move(words);
  return row;
}

// Whether ROW may follow what ends at END.
Status check_place(const TableRow& row, uint64_t end) {
  if (row.length == 0) return fail_invalid("a row of 0 sectors: expected at least 1");
  if (row.start % sector_size != 0 || row.length % sector_size != 0)
    return fail_invalid("a row that is not whole sectors");
  if (row.start != end) {
    const char* what = row.start > end ? "gap" : "overlap";
    const char* before = end == 0 ? "where a table begins" : "where the row before it ends";
    return fail_invalid(fmt::format("{} in the table: starts at sector {}, expected {}, {}", what,
                                    row.start / sector_size, end / sector_size, before));
  }
  if (row.start > max_device_size || row.length > max_device_size - row.start)
    return fail_invalid(fmt::format("ends beyond the largest device of {} sectors", max_sectors));
  if (row.args.size() > max_row_args)
    return fail_invalid(fmt::format("more than {} arguments", max_row_args));
  return {};
}

}  // namespace

Result<std::vector<TableRow>> parse_table(std::string_view text, std::string_view place,
                                          unsigned first_line) {
  if (text.size() > max_table_text)
    return fail_invalid(fmt::format("{}: {} bytes of text: expected at most {}", place, text.size(),
                                    max_table_text));
  std::vector<TableRow> rows;
  unsigned line = first_line;
  for (size_t begin = 0; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view current = text.substr(begin, end - begin);
    begin = end + 1;
    if (current.find('\0') != std::string_view::npos)
      return fail(at(place, line, "a zero byte: expected text"));
    std::vector<std::string> words;
    if (!split_words(current, words, [](char c) { return c == '#'; }))
      return fail(at(place, line, fmt::format("more than {} arguments", max_row_args)));
    if (words.empty()) continue;
    if (rows.size() == max_table_rows)
      return fail(at(place, line, fmt::format("more than {} rows", max_table_rows)));
    auto row = parse_row(std::move(words));
    if (!row) return fail(at(place, line, row.error().text()));
    row->line = line;
    const uint64_t expected = rows.empty() ? 0 : rows.back().start + rows.back().length;
    if (auto placed = check_place(*row, expected); !placed)
      return fail(at(place, line, placed.error().text()));
    rows.push_back(std::move(*row));
  }
  if (rows.empty()) return fail_invalid(fmt::format("{}: no rows: expected at least one", place));
  return rows;
}

Status check_rows(std::span<const TableRow> rows, std::string_view place) {
  if (rows.empty()) return fail_invalid(fmt::format("{}: no rows: expected at least one", place));
  if (rows.size() > max_table_rows)
    return fail_invalid(fmt::format("{}: more than {} rows", place, max_table_rows));
  uint64_t end = 0;
  for (const TableRow& row : rows) {
    if (auto placed = check_place(row, end); !placed)
      return fail(at(place, row.line, placed.error().text()));
    end = row.start + row.length;
  }
  return {};
}

Result<std::vector<std::string>> split_message(std::string_view text) {
  std::vector<std::string> words;
  if (text.size() > max_table_text || !split_words(text, words, [](char) { return false; }))
    return fail_invalid(fmt::format("message: expected at most {} words", max_row_args));
  if (words.empty()) return fail_invalid("message: empty: expected a word");
  return words;
}

std::string escape_word(std::string_view word) {
  std::string out;
  for (const char c : word) {
    if (is_blank(c) || c == '\\' || c == '#') out += '\\';
    out += c;
  }
  return out;
}

std::string format_table(std::span<const TableRow> rows) {
  std::string out;
  for (const TableRow& row : rows) {
    out += fmt::format("{} {} {}", row.start / sector_size, row.length / sector_size,
                       escape_word(row.type));
    for (const std::string& arg : row.args) out += ' ' + escape_word(arg);
    out += '\n';
  }
  return out;
}

std::vector<DeviceUse> devices_of(std::span<const TableRow> rows) {
  std::vector<DeviceUse> uses;
  for (const TableRow& row : rows) {
    const TargetType* type = find_target_type(row.type);
    if (!type) continue;
    for (const size_t i : type->device_args(row.args))
      if (i < row.args.size()) uses.push_back({row.args[i], row.line});
  }
  return uses;
}

}  // namespace volfs::dm
