// SPDX-License-Identifier: GPL-2.0-or-later
// Stands in for room dm: finds the devices of the few targets these tests use.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "volfs/config/parser.h"

inline volfs::config::TableScan scan_words(std::string_view table) {
  volfs::config::TableScan scan;
  std::istringstream lines{std::string(table)};
  std::string line;
  for (size_t row = 0; std::getline(lines, line); ++row) {
    std::istringstream in(line);
    std::vector<std::string> words;
    for (std::string word; in >> word;) words.push_back(word);
    if (words.empty() || words[0][0] == '#') continue;
    if (words.size() < 3) {
      scan.problems.push_back({row, 0, "'" + line + "'", "START LENGTH TARGET ARGUMENTS..."});
      continue;
    }
    const bool striped = words[2] == "striped";
    if (words[2] == "linear" || striped)
      for (size_t i = striped ? 5 : 3; i < words.size(); i += 2)
        scan.references.push_back({words[i], row});
    if (words[2].starts_with("snapshot"))
      for (size_t i = 3; i < words.size() && i < (words[2] == "snapshot-origin" ? 4 : 5); ++i)
        scan.references.push_back({words[i], row});
  }
  return scan;
}
