// SPDX-License-Identifier: GPL-2.0-or-later
// Device-mapper tables as text, the way dmsetup reads and writes them. One row a line:
//
//   <start sector> <number of sectors> <target type> [<argument>]...
//
// Blank lines and lines that start with '#' say nothing; a '#' among the arguments begins a
// comment. Arguments are separated by blanks; a backslash takes the next character as it is, so
// a name with a blank is written "my\ disk" (the kernel's splitter; unlike dmsetup, which cuts
// the line first, "\#" is a '#'). Rows follow each other from sector 0 on without gap or overlap.
// Checked against dmsetup 1.02.185 on Linux 7.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"

namespace volfs::dm {

// The most rows the kernel takes, and bounds of our own on the rest.
inline constexpr size_t max_table_rows = 1048576;
inline constexpr size_t max_table_text = 64 << 20;
inline constexpr size_t max_row_args = 65536;

struct TableRow {
  uint64_t start = 0;   // bytes
  uint64_t length = 0;  // bytes, not 0
  std::string type;
  std::vector<std::string> args;  // unescaped
  unsigned line = 0;              // where it stands, for messages: 1 is the first
};

// Pure. Types and arguments are not looked at: load() does that. The error is EINVAL and begins
// with "PLACE:LINE: "; FIRST_LINE is the number of the text's first line there.
Result<std::vector<TableRow>> parse_table(std::string_view text, std::string_view place = "table",
                                          unsigned first_line = 1);

// Rows made by a program rather than read: the same rules on order and size. PLACE as above.
Status check_rows(std::span<const TableRow> rows, std::string_view place = "table");

// Writes rows as parse_table reads them, one a line, each ended by a newline.
std::string format_table(std::span<const TableRow> rows);

// A word of a row with all escaped that needs it.
std::string escape_word(std::string_view word);

// Cuts a message into words as the arguments of a row are ('#' has no meaning). EINVAL if it is
// empty or longer than a row may be.
Result<std::vector<std::string>> split_message(std::string_view text);

// What a table refers to, without opening anything.
struct DeviceUse {
  std::string name;
  unsigned line = 0;
  bool operator==(const DeviceUse&) const = default;
};
// In the order of the table, a device as often as it is named. Rows whose type is unknown or
// whose arguments are too few give what they can; load() refuses them.
std::vector<DeviceUse> devices_of(std::span<const TableRow> rows);

// What is wrong with rows whatever their devices are: types that there are not, and arguments.
// Opens nothing. LINE as in TableRow; a text says what was expected.
struct RowProblem {
  unsigned line = 0;
  std::string text;
};
std::vector<RowProblem> check_targets(std::span<const TableRow> rows);

}  // namespace volfs::dm
