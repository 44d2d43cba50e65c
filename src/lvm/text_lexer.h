// SPDX-License-Identifier: GPL-2.0-or-later
// Tokens of LVM2's text format.
#pragma once

#include <cstdint>
#include <string_view>

#include "volfs/error.h"

namespace volfs::lvm::text {

enum class Token : uint8_t {
  end,
  word,     // a key, or a string without quotes where a value is expected
  quoted,   // "..." with \" and \\ inside
  literal,  // '...' as it is
  integer,
  real,
  open_section,
  close_section,
  open_list,
  close_list,
  comma,
  equals,
};

const char* describe(Token token);

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  // Reads the next token. Digits and signs begin a number only where a value may stand (after
  // =, [ and ,); elsewhere they begin a key. An error is a quote without an end.
  Status next();

  Token token() const { return token_; }
  // The token's bytes, quotes included.
  std::string_view bytes() const { return text_.substr(start_, end_ - start_); }
  uint32_t line() const { return line_; }
  // Where the token begins (behind blanks and comments) and ends.
  size_t start() const { return start_; }
  size_t end() const { return end_; }

 private:
  void skip_blanks();
  Status scan_quoted(char quote);
  void scan_number();
  void scan_word();
  char at(size_t i) const { return i < text_.size() ? text_[i] : '\0'; }

  std::string_view text_;
  size_t start_ = 0, end_ = 0;
  uint32_t line_ = 1;
  Token token_ = Token::end;
  bool value_allowed_ = false;
};

}  // namespace volfs::lvm::text
