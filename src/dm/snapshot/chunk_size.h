// SPDX-License-Identifier: GPL-2.0-or-later
// How chunks are handled.
#pragma once

#include <cstdint>

#include "volfs/units.h"

namespace volfs::dm {

// How much of a chunk is copied at a time: what stays in the processor's cache.
inline constexpr uint64_t copy_piece = 128 * KiB;

}  // namespace volfs::dm
