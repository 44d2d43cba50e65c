// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include "fixture.h"
#include "support/random.h"

namespace volfs::test {
namespace {

using dm::parse_table;

std::string error_of(std::string_view text) {
  const auto rows = parse_table(text);
  return rows ? "accepted" : rows.error().text();
}

TEST_CASE("rows keep their lines, comments and blank lines say nothing") {
  const auto rows =
      parse_table("# head\n\n0 8 zero # tail\r\n \t \n8\t16  linear a\\ b\\#\\\\ 7\n");
  REQUIRE(rows);
  REQUIRE(rows->size() == 2);
  CHECK((*rows)[0].line == 3);
  CHECK((*rows)[0].args.empty());
  CHECK((*rows)[1].line == 5);
  CHECK((*rows)[1].start == 8 * sector_size);
  CHECK((*rows)[1].length == 16 * sector_size);
  CHECK((*rows)[1].args == std::vector<std::string>{"a b#\\", "7"});
  CHECK(dm::format_table(*rows) == "0 8 zero\n8 16 linear a\\ b\\#\\\\ 7\n");
}

TEST_CASE("an error names the line, what is there and what was expected") {
  CHECK(error_of("") == "table: no rows: expected at least one");
  CHECK(error_of("# nothing\n") == "table: no rows: expected at least one");
  CHECK(error_of("0 8 zero\n9 8 zero\n") ==
        "table:2: gap in the table: starts at sector 9, expected 8, where the row before it ends");
  CHECK(error_of("0 8 zero\n\n7 8 zero\n") ==
        "table:3: overlap in the table: starts at sector 7, expected 8, where the row before it "
        "ends");
  CHECK(error_of("1 8 zero") ==
        "table:1: gap in the table: starts at sector 1, expected 0, where a table begins");
  CHECK(error_of("0 0 zero") == "table:1: a row of 0 sectors: expected at least 1");
  CHECK(error_of("0 8") ==
        "table:1: only two of the words of a row: expected \"<start sector> <sectors> <target "
        "type> ...\"");
  CHECK(error_of("0 8x zero") ==
        "table:1: number of sectors \"8x\": expected a decimal number of 512-byte sectors");
  CHECK(error_of("0 18014398509481984 zero") ==
        "table:1: number of sectors 18014398509481984: expected at most 18014398509481983");
  CHECK(error_of("0 18014398509481983 zero\n18014398509481983 1 zero") ==
        "table:2: ends beyond the largest device of 18014398509481983 sectors");
  CHECK(error_of(std::string_view("0 8 zero \0", 10)) == "table:1: a zero byte: expected text");
  const auto placed = parse_table("\nx", "lab.yaml", 41);
  REQUIRE(!placed);
  CHECK(placed.error().text().starts_with("lab.yaml:42: only one of"));
  CHECK(placed.error().code() == EINVAL);
}

TEST_CASE("counts are bounded") {
  std::string many = "0 8 error";
  for (size_t i = 0; i <= dm::max_row_args; ++i) many += " a";
  CHECK(error_of(many) == "table:1: more than 65536 arguments");
  CHECK(error_of(std::string(dm::max_table_text + 1, '\n')).ends_with("expected at most 67108864"));
}

TEST_CASE("devices_of lists the devices that a table names") {
  const auto rows = parse_table(
      "0 16 striped 2 8 a 0 b 0\n16 8 zero\n24 8 linear c 5\n32 8 delay a 0 1 d 0 2\n"
      "40 8 unstriped 2 8 0 e 0\n48 8 flakey f 0 1 1\n56 8 dust g 0 512\n64 8 linear\n"
      "72 8 nosuch x\n80 8 error a b\n88 8 striped 9 9 x\n");
  REQUIRE(rows);
  const std::vector<dm::DeviceUse> expected = {{"a", 1}, {"b", 1}, {"c", 3}, {"a", 4}, {"d", 4},
                                               {"e", 5}, {"f", 6}, {"g", 7}, {"x", 11}};
  CHECK(dm::devices_of(*rows) == expected);
}

TEST_CASE("random text never makes more than an error, and what is accepted reads back") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  const std::vector<std::string> words = {"0",
                                          "8",
                                          "16",
                                          " ",
                                          "\n",
                                          "#",
                                          "\\",
                                          "\t",
                                          "zero",
                                          "linear",
                                          "disk0",
                                          "-1",
                                          "99999999999999",
                                          "8 ",
                                          "\n8 ",
                                          "0 8 ",
                                          "zero\n",
                                          "\0"};
  for (uint64_t i = 0; i < test_iterations(3000); ++i) {
    std::string text = "0 8 ";
    for (uint64_t n = random.below(20); n > 0; --n) text += words[random.below(words.size())];
    const auto rows = parse_table(text);
    if (!rows) {
      CHECK(rows.error().text().starts_with("table:"));
      continue;
    }
    CAPTURE(text);
    const auto again = parse_table(dm::format_table(*rows));
    REQUIRE(again);
    CHECK(dm::format_table(*again) == dm::format_table(*rows));
  }
}

TEST_CASE("a message is cut into words as a row is") {
  const auto words = dm::split_message("  addbadblock\t6 a\\ b # ");
  REQUIRE(words);
  CHECK(*words == std::vector<std::string>{"addbadblock", "6", "a b", "#"});
  CHECK(!dm::split_message("  "));
}

}  // namespace
}  // namespace volfs::test
