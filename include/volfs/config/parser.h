// SPDX-License-Identifier: GPL-2.0-or-later
// YAML text -> Definition. No I/O: nothing is opened, no name is looked up on the system.
// Thread-safe (no state), bounded in time and memory for any input.
#pragma once

#include <cstddef>
#include <expected>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"

namespace volfs::config {

inline constexpr size_t max_definition_size = 8 * MiB;
// Levels of maps and lists in the YAML text.
inline constexpr size_t max_yaml_depth = 16;
// Values in the text, those behind aliases counted each time they are used.
inline constexpr size_t max_yaml_nodes = 2'000'000;

// What room dm tells about a table's text. Rows count from 0, columns (bytes) too.
struct TableScan {
  struct Reference {
    std::string name;
    size_t row = 0;
  };
  struct Problem {
    size_t row = 0;
    size_t column = 0;
    std::string found;
    std::string expected;  // empty: FOUND says it all
  };
  std::vector<Reference> references;  // the devices it names
  std::vector<Problem> problems;      // what is wrong with its grammar
};
using TableScanner = std::function<TableScan(std::string_view table)>;

// Parses TEXT; FILE_NAME is only for messages. The error holds everything that is wrong, in the
// order of the file. Without SCAN_TABLE the tables of maps are kept unread, so that devices
// that only a table names are neither known to exist nor part of cycles.
std::expected<Definition, Diagnostics> parse(std::string_view text, std::string_view file_name,
                                             const TableScanner& scan_table = {});

}  // namespace volfs::config
