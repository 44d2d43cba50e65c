// SPDX-License-Identifier: GPL-2.0-or-later
#include "schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace volfs::control {
namespace {

using nlohmann::json;

constexpr const char* object_expected = "expected an object {\"request\": NAME, ...}";

std::string_view kind_expected(std::string_view type) {
  if (type == "flag") return "true or false";
  if (type == "number") return "a whole number from 0 to 18446744073709551615";
  if (type == "ms") return "a whole number of milliseconds from 0 to 86400000";
  if (type == "requests") return "a list of requests";
  return type == "list" ? "a list of strings" : "a string";
}

bool is_text(std::string_view type) {
  return type == "name" || type == "text" || type == "path";
}

bool is_list(std::string_view type) {
  return type == "list" || type == "requests";
}

// The first element of a list that does not belong there; null: all do.
const json* misfit_in(std::string_view type, const json& list) {
  for (const json& each : list)
    if (!(type == "list" ? each.is_string() : each.is_object())) return &each;
  return nullptr;
}

bool fits(std::string_view type, const json& value) {
  if (type == "any") return true;
  if (type == "flag") return value.is_boolean();
  if (is_text(type)) return value.is_string();
  if (is_list(type)) return value.is_array() && !misfit_in(type, value);
  return value.is_number_unsigned() || (value.is_number_integer() && value.get<int64_t>() >= 0);
}

// What a value of the right kind is refused for; empty: nothing.
std::string out_of_range(const Key& key, const json& value) {
  if (key.type == "ms" && value.get<uint64_t>() > most_ms)
    return fmt::format("'{}' is more than a day; expected at most {}", key.name, most_ms);
  if (!is_text(key.type)) return {};
  const auto& text = value.get_ref<const std::string&>();
  if (text.find('\0') != std::string::npos)
    return fmt::format("'{}' has a NUL byte in it; expected text", key.name);
  if (key.type == "name" && text.empty())
    return fmt::format("'{}' is empty; expected a name", key.name);
  if (key.type == "path" && !text.starts_with('/'))
    return fmt::format("'{}' is '{}'; expected an absolute path", key.name, text);
  return {};
}

std::string shown(const json& value) {
  return value.is_number() ? value.dump() : fmt::format("a JSON {}", value.type_name());
}

std::string list_of(const std::vector<Key>& keys) {
  std::string all;
  for (const Key& key : keys) all += fmt::format("{}{}", all.empty() ? "" : ", ", key.name);
  return all.empty() ? "none besides 'request'" : all;
}

// "1:18" for the byte at which a parser stopped; both count from 1.
std::string line_and_column(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte > 0 ? byte - 1 : 0, text.size()));
  const auto lines = std::ranges::count(before, '\n');
  const size_t start = before.rfind('\n');
  const size_t column = before.size() - (start == std::string_view::npos ? 0 : start + 1) + 1;
  return fmt::format("{}:{}", lines + 1, column);
}

// The library's words without its own prefix and place.
std::string reason(const json::exception& error) {
  std::string_view what = error.what();
  if (const size_t at = what.find("] "); at != std::string_view::npos) what.remove_prefix(at + 2);
  if (const size_t at = what.find(": "); at != std::string_view::npos) what.remove_prefix(at + 2);
  for (const std::string_view lead : {"syntax error while parsing value - ", "syntax error while "})
    if (what.starts_with(lead)) {
      what.remove_prefix(lead.size());
      break;
    }
  std::string clean;
  for (const char c : what) clean += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return clean;
}

}  // namespace

std::vector<Key> parse_keys(std::string_view keys) {
  std::vector<Key> all;
  while (!keys.empty()) {
    const size_t end = std::min(keys.find(','), keys.size());
    std::string_view word = keys.substr(0, end);
    keys.remove_prefix(std::min(end + 1, keys.size()));
    Key key{word, "any", false};
    if (const size_t colon = word.find(':'); colon != std::string_view::npos) {
      key.required = !word.ends_with('?');
      if (!key.required) word.remove_suffix(1);
      key.name = word.substr(0, colon);
      key.type = word.substr(colon + 1);
    }
    all.push_back(key);
  }
  return all;
}

