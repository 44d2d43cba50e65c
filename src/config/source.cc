// SPDX-License-Identifier: GPL-2.0-or-later
#include "source.h"

#include <fmt/format.h>

#include <algorithm>

#include "volfs/config/parser.h"

namespace volfs::config {
namespace {

constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";

unsigned byte_of(std::string_view text, size_t i) {
  return static_cast<unsigned char>(text[i]);
}

// The length of the UTF-8 sequence at I, or 0 if it is none (overlong and surrogates too).
size_t sequence_length(std::string_view text, size_t i) {
  const unsigned first = byte_of(text, i);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k)
    if ((byte_of(text, i + k) & 0xC0) != 0x80) return 0;
  const unsigned second = byte_of(text, i + 1);
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
      (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F))
    return 0;
  return length;
}

bool is_forbidden(std::string_view text, size_t i) {
  const char c = text[i];
  if (c == '\r') return i + 1 >= text.size() || text[i + 1] != '\n';
  return c == 0x7F || (c >= 0 && c < 0x20 && c != '\t' && c != '\n');
}

}  // namespace

Source::Source(std::string_view text) : text_(text) {
  if (text_.starts_with(byte_order_mark)) text_.remove_prefix(byte_order_mark.size());
  starts_.push_back(0);
  if (text_.size() > max_definition_size) return;
  for (size_t i = 0; i < text_.size(); ++i)
    if (text_[i] == '\n') starts_.push_back(i + 1);
}

std::string_view Source::line(size_t line) const {
  if (line >= starts_.size()) return {};
  const size_t end = line + 1 < starts_.size() ? starts_[line + 1] - 1 : text_.size();
  std::string_view row = text_.substr(starts_[line], end - starts_[line]);
  if (row.ends_with('\r')) row.remove_suffix(1);
  return row;
}

Position Source::position(size_t line_number, size_t byte_column) const {
  const std::string_view before = line(line_number).substr(0, byte_column);
  const size_t characters = static_cast<size_t>(
      std::count_if(before.begin(), before.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  // A mark past the end of its line stays past it.
  const size_t past = byte_column - before.size();
  return {static_cast<uint32_t>(line_number + 1), static_cast<uint32_t>(characters + past + 1)};
}

Position Source::position_at(size_t byte) const {
  const auto next = std::upper_bound(starts_.begin(), starts_.end(), byte);
  const size_t line_number = static_cast<size_t>(next - starts_.begin()) - 1;
  return position(line_number, byte - starts_[line_number]);
}

bool Source::check(Diagnostics& diagnostics) const {
  if (text_.size() > max_definition_size) {
    diagnostics.add({1, 1}, fmt::format("a file of {} bytes", text_.size()),
                    fmt::format("at most {}", format_size(max_definition_size)));
    return false;
  }
  for (size_t i = 0; i < text_.size();) {
    const size_t length = sequence_length(text_, i);
    if (length == 0 || is_forbidden(text_, i)) {
      const std::string found = length == 0 ? fmt::format("byte 0x{:02x}", byte_of(text_, i))
                                            : fmt::format("control character 0x{:02x}{}", text_[i],
                                                          text_[i] == 0 ? " (NUL)" : "");
      diagnostics.add(position_at(i), found, "YAML text in UTF-8");
      return false;
    }
    i += length;
  }
  return true;
}

}  // namespace volfs::config
