// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/lvm/text.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>

#include "lvm/text_lexer.h"

namespace volfs::lvm::text {

class Parser {
 public:
  explicit Parser(Document& document) : document_(document), lexer_(*document.text_) {}

  Status parse() {
    VOLFS_TRY(lexer_.next());
    document_.root_.section = true;
    document_.root_.line = 1;
    while (lexer_.token() != Token::end) VOLFS_TRY(entry(document_.root_, 1));
    document_.trailer_ = std::string_view(*document_.text_).substr(consumed_);
    return {};
  }

 private:
  std::unexpected<Error> unexpected(std::string_view expected) const {
    return fail_invalid(fmt::format("line {}: expected {}, found {}", lexer_.line(), expected,
                                    describe(lexer_.token())));
  }

  // Goes past the current token, and remembers that everything up to its end belongs to entries.
  Status advance() {
    consumed_ = lexer_.end();
    return lexer_.next();
  }

  std::string_view string_token() {
    std::string_view bytes = lexer_.bytes();
    if (lexer_.token() == Token::word) return bytes;
    bytes = bytes.substr(1, bytes.size() - 2);
    if (lexer_.token() == Token::literal || bytes.find('\\') == bytes.npos) return bytes;
    auto plain = std::make_unique<std::string>();
    for (size_t i = 0; i < bytes.size(); i++) {
      const bool escaped =
          bytes[i] == '\\' && i + 1 < bytes.size() && (bytes[i + 1] == '"' || bytes[i + 1] == '\\');
      if (escaped) i++;
      *plain += bytes[i];
    }
    document_.unescaped_->push_back(std::move(plain));
    return *document_.unescaped_->back();
  }

  Status entry(Entry& parent, unsigned depth) {
    if (depth > max_depth)
      return fail_invalid(
          fmt::format("line {}: sections are nested deeper than {}", lexer_.line(), max_depth));
    const Token kind = lexer_.token();
    if (kind != Token::word && kind != Token::quoted && kind != Token::literal)
      return unexpected("the name of a value or section");
    const size_t first = consumed_;
    Entry& made = parent.entries.emplace_back();
    made.line = lexer_.line();
    made.key = string_token();
    if (made.key.empty()) return unexpected("a name that is not empty");
    VOLFS_TRY(advance());
    if (lexer_.token() == Token::open_section) {
      VOLFS_TRY(advance());
      made.section = true;
      while (lexer_.token() != Token::close_section) {
        if (lexer_.token() == Token::end)
          return fail_invalid(fmt::format("line {}: the section '{}' that begins here has no end",
                                          made.line, made.key));
        VOLFS_TRY(entry(made, depth + 1));
      }
      VOLFS_TRY(advance());
    } else if (lexer_.token() == Token::equals) {
      VOLFS_TRY(advance());
      VOLFS_TRY(values(made));
    } else {
      return unexpected("'=' or '{'");
    }
    made.source = std::string_view(*document_.text_).substr(first, consumed_ - first);
    return {};
  }

  Status values(Entry& entry) {
    if (lexer_.token() != Token::open_list) return value(entry);
    entry.list = true;
    VOLFS_TRY(advance());
    while (lexer_.token() != Token::close_list) {
      VOLFS_TRY(value(entry));
      if (lexer_.token() == Token::comma) VOLFS_TRY(advance());
    }
    return advance();
  }

  Status value(Entry& entry) {
    Value made;
    const std::string bytes(lexer_.token() == Token::real || lexer_.token() == Token::integer
                                ? lexer_.bytes()
                                : std::string_view());
    switch (lexer_.token()) {
      case Token::integer: {
        made.kind = Value::Kind::integer;
        errno = 0;
        char* end = nullptr;
        made.integer = std::strtoll(bytes.c_str(), &end, 0);
        if (errno != 0 || end == bytes.c_str() || *end != '\0')
          return fail_invalid(fmt::format("line {}: {}: '{}' is not an integer of 64 bits",
                                          lexer_.line(), entry.key, bytes.substr(0, 64)));
        break;
      }
      case Token::real: {
        made.kind = Value::Kind::real;
        const char* begin = bytes.c_str() + (bytes[0] == '+' ? 1 : 0);
        auto [end, error] = std::from_chars(begin, bytes.c_str() + bytes.size(), made.real);
        if (error != std::errc() || *end != '\0')
          return fail_invalid(fmt::format("line {}: {}: '{}' is not a number", lexer_.line(),
                                          entry.key, bytes.substr(0, 64)));
        break;
      }
      case Token::quoted:
      case Token::literal:
      case Token::word:
        made.kind = Value::Kind::string;
        made.string = string_token();
        break;
      default:
        return unexpected("a value");
    }
    entry.values.push_back(made);
    return advance();
  }

