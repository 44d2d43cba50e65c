// SPDX-License-Identifier: GPL-2.0-or-later
// What names of devices may look like. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace volfs::config {

// A name is a file name, a word of dm tables and part of dm's and lvm2's names: all have 128
// bytes with the closing NUL.
inline constexpr size_t max_name_length = 127;

// What the name of an image, array, map or snapshot should have been (libdevmapper's letters), or
// nothing if it is good.
std::optional<std::string> bad_device_name(std::string_view name);

// The same of the uuid of a map (dm's limit is 128 bytes, with the closing NUL one more).
std::optional<std::string> bad_map_uuid(std::string_view uuid);

}  // namespace volfs::config
