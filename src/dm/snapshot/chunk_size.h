// SPDX-License-Identifier: GPL-2.0-or-later
// What a chunk size may be.
#pragma once

#include <fmt/format.h>

#include "store_format.h"
#include "volfs/error.h"
#include "volfs/units.h"

namespace volfs::dm {

// How much of a chunk is copied at a time: what stays in the processor's cache.
inline constexpr uint64_t copy_piece = 128 * KiB;

// LOGICAL_BLOCK is the larger one of the origin's and the copy-on-write device's.
inline Status check_chunk_size(uint64_t bytes, uint32_t logical_block) {
  if (bytes < sector_size || bytes > max_chunk_size || !is_power_of_two(bytes))
    return fail_invalid(fmt::format("chunk size {}: expected a power of two from {} to {}",
                                    format_size(bytes), sector_size, format_size(max_chunk_size)));
  if (bytes % logical_block != 0)
    return fail_invalid(fmt::format("chunk size {}: not a multiple of the logical block size {}",
                                    format_size(bytes), logical_block));
  return {};
}

}  // namespace volfs::dm
