// SPDX-License-Identifier: GPL-2.0-or-later
// A device that claims to be a member of an array: its superblock is taken or refused with a
// reason, and what can be assembled of it, read-only, can be read. Checksums are mended first, so
// that the fields behind them are reached.
#include <cstdint>
#include <cstring>
#include <vector>

#include "sparse_input.h"
#include "support/memory_device.h"
#include "volfs/md/array.h"

using namespace volfs;

namespace {

constexpr uint64_t size_of_device = 32 * 1024 * 1024;

uint32_t word(const std::vector<std::byte>& bytes, size_t at) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + at, 4);
  return value;
}

// The sum of LENGTH bytes with the checksum's own place as zero, carried around as md does.
uint32_t sum(const std::vector<std::byte>& bytes, size_t length, size_t own) {
  uint64_t total = 0;
  for (size_t at = 0; at + 4 <= length; at += 4)
    if (at != own) total += word(bytes, at);
  if (length % 4 >= 2) {
    uint16_t half = 0;
    std::memcpy(&half, bytes.data() + length - 2, 2);
    total += half;
  }
  return static_cast<uint32_t>((total & 0xffffffff) + (total >> 32));
}

void mend_v1(test::MemoryDevice& device, uint64_t offset) {
  auto bytes = device.peek(offset, 4096);
  constexpr size_t own = 216, max_dev = 220;
  const size_t length = 256 + 2 * static_cast<size_t>(word(bytes, max_dev) & 0x3ff);
  const uint32_t value = sum(bytes, length, own);
  std::memcpy(bytes.data() + own, &value, 4);
  device.poke(offset, bytes);
}

void mend_v0(test::MemoryDevice& device, uint64_t offset) {
  auto bytes = device.peek(offset, 4096);
  constexpr size_t own = 152;
  const uint32_t value = sum(bytes, 4096, own);
  std::memcpy(bytes.data() + own, &value, 4);
  device.poke(offset, bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  test::MemoryDevice device("fuzz", size_of_device);
  test::for_each_record(data + 1, size - 1, 64 * 1024,
                        [&](uint64_t offset, auto bytes) { device.poke(offset, bytes); });
  const uint64_t places[] = {size_of_device - 64 * 1024, size_of_device - 8192, 0, 4096};
  const uint64_t place = places[data[0] % 4];
  // Records begin at the superblock's place.
  if (place != 0) {
    const auto block = device.peek(0, 32 * 1024);
    device.poke_zeros(0, 32 * 1024);
    device.poke(place, std::span(block).first(static_cast<size_t>(
                           std::min<uint64_t>(block.size(), size_of_device - place))));
  }
  if (data[0] % 4 == 0)
    mend_v0(device, place);
  else
    mend_v1(device, place);
  const auto member = md::scan(device);
  if (!member || !*member) return 0;
  BlockDevice* const members[] = {&device};
  auto array = md::Array::assemble(members, {.read_only = true, .force = true});
  if (!array) return 0;
  std::vector<std::byte> bytes(4096);
  const uint64_t end = (*array)->size();
  for (const uint64_t at :
       {uint64_t{0}, end / 2 / 4096 * 4096, end - std::min<uint64_t>(end, 4096)})
    (void)(*array)->read(at / 512 * 512, bytes);
  (void)(*array)->status();
  (void)(*array)->mdstat();
  return 0;
}
