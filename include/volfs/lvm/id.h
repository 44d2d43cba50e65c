// SPDX-License-Identifier: GPL-2.0-or-later
// The identifier of a PV, VG or LV: 32 characters of 0-9A-Za-z (old ones also ! and #), shown
// in groups of 6-4-4-4-4-4-6. Checked against lvm2's lib/uuid/uuid.c.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "volfs/error.h"

namespace volfs::lvm {

class Id {
 public:
  static constexpr size_t length = 32;

  Id() { characters_.fill('\0'); }
  // TEXT with or without the dashes. EINVAL tells what is wrong with it.
  static Result<Id> parse(std::string_view text);
  // From the 32 bytes of an on-disk header; no dashes there.
  static Result<Id> from_disk(std::string_view bytes);
  // From random bytes: the same RANDOM gives the same id.
  static Id generate(const std::array<uint8_t, length>& random);

  bool empty() const { return characters_[0] == '\0'; }
  // The 32 characters, as they stand on disk and in device-mapper uuids.
  std::string_view plain() const {
    return {characters_.data(), empty() ? size_t{0} : characters_.size()};
  }
  // "ABCDEF-GHIJ-..."; "" for an empty id.
  std::string dashed() const;

  friend bool operator==(const Id&, const Id&) = default;
  friend auto operator<=>(const Id&, const Id&) = default;

 private:
  std::array<char, length> characters_;
};

// Gives the 32 random bytes of a new id. Tests and reproducible builds pass a counter or a seed.
using IdSource = std::function<Id()>;
// From the system's random numbers.
IdSource random_ids();
// Ids that are a function of SEED and of how many were taken before.
IdSource seeded_ids(std::string seed);

}  // namespace volfs::lvm

template <>
struct std::hash<volfs::lvm::Id> {
  size_t operator()(const volfs::lvm::Id& id) const {
    return std::hash<std::string_view>()(id.plain());
  }
};