std::optional<Mistake> check_keys(std::string_view request, std::string_view keys,
                                  const json& body) {
  const std::vector<Key> all = parse_keys(keys);
  const auto wrong = [&](std::string_view place, std::string text) {
    return Mistake{std::string(place), Error::invalid(fmt::format("{}: {}", request, text))};
  };
  for (const auto& item : body.items()) {
    if (item.key() == "request") continue;
    if (std::ranges::find(all, item.key(), &Key::name) == all.end())
      return wrong(item.key(),
                   fmt::format("unknown key '{}'; expected {}", item.key(), list_of(all)));
  }
  for (const Key& key : all) {
    const auto it = body.find(key.name);
    if (it == body.end()) {
      if (!key.required) continue;
      return wrong(key.name,
                   fmt::format("'{}' is missing; expected {}", key.name, kind_expected(key.type)));
    }
    if (!fits(key.type, *it)) {
      const json* inside = is_list(key.type) && it->is_array() ? misfit_in(key.type, *it) : nullptr;
      const json& found = inside ? *inside : *it;
      return wrong(key.name,
                   fmt::format("'{}' {} {}; expected {}", key.name, inside ? "has in it" : "is",
                               shown(found), kind_expected(key.type)));
    }
    if (key.type == "any") continue;
    if (auto problem = out_of_range(key, *it); !problem.empty())
      return wrong(key.name, std::move(problem));
  }
  return std::nullopt;
}

std::string subject_of(std::string_view keys, const json& body) {
  for (const Key& key : parse_keys(keys)) {
    if (key.type != "name" && key.type != "any") continue;
    if (const auto it = body.find(key.name); it != body.end() && it->is_string())
      return it->get<std::string>();
  }
  return {};
}

std::expected<json, Mistake> parse_request(std::string_view text) {
  const auto wrong = [](std::string place, std::string message) {
    return std::unexpected(Mistake{std::move(place), Error::invalid(std::move(message))});
  };
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos)
    return wrong("1:1", fmt::format("the request is empty; {}", object_expected));
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    const std::string place = line_and_column(text, nul + 1);
    return wrong(place, fmt::format("the request is not JSON: {}: a NUL byte", place));
  }
  std::string twice;
  std::vector<std::string> seen;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event != json::parse_event_t::key || depth != 1) return true;
    const auto& key = parsed.get_ref<const std::string&>();
    if (std::ranges::count(seen, key) > 0 && twice.empty()) twice = key;
    if (seen.size() < 64) seen.push_back(key);
    return true;
  };
  json body;
  try {
    body = json::parse(text, watch);
  } catch (const json::parse_error& error) {
    const std::string place = line_and_column(text, error.byte);
    return wrong(place, fmt::format("the request is not JSON: {}: {}", place, reason(error)));
  } catch (const json::exception& error) {  // a number that no type holds
    return wrong("1:1", fmt::format("the request is not JSON: {}", reason(error)));
  }
  if (!body.is_object())
    return wrong("1:1",
                 fmt::format("the request is a JSON {}; {}", body.type_name(), object_expected));
  if (!twice.empty()) return wrong(twice, fmt::format("key '{}' is given twice", twice));
  return body;
}

json json_schema(std::string_view request, std::string_view keys) {
  json properties{{"request", {{"const", request}}}};
  json required = json::array({"request"});
  for (const Key& key : parse_keys(keys)) {
    json type = json::object();
    if (is_text(key.type))
      type["type"] = "string";
    else if (key.type == "flag")
      type["type"] = "boolean";
    else if (key.type == "list")
      type = {{"type", "array"}, {"items", {{"type", "string"}}}};
    else if (key.type == "requests")
      type = {{"type", "array"}, {"items", {{"type", "object"}}}};
    else if (key.type != "any")
      type = {{"type", "integer"}, {"minimum", 0}};
    if (key.type == "ms") type["maximum"] = most_ms;
    if (key.type == "name") type["minLength"] = 1;
    if (key.type == "path") type["pattern"] = "^/";
    properties[std::string(key.name)] = std::move(type);
    if (key.required) required.push_back(key.name);
  }
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", std::move(required)},
          {"additionalProperties", false}};
}

}  // namespace volfs::control
