// SPDX-License-Identifier: GPL-2.0-or-later
// An origin and snapshots of it, as tables of mapped devices over any disks.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "support/byte_model.h"
#include "support/memory_device.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/snapshot.h"
#include "volfs/units.h"

namespace volfs::test {

class World {
 public:
  explicit World(BlockDevice& base) : base_(base) { add(base); }

  void add(BlockDevice& device) { names_[device.name()] = &device; }
  void remove(const std::string& name) { names_.erase(name); }
  BlockDevice& base() { return base_; }
  dm::OriginRegistry& registry() { return registry_; }

  // Loads TYPE with ARGS as the only row, as long as the origin, and resumes. The text of an
  // error, or nothing.
  std::string set(dm::MappedDevice& map, std::string_view type, std::string_view args,
                  bool read_only = false) {
    if (auto loaded = load(map, type, args, read_only); !loaded) return loaded.error().text();
    if (auto resumed = map.resume(); !resumed) return resumed.error().text();
    return "";
  }
  Status load(dm::MappedDevice& map, std::string_view type, std::string_view args,
              bool read_only = false) {
    const auto rows =
        dm::parse_table(fmt::format("0 {} {} {}", base_.size() / sector_size, type, args));
    REQUIRE(rows.has_value());
    return map.load(*rows,
                    [this](std::string_view name) -> Result<BlockDevice*> {
                      const auto found = names_.find(name);
                      if (found == names_.end()) return fail(Error::make(ENOENT, "no such device"));
                      return found->second;
                    },
                    {.read_only = read_only, .origins = &registry_});
  }
  std::string set_origin(dm::MappedDevice& map) {
    return set(map, "snapshot-origin", base_.name());
  }
  // A snapshot that appears at one instant.
  std::string take(dm::MappedDevice& origin, dm::MappedDevice& map, std::string_view cow,
                   std::string_view kind, uint64_t chunk_size) {
    if (auto suspended = origin.suspend(); !suspended) return suspended.error().text();
    const std::string error = set(map, "snapshot", snapshot_args(cow, kind, chunk_size));
    if (auto resumed = origin.resume(); !resumed) return resumed.error().text();
    return error;
  }
  std::string snapshot_args(std::string_view cow, std::string_view kind, uint64_t chunk_size) {
    return fmt::format("{} {} {} {}", base_.name(), cow, kind, chunk_size / sector_size);
  }

 private:
  BlockDevice& base_;
  dm::OriginRegistry registry_;
  std::map<std::string, BlockDevice*, std::less<>> names_;
};

// What comes after the type in the one row of the status.
inline std::string status_of(const dm::MappedDevice& map) {
  std::string text = map.status();
  for (int i = 0; i < 3 && text.find(' ') != std::string::npos; ++i)
    text.erase(0, text.find(' ') + 1);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Whether a status says that nothing is left to merge.
inline bool is_merged(const std::string& status) {
  const size_t slash = status.find('/'), blank = status.find(' ');
  if (slash == std::string::npos || blank == std::string::npos) return false;
  return status.substr(0, slash) == status.substr(blank + 1);
}

inline void wait_until_merged(dm::MappedDevice& map) {
  for (uint32_t seen = map.info().event_nr; !is_merged(test::status_of(map));) {
    REQUIRE(test::status_of(map).find('/') != std::string::npos);
    seen = map.wait_event(seen, now() + std::chrono::milliseconds(20));
  }
}

}  // namespace volfs::test
