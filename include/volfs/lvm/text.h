// SPDX-License-Identifier: GPL-2.0-or-later
// LVM2's text format as a lossless tree: `key = value`, `key = [value, ...]`, `key { ... }`,
// comments from # to the end of the line. Grammar checked against lvm2's libdm/libdm-config.c.
//
// The tree keeps each entry's own bytes with the blanks and comments before it, so that what is
// not understood can be written again as it was. Everything is bounded: the size of the text,
// the depth of sections; and memory is proportional to the text. Errors name the line.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"

namespace volfs::lvm::text {

inline constexpr size_t max_text_size = size_t{32} << 20;
inline constexpr unsigned max_depth = 16;

struct Value {
  enum class Kind : uint8_t { integer, real, string };
  Kind kind = Kind::integer;
  int64_t integer = 0;
  double real = 0;
  std::string_view string;  // unescaped; into the document
};

class Document;

struct Entry {
  std::string_view key;     // unescaped
  std::string_view source;  // all its bytes, from the end of what came before it
  uint32_t line = 0;        // of the key, from 1
  bool section = false;     // has entries, not values
  bool list = false;        // values stood in brackets
  std::vector<Value> values;
  std::vector<Entry> entries;

  // The first entry of that name; null if there is none.
  const Entry* find(std::string_view name) const;

  // The typed values of an entry directly below; an error ("line 12: seqno: expected ...") if it
  // is missing or of another kind.
  Result<std::string_view> string(std::string_view name) const;
  Result<uint64_t> number(std::string_view name, uint64_t most = UINT64_MAX) const;
  Result<uint32_t> number32(std::string_view name) const;
  // As above; the fallback only if the entry is missing.
  Result<uint64_t> number_or(std::string_view name, uint64_t fallback) const;
  Result<uint32_t> number32_or(std::string_view name, uint32_t fallback) const;
  Result<std::string> string_or(std::string_view name, std::string_view fallback) const;
  // A list of strings (one string alone counts as a list of one); empty if missing.
  Result<std::vector<std::string>> strings(std::string_view name) const;
};

// An error that names the line of ENTRY and its key.
Error error_at(const Entry& entry, std::string_view what);

class Document {
 public:
  // Parses TEXT up to its end or its first NUL. Keeps a copy of it.
  static Result<Document> parse(std::string_view text);

  // The root: a section without a name.
  const Entry& root() const { return root_; }
  // The bytes after the last entry.
  std::string_view trailer() const { return trailer_; }
  // The text that was parsed, byte by byte.
  std::string_view source() const { return *text_; }

 private:
  friend class Parser;
  std::shared_ptr<const std::string> text_;
  std::shared_ptr<std::vector<std::unique_ptr<std::string>>> unescaped_;
  Entry root_;
  std::string_view trailer_;
};

// "a\"b" for a"b: what stands between quotes, with " and \ escaped.
std::string escape(std::string_view string);
std::string quote(std::string_view string);

}  // namespace volfs::lvm::text
