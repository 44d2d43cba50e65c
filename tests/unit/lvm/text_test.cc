// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/text.h"

#include <doctest/doctest.h>

#include "golden.h"

using namespace volfs;
using namespace volfs::lvm;

namespace {

text::Document parse(std::string_view source) {
  auto document = text::Document::parse(source);
  if (!document) FAIL(document.error().text());
  return std::move(*document);
}

std::string error_of(std::string_view source) {
  auto document = text::Document::parse(source);
  REQUIRE_FALSE(document.has_value());
  CHECK(document.error().code() == EINVAL);
  return document.error().text();
}

std::string written(const text::Document& document) {
  std::string out;
  for (const text::Entry& entry : document.root().entries) out += entry.source;
  return out + std::string(document.trailer());
}

}  // namespace

TEST_CASE("values of all kinds are read") {
  const auto document = parse(
      "a = 5 b=-7\nbig = 9223372036854775807\nreal = 1.5\nlist = [\"x\", 3, 'y z', word]\n"
      "none = []\nbare = hello\nsec { inner { deep = 1 } }\n\"quoted key\" = 1");
  const text::Entry& root = document.root();
  CHECK(root.number("a").value() == 5);
  CHECK(root.find("b")->values[0].integer == -7);
  CHECK(root.number("big").value() == 9223372036854775807u);
  CHECK(root.find("real")->values[0].real == 1.5);
  REQUIRE(root.find("list")->values.size() == 4);
  CHECK(root.find("list")->values[2].string == "y z");
  CHECK(root.find("list")->values[3].string == "word");
  CHECK(root.find("none")->list);
  CHECK(root.find("none")->values.empty());
  CHECK(root.string("bare").value() == "hello");
  CHECK(root.find("sec")->find("inner")->number("deep").value() == 1);
  CHECK(root.number("quoted key").value() == 1);
}

TEST_CASE("escapes in quotes are undone, and done by quote") {
  const auto document = parse(R"(a = "say \"hi\" \\ there \n")");
  CHECK(document.root().string("a").value() == R"(say "hi" \ there \n)");
  CHECK(text::quote(R"(say "hi" \)") == R"("say \"hi\" \\")");
}

TEST_CASE("comments go to the end of their line and may stand anywhere") {
  const auto document = parse("# first\na = 1 # one\n# two\nb = [ # in a list\n2, # more\n3]#end");
  CHECK(document.root().number("a").value() == 1);
  CHECK(document.root().find("b")->values.size() == 2);
  CHECK(document.root().find("b")->line == 4);
}

TEST_CASE("the text ends at its first NUL") {
  CHECK(parse(std::string("a = 1\0 garbage {", 16)).root().entries.size() == 1);
}

TEST_CASE("every error names its line and what was expected") {
  CHECK(error_of("a = 1\nb 2") == "line 2: expected '=' or '{', found a word");
  CHECK(error_of("a = ") == "line 1: expected a value, found the end of the text");
  CHECK(error_of("\n\n}") == "line 3: expected the name of a value or section, found '}'");
  CHECK(error_of("a {\nb = 1\n") == "line 1: the section 'a' that begins here has no end");
  CHECK(error_of("a = [1,\n\n{") == "line 3: expected a value, found '{'");
  CHECK(error_of("x = 1\ny = \"abc\n\n") == "line 2: the quote has no end");
  CHECK(error_of("n = 9223372036854775808") ==
        "line 1: n: '9223372036854775808' is not an integer of 64 bits");
  CHECK(error_of("n = -") == "line 1: n: '-' is not an integer of 64 bits");
}

TEST_CASE("sections nest to a bound") {
  std::string deep, deeper;
  for (unsigned i = 0; i + 1 < text::max_depth; i++) deep += "a{";
  deep += "x=1";
  for (unsigned i = 0; i + 1 < text::max_depth; i++) deep += "}";
  CHECK(text::Document::parse(deep).has_value());
  for (int i = 0; i < 100000; i++) deeper += "a{";
  CHECK(error_of(deeper).starts_with("line 1: sections are nested deeper than"));
}

TEST_CASE("typed access tells what is wrong") {
  const auto document = parse("s {\nn = \"text\"\nm = 5000000000\nl = [1]\n}");
  const text::Entry& section = *document.root().find("s");
  CHECK(section.number("n").error().text() == "line 2: n: expected an integer");
  CHECK(section.number32("m").error().text() == "line 3: m: 5000000000 is not in 0..4294967295");
  CHECK(section.string("gone").error().text() == "line 1: s: 'gone' is missing");
  CHECK(section.strings("l").error().text() == "line 4: l: expected a list of strings");
  CHECK(section.number_or("gone", 7).value() == 7);
}

TEST_CASE("the tree holds every byte of what it was read from") {
  for (const char* name : {"linear.text", "linear.backup", "raid.text", "raid.backup",
                           "snapshot.text", "odd.backup", "unsupported.backup"}) {
    const std::string source = golden(name);
    CHECK_MESSAGE(written(parse(source)) == source, name);
  }
}
