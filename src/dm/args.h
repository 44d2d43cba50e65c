// SPDX-License-Identifier: GPL-2.0-or-later
// Reading the arguments of targets. Errors read: WHAT "TEXT": expected ...
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "volfs/dm/target.h"
#include "volfs/error.h"

namespace volfs::dm {

Error bad_arg(std::string_view what, std::string_view text, std::string_view expected);
// "2 arguments: expected ..."
Error bad_count(Args args, std::string_view expected);

// A decimal number of sectors; the result is bytes.
Result<uint64_t> sector_arg(std::string_view what, const std::string& text);
// A decimal number.
Result<uint32_t> u32_arg(std::string_view what, const std::string& text, uint32_t least = 0,
                         uint32_t most = std::numeric_limits<uint32_t>::max());
// The same, optionally with a '+' in front: the kernel's kstrtouint takes it, its sscanf does not.
Result<uint32_t> signed_u32_arg(std::string_view what, const std::string& text, uint32_t least = 0,
                                uint32_t most = std::numeric_limits<uint32_t>::max());
Result<BlockDevice*> device_arg(const TargetContext& context, const std::string& name);

// Case does not matter, as in the kernel's names of features and messages.
bool same_word(std::string_view a, std::string_view b);

// The name of a device as a word of a table.
std::string device_word(const BlockDevice& device);

}  // namespace volfs::dm
