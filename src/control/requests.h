// SPDX-License-Identifier: GPL-2.0-or-later
// The requests there are, in one list.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "volfs/control/control.h"
#include "volfs/error.h"

namespace volfs::control {

// A request's fields, read with checks: each function tells what is missing or of a wrong type.
class Fields {
 public:
  explicit Fields(const nlohmann::json& object) : object_(object) {}
  Result<std::string> text(const char* key) const;
  Result<std::string> text_or(const char* key, std::string_view otherwise) const;
  Result<bool> flag_or(const char* key, bool otherwise) const;
  Result<uint64_t> number(const char* key) const;
  // A list of strings; empty if it is missing.
  Result<std::vector<std::string>> texts(const char* key) const;
  Result<uint64_t> number_or(const char* key, uint64_t otherwise) const;
  // The same where 0 means nothing, and is refused if it is given.
  Result<uint64_t> positive_or(const char* key, uint64_t otherwise) const;
  bool has(const char* key) const { return object_.contains(key); }
  // A list of objects; null if it is missing.
  const nlohmann::json& list(const char* key) const;

 private:
  const nlohmann::json& object_;
};

struct RequestContext {
  engine::Engine& engine;
  const Host& host;
  // Whether nobody waits for the reply any more: a request that only waits, and changes nothing,
  // then ends. Looked at every now and then.
  std::function<bool()> abandoned;
  // Changes of the volume group are made to this copy only.
  engine::VolumeGroup::Trial* trial = nullptr;
};

struct RequestType {
  std::string_view name;
  // The keys it knows besides "request", as schema.h writes them: they are checked before it runs.
  std::string_view keys;
  Result<nlohmann::json> (*run)(const RequestContext& context, const Fields& fields);
};

// All there are, of every list.
std::vector<const RequestType*> all_requests();

std::span<const RequestType> array_requests();
std::span<const RequestType> lv_requests();
std::span<const RequestType> map_requests();
std::span<const RequestType> mount_requests();
std::span<const RequestType> snapshot_requests();
std::span<const RequestType> where_requests();

// Those of a volume, or of an image; null if it has none.
const IoCounters* counters_of(const engine::Node& node);
nlohmann::json to_json(const IoCounters::Snapshot& snapshot);

nlohmann::json status_of(engine::Engine& engine, const Host& host);

}  // namespace volfs::control
