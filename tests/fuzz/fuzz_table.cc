// SPDX-License-Identifier: GPL-2.0-or-later
// A table that can be read survives being written and read again; every target's constructor, over
// devices of odd sizes, takes its arguments or refuses them, and what was made can be read.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/memory_device.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/snapshot.h"
#include "volfs/dm/table.h"

using namespace volfs;

namespace {

void build(const std::vector<dm::TableRow>& rows) {
  test::MemoryDevice small("small", 512 * 77), large("large", 1024 * 1024);
  dm::OriginRegistry origins;
  dm::MappedDevice map("fuzz");
  const dm::Resolver resolve = [&](std::string_view name) -> Result<BlockDevice*> {
    return name.size() % 2 == 0 ? &small : &large;
  };
  if (!map.load(rows, resolve, {.origins = &origins}) || !map.resume()) return;
  std::vector<std::byte> bytes(4096);
  for (uint64_t at = 0; at + bytes.size() <= std::min<uint64_t>(map.size(), 64 * 1024); at += 4096)
    (void)map.read(at, bytes);
  (void)map.status();
  (void)map.message(0, "addbadblock 3");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto rows = dm::parse_table(text);
  if (!rows) return 0;
  const std::string written = dm::format_table(*rows);
  const auto again = dm::parse_table(written);
  if (!again || dm::format_table(*again) != written) std::abort();
  (void)dm::devices_of(*rows);
  if (!dm::check_targets(*rows).empty()) return 0;
  for (const dm::TableRow& row : *rows)
    if (row.type == "delay" || row.type == "flakey") return 0;  // they would only wait
  build(*rows);
  return 0;
}
