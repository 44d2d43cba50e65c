// SPDX-License-Identifier: GPL-2.0-or-later
// Typed reading of YAML maps: each read takes one key, checks its value and tells what is wrong
// with it in the one form "'KEY' of OWNER is FOUND; expected EXPECTED".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "source.h"
#include "tree.h"
#include "volfs/config/definition.h"
#include "volfs/config/parser.h"

namespace volfs::config {

struct Context {
  const Source& source;
  Diagnostics& diagnostics;
  const TableScanner& scan_table;
  // Searching a near name is dear, so that only so many are searched for one file.
  int suggestions_left = 200;

  void report(Position at, std::string_view found, std::string_view expected) {
    diagnostics.add(at, found, expected);
  }
};

// What a size must be. Limits are bytes; those and the words of the message agree.
struct SizeRule {
  uint64_t least = sector_size;
  uint64_t most = max_device_size;
  uint64_t multiple = sector_size;
  bool power_of_two = false;

  bool holds(uint64_t size) const;
  std::string expected() const;
};

template <class T>
struct Word {
  std::string_view name;
  T value;
};

// The words as "a, b or c".
std::string join_words(std::span<const std::string_view> words);

template <class T>
std::vector<std::string_view> names_of(std::span<const Word<T>> words) {
  std::vector<std::string_view> names;
  for (const Word<T>& word : words) names.push_back(word.name);
  return names;
}

std::optional<bool> parse_bool(std::string_view text);
// Without regard to the case of ASCII letters.
bool same_word(std::string_view a, std::string_view b);

class MapReader {
 public:
  // OWNER is how messages call it: "array 'md0'". Tells if NODE is no map (EXPECTED says what
  // one should hold) and each of its keys that is not in KEYS.
  MapReader(Context& context, const Node& node, std::string owner,
            std::span<const std::string_view> keys);

  bool is_map() const { return node_.kind == Node::Kind::map; }
  const std::string& owner() const { return owner_; }
  Position at() const { return node_.at; }
  Context& context() { return context_; }

  // The value of KEY or null; a value that is nothing is told and is null too.
  const Node* find(std::string_view key);
  // The same, and tells where the key must be given.
  const Node* require(std::string_view key, std::string_view expected);

  void report(std::string_view key, const Node& value, std::string_view expected);
  // Tells that KEY is given where SITUATION ("type linear") forbids it.
  void forbid(std::string_view key, std::string_view situation, std::string_view expected);

  void read(std::string_view key, Located<bool>& out);
  void read(std::string_view key, Optional<bool>& out);
  void read(std::string_view key, Located<uint64_t>& out, const SizeRule& rule);
  void read(std::string_view key, Optional<uint64_t>& out, const SizeRule& rule);
  void read(std::string_view key, Located<uint32_t>& out, uint32_t least, uint32_t most);
  void read(std::string_view key, Optional<uint32_t>& out, uint32_t least, uint32_t most);
  // A text that is not empty.
  void read(std::string_view key, Text& out, std::string_view expected);
  void read(std::string_view key, Optional<std::string>& out, std::string_view expected);
  // A list of texts, or one text alone.
  void read(std::string_view key, std::vector<Text>& out, std::string_view expected);

  // One of WORDS; EXPECTED names them for people, where not each spelling is worth it.
  template <class T>
  void read(std::string_view key, Located<T>& out, std::span<const Word<T>> words,
            std::string_view expected = {}) {
    if (const Node* node = find(key)) read_word(key, *node, words, expected, out);
  }
  template <class T>
  void read(std::string_view key, Optional<T>& out, std::span<const Word<T>> words,
            std::string_view expected = {}) {
    Located<T> value;
    if (const Node* node = find(key); node && read_word(key, *node, words, expected, value))
      out = value;
  }

 private:
  template <class T>
  bool read_word(std::string_view key, const Node& node, std::span<const Word<T>> words,
                 std::string_view expected, Located<T>& out) {
    if (node.kind == Node::Kind::scalar) {
      for (const Word<T>& word : words) {
        if (!same_word(word.name, node.text)) continue;
        out = {word.value, node.at};
        return true;
      }
    }
    report(key, node, expected.empty() ? join_words(names_of(words)) : std::string(expected));
    return false;
  }
  bool read_flag(std::string_view key, const Node& node, Located<bool>& out);
  bool read_size(std::string_view key, const Node& node, const SizeRule& rule,
                 Located<uint64_t>& out);
  bool read_count(std::string_view key, const Node& node, uint32_t least, uint32_t most,
                  Located<uint32_t>& out);
  bool read_text(std::string_view key, const Node& node, std::string_view expected, Text& out);

  Context& context_;
  const Node& node_;
  std::string owner_;
};

}  // namespace volfs::config
