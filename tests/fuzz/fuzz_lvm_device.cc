// SPDX-License-Identifier: GPL-2.0-or-later
// A device that claims to be a physical volume: its label, areas and every copy in its ring are
// read or refused. The checksums of label and area header are mended first, so that the fields
// behind them are reached.
#include <cstdint>
#include <cstring>
#include <vector>

#include "lvm/crc.h"
#include "sparse_input.h"
#include "support/memory_device.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/lvm/plan.h"

using namespace volfs;

namespace {

constexpr uint64_t device_size = 4 * 1024 * 1024;

void mend(test::MemoryDevice& device, uint64_t sector, size_t own, size_t first) {
  auto bytes = device.peek(sector * 512, 512);
  const uint32_t value = lvm::crc(std::span<const std::byte>(bytes).subspan(first));
  std::memcpy(bytes.data() + own, &value, 4);
  device.poke(sector * 512, bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  test::MemoryDevice device("fuzz", device_size);
  test::for_each_record(data, size, device_size,
                        [&](uint64_t offset, auto bytes) { device.poke(offset, bytes); });
  mend(device, 1, 16, 20);
  mend(device, 8, 0, 4);
  const auto pv = lvm::scan(device);
  if (!pv || !*pv) return 0;
  for (const auto& area : (*pv)->areas) (void)lvm::list_copies(device, area);
  const lvm::PvInfo found[] = {**pv};
  const lvm::Assembly assembly = lvm::assemble(found);
  for (const lvm::FoundGroup& group : assembly.groups)
    (void)lvm::activation_plan(group.group, group.device_names(found), {.hidden = true});
  return 0;
}
