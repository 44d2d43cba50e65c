// SPDX-License-Identifier: GPL-2.0-or-later
// Any text either is no size, or one that survives being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "volfs/units.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto bytes = volfs::parse_size(text);
  if (!bytes) return 0;
  if (*bytes > volfs::max_device_size) std::abort();
  const auto again = volfs::parse_size(volfs::format_size(*bytes));
  if (!again || *again != *bytes) std::abort();
  return 0;
}
