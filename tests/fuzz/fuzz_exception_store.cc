// SPDX-License-Identifier: GPL-2.0-or-later
// Any device may be given as a snapshot's store: it is taken or refused, and then read, written and
// merged without a byte outside the two devices.
#include <cstdint>
#include <vector>

#include "sparse_input.h"
#include "support/memory_device.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/snapshot.h"
#include "volfs/dm/table.h"

using namespace volfs;

namespace {

constexpr uint64_t device_size = 2 * 1024 * 1024;

void use(const char* table, test::MemoryDevice& origin, test::MemoryDevice& store, bool write) {
  dm::OriginRegistry origins;
  dm::MappedDevice map("fuzz");
  const dm::Resolver resolve = [&](std::string_view name) -> Result<BlockDevice*> {
    return name == "origin" ? &origin : &store;
  };
  const auto rows = dm::parse_table(table);
  if (!rows || !map.load(*rows, resolve, {.origins = &origins}) || !map.resume()) return;
  std::vector<std::byte> bytes(64 * 1024);
  for (uint64_t at = 0; at < map.size(); at += bytes.size()) {
    (void)map.read(at, bytes);
    if (write) (void)map.write(at, std::span(bytes).first(512));
  }
  (void)map.flush();
  (void)map.status();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  test::MemoryDevice origin("origin", device_size), store("store", device_size);
  test::for_each_record(data, size, device_size,
                        [&](uint64_t offset, auto bytes) { store.poke(offset, bytes); });
  use("0 4096 snapshot origin store P 8", origin, store, false);
  use("0 4096 snapshot origin store P 8", origin, store, true);
  return 0;
}
