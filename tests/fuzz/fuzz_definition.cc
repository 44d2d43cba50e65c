// SPDX-License-Identifier: GPL-2.0-or-later
// Any text is a definition or is told what is wrong with it, with a place in it.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "volfs/config/parser.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto definition = volfs::config::parse(text, "fuzz.yaml");
  if (!definition && definition.error().entries().empty()) std::abort();
  return 0;
}
