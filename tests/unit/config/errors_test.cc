// SPDX-License-Identifier: GPL-2.0-or-later
// Bad definitions and everything that is told of each: bad_definitions.txt.
#include <doctest/doctest.h>

#include <fstream>
#include <sstream>

#include "table_words.h"
#include "volfs/config/parser.h"

using namespace volfs::config;

namespace {

struct Case {
  std::string title, text, messages;
};

std::vector<Case> read_cases() {
  std::ifstream in(CONFIG_TEST_DIR "/bad_definitions.txt");
  REQUIRE(in.good());
  std::vector<Case> cases;
  bool in_text = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("=== ")) {
      cases.push_back({line.substr(4), "", ""});
      in_text = true;
    } else if (line == ">>>") {
      in_text = false;
    } else if (!cases.empty() && in_text) {
      cases.back().text += line + '\n';
    } else if (!cases.empty() && !line.empty()) {
      cases.back().messages += "bad.yaml:" + line + '\n';
    }
  }
  return cases;
}

}  // namespace

TEST_CASE("every bad definition is told with all its mistakes and their places") {
  const std::vector<Case> cases = read_cases();
  CHECK(cases.size() >= 160);
  for (const Case& bad : cases) {
    CAPTURE(bad.title);
    const auto definition = parse(bad.text, "bad.yaml", scan_words);
    CHECK(!bad.messages.empty());
    REQUIRE(!definition);
    CHECK(definition.error().to_string() == bad.messages);
    CHECK(definition.error().file_name() == "bad.yaml");
  }
}

TEST_CASE("every message says what was found and what was expected") {
  for (const Case& bad : read_cases()) {
    const auto definition = parse(bad.text, "bad.yaml", scan_words);
    REQUIRE(!definition);
    for (const Diagnostic& entry : definition.error().entries()) {
      CAPTURE(entry.text);
      CHECK(entry.at.given());
      CHECK(entry.at.column >= 1);
      CHECK(entry.text.find("; expected ") != std::string::npos);
    }
  }
}
