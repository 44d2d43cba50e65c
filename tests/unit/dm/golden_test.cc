// SPDX-License-Identifier: GPL-2.0-or-later
// Compares with what a real kernel said to the same tables: tests/golden/dm/kernel.txt, made by
// make-golden.sh there.
#include <fstream>
#include <set>

#include "fixture.h"

namespace volfs::test {
namespace {

struct Case {
  std::string text;
  bool refused = false;
  std::string table, status;
};

std::vector<Case> read_cases() {
  std::ifstream file(VOLFS_GOLDEN_DM "/kernel.txt");
  std::vector<Case> cases;
  const auto quoted = [](const std::string& line) {
    const size_t begin = line.find('|') + 1;
    return line.substr(begin, line.rfind('|') - begin) + "\n";
  };
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) continue;
    if (line.starts_with("case ")) cases.push_back({.text = line.substr(5)});
    if (line == "refused") cases.back().refused = true;
    if (line.starts_with("table ")) cases.back().table += quoted(line);
    if (line.starts_with("status ")) cases.back().status += quoted(line);
  }
  return cases;
}

// Where we differ on purpose: we refuse what the kernel or dmsetup takes for something else.
const std::set<std::string> refused_by_us = {
    "# only a comment",                    // dmsetup makes a device without a table
    "-0 1000 zero",                        // minus zero
    "0 1000 delay disk0 0 4294967296",     // the kernel takes it for 0
    "0 1000 flakey disk0 0 4294967296 5",  // the same
};

TEST_CASE("tables are accepted, printed and refused as a real kernel does") {
  const auto cases = read_cases();
  CHECK(cases.size() >= 170);
  size_t accepted = 0;
  for (const Case& each : cases) {
    CAPTURE(each.text);
    std::string text = each.text;
    std::replace(text.begin(), text.end(), ';', '\n');
    Lab lab(4, 131072 * sector_size);
    dm::MappedDevice map("golden");
    const std::string error = lab.set(map, text);
    CAPTURE(error);
    if (each.refused || refused_by_us.contains(each.text)) {
      CHECK(error.starts_with("table:"));
      CHECK(error.find("expected") + error.find("too small") + error.find("such device") +
                error.find("given twice") + error.find("ends beyond") !=
            5 * std::string::npos);
      continue;
    }
    ++accepted;
    CHECK(error == "");
    CHECK(map.table() == each.table);
    CHECK(map.status() == each.status);
    // What is printed makes the same table again.
    dm::MappedDevice again("again");
    CHECK(lab.set(again, map.table()) == "");
    CHECK(again.table() == each.table);
  }
  CHECK(accepted >= 70);
}

}  // namespace
}  // namespace volfs::test
