// SPDX-License-Identifier: GPL-2.0-or-later
// The text of a definition by lines, to turn yaml-cpp's marks into places and to find again
// where the rows of a block scalar stand.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "volfs/config/diagnostics.h"

namespace volfs::config {

class Source {
 public:
  // TEXT must live as long. A byte order mark is skipped.
  explicit Source(std::string_view text);

  std::string_view text() const { return text_; }
  // LINE counts from 0; without its line break. Empty past the end.
  std::string_view line(size_t line) const;
  bool is_last(size_t line) const { return line + 1 >= starts_.size(); }
  // LINE and the byte COLUMN count from 0.
  Position position(size_t line, size_t byte_column) const;

  // Tells the first thing that makes TEXT no text at all: its size, a control character, bytes
  // that are not UTF-8. False if there is one.
  bool check(Diagnostics& diagnostics) const;

 private:
  Position position_at(size_t byte) const;

  std::string_view text_;
  std::vector<size_t> starts_;
};

}  // namespace volfs::config
