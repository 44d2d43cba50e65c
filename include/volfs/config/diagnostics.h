// SPDX-License-Identifier: GPL-2.0-or-later
// Places in a definition, and the list of everything that is wrong with one. Each entry names
// line and column, what was found and what was expected; a file's errors are all told at once.
// Plain values: no locks, no I/O.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace volfs::config {

// Line and column count from 1, columns in characters. Line 0 is "nowhere": the value was not
// written in the file but is a default.
struct Position {
  uint32_t line = 0;
  uint32_t column = 0;

  bool given() const { return line != 0; }
  friend auto operator<=>(const Position&, const Position&) = default;
};

struct Diagnostic {
  Position at;
  std::string text;  // "what was found; expected what"
};

class Diagnostics {
 public:
  // More errors than this are counted, not kept: a file of noise must not fill the memory.
  static constexpr size_t max_entries = 1000;

  explicit Diagnostics(std::string_view file_name) : file_name_(file_name) {}

  // Adds "FOUND; expected EXPECTED", or FOUND alone.
  void add(Position at, std::string_view found, std::string_view expected = {});

  bool empty() const { return entries_.empty(); }
  bool full() const { return entries_.size() >= max_entries; }
  const std::string& file_name() const { return file_name_; }
  const std::vector<Diagnostic>& entries() const { return entries_; }

  // Puts the entries in the order of the file and drops those said twice about one place.
  void sort();
  // "FILE:LINE:COLUMN: TEXT", without a newline; "FILE: TEXT" for what has no place.
  std::string line(const Diagnostic& entry) const;
  // All entries, one a line, each with a newline.
  std::string to_string() const;

 private:
  std::string file_name_;
  std::vector<Diagnostic> entries_;
  size_t dropped_ = 0;
};

}  // namespace volfs::config
