// SPDX-License-Identifier: GPL-2.0-or-later
#include "lvm/text_lexer.h"

#include <fmt/format.h>

namespace volfs::lvm::text {
namespace {

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

}  // namespace

const char* describe(Token token) {
  switch (token) {
    case Token::end:
      return "the end of the text";
    case Token::word:
      return "a word";
    case Token::quoted:
    case Token::literal:
      return "a string";
    case Token::integer:
    case Token::real:
      return "a number";
    case Token::open_section:
      return "'{'";
    case Token::close_section:
      return "'}'";
    case Token::open_list:
      return "'['";
    case Token::close_list:
      return "']'";
    case Token::comma:
      return "','";
    case Token::equals:
      return "'='";
  }
  return "a token";
}

void Lexer::skip_blanks() {
  while (start_ < text_.size()) {
    const char c = text_[start_];
    if (c == '#') {
      while (start_ < text_.size() && text_[start_] != '\n') start_++;
    } else if (is_blank(c)) {
      if (c == '\n') line_++;
      start_++;
    } else {
      return;
    }
  }
}

Status Lexer::next() {
  start_ = end_;
  skip_blanks();
  end_ = start_;
  if (start_ == text_.size()) {
    token_ = Token::end;
    return {};
  }
  const bool value = value_allowed_;
  value_allowed_ = false;
  auto single = [&](Token token) {
    token_ = token;
    end_++;
    return Status();
  };
  switch (const char c = text_[start_]) {
    case '{':
      return single(Token::open_section);
    case '}':
      return single(Token::close_section);
    case ']':
      return single(Token::close_list);
    case '[':
      value_allowed_ = true;
      return single(Token::open_list);
    case ',':
      value_allowed_ = true;
      return single(Token::comma);
    case '=':
      value_allowed_ = true;
      return single(Token::equals);
    case '"':
    case '\'':
      return scan_quoted(c);
    default:
      if (value && (is_digit(c) || c == '.' || c == '+' || c == '-')) {
        scan_number();
      } else {
        scan_word();
        // Bare strings end as keys do; in a list the closing bracket also ends one.
        if (value && end_ > start_ + 1 && text_[end_ - 1] == ']') end_--;
      }
      return {};
  }
}

Status Lexer::scan_quoted(char quote) {
  token_ = quote == '"' ? Token::quoted : Token::literal;
  const uint32_t first_line = line_;
  size_t i = start_ + 1;
  while (i < text_.size() && text_[i] != quote) {
    if (quote == '"' && text_[i] == '\\' && i + 1 < text_.size()) i++;
    if (text_[i] == '\n') line_++;
    i++;
  }
  if (i >= text_.size())
    return fail_invalid(fmt::format("line {}: the quote has no end", first_line));
  end_ = i + 1;
  return {};
}

void Lexer::scan_number() {
  size_t i = start_;
  token_ = text_[i] == '.' ? Token::real : Token::integer;
  for (i++; i < text_.size(); i++) {
    if (is_digit(text_[i])) continue;
    if (text_[i] != '.' || token_ == Token::real) break;
    token_ = Token::real;
  }
  end_ = i;
}

void Lexer::scan_word() {
  token_ = Token::word;
  size_t i = start_;
  while (i < text_.size() && !is_blank(text_[i]) && text_[i] != '#' && text_[i] != '=' &&
         text_[i] != '{' && text_[i] != '}')
    i++;
  end_ = i;
}

}  // namespace volfs::lvm::text
