// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include "requests.h"

namespace volfs::control {
namespace {

Error wrong(const char* key, const nlohmann::json& value, const char* expected) {
  return Error::invalid(
      fmt::format("'{}' is a JSON {}; expected {}", key, value.type_name(), expected));
}

Error missing(const char* key, const char* expected) {
  return Error::invalid(fmt::format("'{}' is missing; expected {}", key, expected));
}

}  // namespace

Result<std::string> Fields::text(const char* key) const {
  const auto it = object_.find(key);
  if (it == object_.end()) return fail(missing(key, "a string"));
  if (!it->is_string()) return fail(wrong(key, *it, "a string"));
  return it->get<std::string>();
}

Result<std::string> Fields::text_or(const char* key, std::string_view otherwise) const {
  if (!object_.contains(key)) return std::string(otherwise);
  return text(key);
}

Result<bool> Fields::flag_or(const char* key, bool otherwise) const {
  const auto it = object_.find(key);
  if (it == object_.end()) return otherwise;
  if (!it->is_boolean()) return fail(wrong(key, *it, "true or false"));
  return it->get<bool>();
}

Result<uint64_t> Fields::number(const char* key) const {
  const auto it = object_.find(key);
  if (it == object_.end()) return fail(missing(key, "a number"));
  if (!it->is_number_integer() || (!it->is_number_unsigned() && it->get<int64_t>() < 0))
    return fail(wrong(key, *it, "a whole number, not negative"));
  return it->get<uint64_t>();
}

Result<uint64_t> Fields::number_or(const char* key, uint64_t otherwise) const {
  if (!object_.contains(key)) return otherwise;
  return number(key);
}

const nlohmann::json& Fields::list(const char* key) const {
  static const nlohmann::json none;
  const auto it = object_.find(key);
  return it == object_.end() ? none : *it;
}

Result<uint64_t> Fields::positive_or(const char* key, uint64_t otherwise) const {
  VOLFS_TRY_ASSIGN(const uint64_t value, number_or(key, otherwise));
  if (value == 0 && object_.contains(key))
    return fail_invalid(fmt::format("'{}' is 0; expected a number from 1 on, or none", key));
  return value;
}

Result<std::vector<std::string>> Fields::texts(const char* key) const {
  std::vector<std::string> out;
  const auto it = object_.find(key);
  if (it == object_.end()) return out;
  if (!it->is_array()) return fail(wrong(key, *it, "a list of strings"));
  for (const auto& each : *it) {
    if (!each.is_string()) return fail(wrong(key, each, "a list of strings"));
    out.push_back(each.get<std::string>());
  }
  return out;
}

}  // namespace volfs::control