  Document& document_;
  Lexer lexer_;
  size_t consumed_ = 0;
};

Result<Document> Document::parse(std::string_view text) {
  text = text.substr(0, text.find('\0'));
  if (text.size() > max_text_size)
    return fail_invalid(fmt::format("the text is {} bytes long: more than {} are not read",
                                    text.size(), max_text_size));
  Document document;
  document.text_ = std::make_shared<const std::string>(text);
  document.unescaped_ = std::make_shared<std::vector<std::unique_ptr<std::string>>>();
  VOLFS_TRY(Parser(document).parse());
  return document;
}

const Entry* Entry::find(std::string_view name) const {
  for (const Entry& entry : entries)
    if (entry.key == name) return &entry;
  return nullptr;
}

Error error_at(const Entry& entry, std::string_view what) {
  return Error::invalid(fmt::format("line {}: {}: {}", entry.line, entry.key.substr(0, 128), what));
}

namespace {

Result<const Entry*> require(const Entry& parent, std::string_view name) {
  if (const Entry* found = parent.find(name)) return found;
  return fail(error_at(parent, fmt::format("'{}' is missing", name)));
}

Result<uint64_t> as_number(const Entry& entry, uint64_t most) {
  if (entry.section || entry.values.size() != 1 || entry.values[0].kind != Value::Kind::integer)
    return fail(error_at(entry, "expected an integer"));
  const int64_t value = entry.values[0].integer;
  if (value < 0 || static_cast<uint64_t>(value) > most)
    return fail(error_at(entry, fmt::format("{} is not in 0..{}", value, most)));
  return static_cast<uint64_t>(value);
}

Result<std::string_view> as_string(const Entry& entry) {
  if (entry.section || entry.values.size() != 1 || entry.values[0].kind != Value::Kind::string)
    return fail(error_at(entry, "expected a string"));
  return entry.values[0].string;
}

}  // namespace

Result<std::string_view> Entry::string(std::string_view name) const {
  VOLFS_TRY_ASSIGN(const Entry* found, require(*this, name));
  return as_string(*found);
}

Result<uint64_t> Entry::number(std::string_view name, uint64_t most) const {
  VOLFS_TRY_ASSIGN(const Entry* found, require(*this, name));
  return as_number(*found, most);
}

Result<uint32_t> Entry::number32(std::string_view name) const {
  VOLFS_TRY_ASSIGN(const uint64_t value, number(name, UINT32_MAX));
  return static_cast<uint32_t>(value);
}

Result<uint64_t> Entry::number_or(std::string_view name, uint64_t fallback) const {
  const Entry* found = find(name);
  return found == nullptr ? fallback : as_number(*found, UINT64_MAX);
}

Result<uint32_t> Entry::number32_or(std::string_view name, uint32_t fallback) const {
  if (find(name) == nullptr) return fallback;
  return number32(name);
}

Result<std::string> Entry::string_or(std::string_view name, std::string_view fallback) const {
  const Entry* found = find(name);
  if (found == nullptr) return std::string(fallback);
  VOLFS_TRY_ASSIGN(const std::string_view value, as_string(*found));
  return std::string(value);
}

Result<std::vector<std::string>> Entry::strings(std::string_view name) const {
  std::vector<std::string> out;
  const Entry* found = find(name);
  if (found == nullptr) return out;
  if (found->section) return fail(error_at(*found, "expected a list of strings"));
  out.reserve(found->values.size());
  for (const Value& value : found->values) {
    if (value.kind != Value::Kind::string)
      return fail(error_at(*found, "expected a list of strings"));
    out.emplace_back(value.string);
  }
  return out;
}

std::string escape(std::string_view string) {
  std::string out;
  for (char c : string) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string quote(std::string_view string) {
  return '"' + escape(string) + '"';
}

}  // namespace volfs::lvm::text
