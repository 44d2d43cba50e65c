// SPDX-License-Identifier: GPL-2.0-or-later
// Texts that mean harm, or are noise: always an answer, and soon.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>

#include "table_words.h"
#include "volfs/config/parser.h"

using namespace volfs::config;

namespace {

std::string first_message(std::string_view text) {
  const auto definition = parse(text, "bad.yaml", scan_words);
  if (definition) return "";
  return definition.error().line(definition.error().entries().front());
}

std::string repeat(const std::string& text, size_t count) {
  std::string all;
  for (size_t i = 0; i < count; ++i) all += text;
  return all;
}

std::string example() {
  std::ifstream in(CONFIG_TEST_DIR "/example.yaml");
  REQUIRE(in.good());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

uint64_t number_from(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// Whatever the text: a definition, or errors that each have a place and both halves.
void check_answer(const std::string& text) {
  const auto definition = parse(text, "mutated.yaml", scan_words);
  if (definition) return;
  const auto& entries = definition.error().entries();
  REQUIRE(!entries.empty());
  Position before;
  for (const Diagnostic& entry : entries) {
    if (!entry.at.given() || entry.at < before ||
        entry.text.find("; expected ") == std::string::npos) {
      CAPTURE(text);
      FAIL("bad diagnostic: " << definition.error().line(entry));
    }
    before = entry.at;
  }
}

}  // namespace

TEST_CASE("bytes that are no text are told with their place") {
  using namespace std::string_view_literals;
  CHECK(first_message("volfs: 1\nimages: {a: x\0y}\n"sv) ==
        "bad.yaml:2:14: control character 0x00 (NUL); expected YAML text in UTF-8");
  CHECK(first_message("volfs: 1\n\x01\n") ==
        "bad.yaml:2:1: control character 0x01; expected YAML text in UTF-8");
  CHECK(first_message("volfs: 1\rimages:\n") ==
        "bad.yaml:1:9: control character 0x0d; expected YAML text in UTF-8");
  CHECK(first_message("volfs: 1\nx-\xc3\xa4: \xff\n") ==
        "bad.yaml:2:6: byte 0xff; expected YAML text in UTF-8");
  for (const char* bad : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"})
    CHECK(first_message(std::string("volfs: 1\n# ") + bad).find("bad.yaml:2:3: byte 0x") == 0);
  CHECK(first_message("\xff\xfev\0o\0"sv) ==
        "bad.yaml:1:1: byte 0xff; expected YAML text in UTF-8");
}

TEST_CASE("a byte order mark is skipped and does not shift columns") {
  CHECK(first_message("\xEF\xBB\xBFvolfs: 2\n").find("bad.yaml:1:8: ") == 0);
  CHECK(first_message("\xEF\xBB\xBF") ==
        "bad.yaml:1:1: an empty file; expected 'volfs: 1', the version of the format");
}

TEST_CASE("columns count characters, not bytes") {
  CHECK(first_message("volfs: 1\nimages: {a: \"\xc3\xa4\xe2\x82\xac\", b: [x]}\n")
            .find("bad.yaml:2:22: ") == 0);
}

TEST_CASE("Windows line ends change no place") {
  CHECK(
      first_message("volfs: 1\r\nimages:\r\n  a: {path: x, size: 5}\r\n") ==
      "bad.yaml:3:22: 'size' of image 'a' is '5'; expected a multiple of 512 bytes, at least 512");
}

TEST_CASE("a file that is too large is not read") {
  CHECK(first_message(std::string(max_definition_size + 1, '#')) ==
        "bad.yaml:1:1: a file of 8388609 bytes; expected at most 8MiB");
}

TEST_CASE("an alias bomb does not go off") {
  std::string bomb = "volfs: 1\nx-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    const std::string below = "*a" + std::to_string(i - 1);
    bomb += "x-a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + below +
            repeat(", " + below, 9) + "]\n";
  }
  CHECK(
      first_message(bomb).find(
          ": too many values (aliases count each time they are used); expected at most 2000000") !=
      std::string::npos);
}

TEST_CASE("deep nesting is refused, however it is written") {
  constexpr size_t deep = 100000;
  CHECK(first_message("volfs: 1\nx-a: " + repeat("[", deep)).find("deep; expected at most 16") !=
        std::string::npos);
  CHECK(first_message("volfs: 1\nx-a: " + repeat("{a: ", deep)).find("deep; expected at most 16") !=
        std::string::npos);
  CHECK(first_message("volfs: 1\nx-a:\n  " + repeat("- ", 2000) + "x\n")
            .find("deep; expected at most 16") != std::string::npos);
}

TEST_CASE("noise is told only up to a limit") {
  std::string noise = "volfs: 1\nimages:\n";
  for (int i = 0; i < 1500; ++i) noise += "  i" + std::to_string(i) + ": [x]\n";
  const auto definition = parse(noise, "bad.yaml");
  REQUIRE(!definition);
  CHECK(definition.error().entries().size() == Diagnostics::max_entries);
  CHECK(definition.error().to_string().ends_with("bad.yaml: and 500 more errors\n"));
}

TEST_CASE("a stack of maps may be high, but not without end") {
  const auto stack = [](size_t count) {
    std::string text = "volfs: 1\nimages: {m0: x}\nmaps:\n";
    for (size_t i = count; i >= 1; --i)
      text +=
          "  m" + std::to_string(i) + ": {table: 0 8 linear m" + std::to_string(i - 1) + " 0}\n";
    return text;
  };
  CHECK(first_message(stack(volfs::max_stack_depth - 1)) == "");
  const auto definition = parse(stack(5000), "bad.yaml", scan_words);
  REQUIRE(!definition);
  CHECK(definition.error().to_string() ==
        "bad.yaml:4804:3: 'm200' stands on a stack of 200 devices; expected at most 200 on each "
        "other\n");
}

TEST_CASE("a long cycle is told in short") {
  std::string text = "volfs: 1\nmaps:\n";
  for (int i = 0; i < 100; ++i)
    text += "  m" + std::to_string(i) + ": {table: 0 8 linear m" + std::to_string((i + 1) % 100) +
            " 0}\n";
  CHECK(
      first_message(text) ==
      "bad.yaml:102:27: cycle m0 -> m1 -> m2 -> m3 -> m4 -> m5 -> m6 -> m7 -> (84 more) -> m92 -> "
      "m93 -> m94 -> m95 -> m96 -> m97 -> m98 -> m99 -> m0; expected devices that do not build on "
      "themselves");
}

TEST_CASE("a thousand maps of ten rows over a hundred images are read") {
  std::string text = "volfs: 1\nimages:\n";
  for (int i = 0; i < 100; ++i)
    text += "  disk" + std::to_string(i) + ": disk" + std::to_string(i) + ".img\n";
  text += "maps:\n";
  for (int i = 0; i < 1000; ++i) {
    text += "  map" + std::to_string(i) + ":\n    table: |\n";
    for (int row = 0; row < 10; ++row)
      text += "      " + std::to_string(row * 8) + " 8 linear disk" +
              std::to_string((i + row) % 100) + " " + std::to_string(i * 8) + "\n";
  }
  const auto definition = parse(text, "big.yaml", scan_words);
  REQUIRE(definition);
  CHECK(definition->build_order.size() == 1100);
  CHECK(definition->maps[999].devices.size() == 10);
  CHECK(definition->maps[999].rows[9].at.line == 12103);
}

TEST_CASE("each byte of a good definition left out or changed gives an answer") {
  const std::string good = example();
  const uint64_t seed = number_from("VOLFS_SEED", std::random_device{}());
  const uint64_t rounds = number_from("VOLFS_ITERATIONS", 1);
  MESSAGE("VOLFS_SEED=" << seed);
  std::mt19937_64 random(seed);
  constexpr std::string_view marks = "{}[]:,-?&*!|>'\"%@`# \t\n0~/\\<.";
  for (size_t i = 0; i < good.size(); ++i) {
    check_answer(good.substr(0, i) + good.substr(i + 1));
    for (uint64_t round = 0; round < rounds; ++round) {
      std::string changed = good;
      changed[i] = round % 2 == 0 ? marks[random() % marks.size()] : static_cast<char>(random());
      check_answer(changed);
    }
  }
}

TEST_CASE("a definition cut off anywhere, or with pieces moved, gives an answer") {
  const std::string good = example();
  const uint64_t seed = number_from("VOLFS_SEED", std::random_device{}());
  const uint64_t rounds = number_from("VOLFS_ITERATIONS", 1) * 300;
  MESSAGE("VOLFS_SEED=" << seed);
  std::mt19937_64 random(seed);
  for (uint64_t round = 0; round < rounds; ++round) {
    check_answer(good.substr(0, random() % good.size()));
    std::string moved = good;
    const std::string piece = good.substr(random() % good.size(), random() % 200);
    moved.insert(random() % moved.size(), piece);
    check_answer(moved);
  }
}
