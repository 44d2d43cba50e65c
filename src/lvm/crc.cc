// SPDX-License-Identifier: GPL-2.0-or-later
#include "lvm/crc.h"

#include <isa-l/crc.h>

namespace volfs::lvm {

// ISA-L inverts at both ends, as gzip does.
uint32_t crc(std::span<const std::byte> bytes, uint32_t start) {
  return ~crc32_gzip_refl(~start, reinterpret_cast<const unsigned char*>(bytes.data()),
                          bytes.size());
}

}  // namespace volfs::lvm
