// SPDX-License-Identifier: GPL-2.0-or-later
// What names may look like, and which known name is near to an unknown one.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "volfs/config/definition.h"
#include "volfs/config/names.h"

namespace volfs::config {

// What a name should have been, or nothing if it is good: of volume groups, NAME or NAME@UUID; of
// logical volumes (lvm2's letters, and not one that lvm2 keeps for itself); a tag of lvm2.
std::optional<std::string> bad_group_name(std::string_view name);
// NAME of NAME@UUID.
std::string_view own_group_name(std::string_view name);
std::optional<std::string> bad_volume_name(std::string_view group, std::string_view name);
std::optional<std::string> bad_tag(std::string_view tag);

// Edits (one letter put in, left out, changed, or two neighbours swapped) from A to B, or
// LIMIT + 1 if there are more.
size_t edit_distance(std::string_view a, std::string_view b, size_t limit);

// The name of NAMES a writer of NAME probably meant, or "".
std::string_view nearest(std::string_view name, std::span<const std::string_view> names);
// The same for keys, where other tools' words are known too.
std::string_view nearest_key(std::string_view key, std::span<const std::string_view> keys);

// 32 hexadecimal digits, with : - or . between them, as mdadm reads a uuid.
std::optional<Uuid> parse_md_uuid(std::string_view text);
// 32 letters and digits (old ones also ! and #) in lvm2's groups of 6-4-4-4-4-4-6.
bool is_lvm_uuid(std::string_view text);

}  // namespace volfs::config
