// SPDX-License-Identifier: GPL-2.0-or-later
#include "reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "names.h"

namespace volfs::config {

bool SizeRule::holds(uint64_t size) const {
  return size >= least && size <= most &&
         (power_of_two ? is_power_of_two(size) : size % multiple == 0);
}

std::string SizeRule::expected() const {
  const std::string shape =
      power_of_two ? "a power of two"
      : multiple == 1
          ? "a size"
          : fmt::format("a multiple of {}",
                        multiple < KiB ? fmt::format("{} bytes", multiple) : format_size(multiple));
  if (most != max_device_size)
    return fmt::format("{} from {} to {}", shape, format_size(least), format_size(most));
  return least == 0 ? shape : fmt::format("{}, at least {}", shape, format_size(least));
}

std::string join_words(std::span<const std::string_view> words) {
  std::string all;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) all += i + 1 == words.size() ? " or " : ", ";
    all += words[i];
  }
  return all;
}

bool same_word(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](char x, char y) { return lower(x) == lower(y); });
}

std::optional<bool> parse_bool(std::string_view text) {
  for (std::string_view word : {"true", "yes", "on"})
    if (same_word(text, word)) return true;
  for (std::string_view word : {"false", "no", "off"})
    if (same_word(text, word)) return false;
  return std::nullopt;
}

namespace {

std::string some_of(std::span<const std::string_view> keys) {
  constexpr size_t most_named = 8;
  if (keys.size() <= most_named) return join_words(keys);
  return fmt::format("{}, {}, {} and others, see volfs.yaml(5)", keys[0], keys[1], keys[2]);
}

}  // namespace

MapReader::MapReader(Context& context, const Node& node, std::string owner,
                     std::span<const std::string_view> keys)
    : context_(context), node_(node), owner_(std::move(owner)) {
  if (!is_map()) {
    context_.report(node_.at, fmt::format("{} is {}", owner_, node_.describe()),
                    fmt::format("a map with {}", some_of(keys)));
    return;
  }
  for (const Node::Entry& entry : node_.entries) {
    const std::string& key = entry.key->text;
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    if (context_.diagnostics.full()) break;
    const std::string_view near = nearest_key(key, keys);
    if (near.empty())
      context_.report(entry.key->at, fmt::format("unknown key {} of {}", quote(key), owner_),
                      join_words(keys));
    else
      context_.report(
          entry.key->at,
          fmt::format("unknown key {} of {} (did you mean '{}'?)", quote(key), owner_, near),
          "one of its keys, see volfs.yaml(5)");
  }
}

const Node* MapReader::find(std::string_view key) {
  for (const Node::Entry& entry : node_.entries) {
    if (entry.key->text != key) continue;
    if (entry.value->kind != Node::Kind::nothing) return entry.value;
    context_.report(entry.key->at, fmt::format("'{}' of {} without a value", key, owner_),
                    "a value, or no such key");
    return nullptr;
  }
  return nullptr;
}

const Node* MapReader::require(std::string_view key, std::string_view expected) {
  for (const Node::Entry& entry : node_.entries)
    if (entry.key->text == key) return find(key);
  if (is_map()) context_.report(node_.at, fmt::format("{} has no '{}'", owner_, key), expected);
  return nullptr;
}

void MapReader::report(std::string_view key, const Node& value, std::string_view expected) {
  context_.report(value.at, fmt::format("'{}' of {} is {}", key, owner_, value.describe()),
                  expected);
}

void MapReader::forbid(std::string_view key, std::string_view situation,
                       std::string_view expected) {
  for (const Node::Entry& entry : node_.entries)
    if (entry.key->text == key)
      context_.report(entry.key->at, fmt::format("'{}' of {} with {}", key, owner_, situation),
                      expected);
}

bool MapReader::read_flag(std::string_view key, const Node& node, Located<bool>& out) {
  const auto value =
      node.kind == Node::Kind::scalar ? parse_bool(node.text) : std::optional<bool>{};
  if (value)
    out = {*value, node.at};
  else
    report(key, node, "true or false");
  return value.has_value();
}

bool MapReader::read_size(std::string_view key, const Node& node, const SizeRule& rule,
                          Located<uint64_t>& out) {
  const auto size =
      node.kind == Node::Kind::scalar ? parse_size(node.text) : Result<uint64_t>(fail_invalid(""));
  if (!size || !rule.holds(*size)) {
    const bool too_large = !size && size.error().code() == ERANGE;
    if (too_large && rule.most == max_device_size)
      report(key, node, "a size below 8EiB");
    else
      report(
          key, node,
          rule.expected() + (size || too_large ? "" : " (bytes, or with KiB, MiB, GiB, TiB or s)"));
    return false;
  }
  out = {*size, node.at};
  return true;
}

bool MapReader::read_count(std::string_view key, const Node& node, uint32_t least, uint32_t most,
                           Located<uint32_t>& out) {
  const auto count =
      node.kind == Node::Kind::scalar ? parse_u64(node.text) : Result<uint64_t>(fail_invalid(""));
  if (!count || *count < least || *count > most) {
    report(key, node,
           least == most ? fmt::format("{}", least)
                         : fmt::format("a number from {} to {}", least, most));
    return false;
  }
  out = {static_cast<uint32_t>(*count), node.at};
  return true;
}

bool MapReader::read_text(std::string_view key, const Node& node, std::string_view expected,
                          Text& out) {
  if (node.kind != Node::Kind::scalar || node.text.empty()) {
    report(key, node, expected);
    return false;
  }
  out = {node.text, node.at};
  return true;
}

void MapReader::read(std::string_view key, Located<bool>& out) {
  if (const Node* node = find(key)) read_flag(key, *node, out);
}
void MapReader::read(std::string_view key, Optional<bool>& out) {
  Located<bool> value;
  if (const Node* node = find(key); node && read_flag(key, *node, value)) out = value;
}
void MapReader::read(std::string_view key, Located<uint64_t>& out, const SizeRule& rule) {
  if (const Node* node = find(key)) read_size(key, *node, rule, out);
}
void MapReader::read(std::string_view key, Optional<uint64_t>& out, const SizeRule& rule) {
  Located<uint64_t> value;
  if (const Node* node = find(key); node && read_size(key, *node, rule, value)) out = value;
}
void MapReader::read(std::string_view key, Located<uint32_t>& out, uint32_t least, uint32_t most) {
  if (const Node* node = find(key)) read_count(key, *node, least, most, out);
}
void MapReader::read(std::string_view key, Optional<uint32_t>& out, uint32_t least, uint32_t most) {
  Located<uint32_t> value;
  if (const Node* node = find(key); node && read_count(key, *node, least, most, value)) out = value;
}
void MapReader::read(std::string_view key, Text& out, std::string_view expected) {
  if (const Node* node = find(key)) read_text(key, *node, expected, out);
}
void MapReader::read(std::string_view key, Optional<std::string>& out, std::string_view expected) {
  Text value;
  if (const Node* node = find(key); node && read_text(key, *node, expected, value)) out = value;
}

void MapReader::read(std::string_view key, std::vector<Text>& out, std::string_view expected) {
  const Node* node = find(key);
  if (node == nullptr) return;
  if (node->kind == Node::Kind::list) {
    for (const Node* item : node->items) {
      Text value;
      if (read_text(key, *item, expected, value)) out.push_back(std::move(value));
    }
    return;
  }
  Text value;
  if (read_text(key, *node, fmt::format("{}, or a list of such", expected), value))
    out.push_back(std::move(value));
}

}  // namespace volfs::config
