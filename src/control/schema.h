// SPDX-License-Identifier: GPL-2.0-or-later
// What keys a request has, as one line of text beside its name, and the checks that follow from it.
//
//     "map:name,table:text,readonly:flag?,timeout_ms:ms?"
//
// A key is NAME:TYPE, with ? if it may be left out. Types: name (of a device or volume, not empty),
// text, path (absolute), list (of texts), requests (a list of objects), flag, number, ms
// (milliseconds, a day at most), any. A key without a type is any? and checked by the request
// itself.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"

namespace volfs::control {

// The longest wait that a request may ask for.
inline constexpr uint64_t most_ms = 86400000;

struct Key {
  std::string_view name, type;
  bool required = false;
};
std::vector<Key> parse_keys(std::string_view keys);

// What is wrong with a request, and with what part of it: a key, or LINE:COLUMN of its text.
struct Mistake {
  std::string place;
  Error error;
};

// The first mistake of BODY, an object, as a request of these keys.
std::optional<Mistake> check_keys(std::string_view request, std::string_view keys,
                                  const nlohmann::json& body);
// BODY's value of the first key that is a name: what a request is about; empty if it has none.
std::string subject_of(std::string_view keys, const nlohmann::json& body);

// Reads a request's text: an object in which no key stands twice.
std::expected<nlohmann::json, Mistake> parse_request(std::string_view text);

// A JSON Schema of the request.
nlohmann::json json_schema(std::string_view request, std::string_view keys);

}  // namespace volfs::control
