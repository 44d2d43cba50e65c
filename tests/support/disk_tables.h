// SPDX-License-Identifier: GPL-2.0-or-later
// A partition table made by hand: what a test needs where sfdisk is not to be had.
#pragma once

#include <cstdint>
#include <string>

#include "volfs/units.h"

namespace volfs::test {

inline constexpr uint64_t mbr_disk_size = 4 * MiB;

// Writes an MBR onto the file, of mbr_disk_size bytes. Partitions, in sectors of 512 bytes:
//   1 primary   2048 + 1024  type 0x83
//   2 primary   3072 + 512   type 0xfd
//   3 extended  4096 + 4096  type 0x05
//   5 logical   4160 + 1000  type 0x83
//   6 logical   6208 + 1984  type 0x8e
void write_mbr(const std::string& path);

}  // namespace volfs::test
