// SPDX-License-Identifier: GPL-2.0-or-later
#include "ppl_format.h"

#include <isa-l/crc.h>

#include <cstring>

#include "volfs/endian.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

struct DiskPplEntry {
  Le64 data_sector;
  Le32 pp_size, data_size;
  Le32 parity_disk, checksum;
};
static_assert(sizeof(DiskPplEntry) == 24 && offsetof(DiskPplEntry, parity_disk) == 16);

struct DiskPplHeader {
  uint8_t reserved[512];  // all ones
  Le32 signature, padding;
  Le64 generation;
  Le32 entries_count, checksum;
  DiskPplEntry entries[ppl_max_entries];
  uint8_t rest[8];
};
static_assert(sizeof(DiskPplHeader) == ppl_header_size && offsetof(DiskPplHeader, checksum) == 532);
static_assert(offsetof(DiskPplHeader, entries) == 536);

}  // namespace

uint32_t ppl_checksum(uint32_t so_far, std::span<const std::byte> bytes) {
  const auto* first = reinterpret_cast<const unsigned char*>(bytes.data());
  return crc32_iscsi(const_cast<unsigned char*>(first), static_cast<int>(bytes.size()), so_far);
}

uint32_t ppl_signature(const Uuid& array) {
  return ~ppl_checksum(~0u, std::as_bytes(std::span(array.bytes)));
}

void encode_ppl_header(uint32_t signature, uint64_t generation, std::span<const PplEntry> entries,
                       std::span<std::byte, ppl_header_size> out) {
  DiskPplHeader header{};
  std::memset(header.reserved, 0xff, sizeof header.reserved);
  header.signature = signature;
  header.generation = generation;
  header.entries_count = static_cast<uint32_t>(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    DiskPplEntry& entry = header.entries[i];
    entry.data_sector = entries[i].data_offset >> sector_shift;
    entry.data_size = entries[i].data_size;
    entry.pp_size = entries[i].partial_size;
    entry.parity_disk = entries[i].parity_slot;
    entry.checksum = entries[i].checksum;
  }
  header.checksum = ~ppl_checksum(~0u, std::as_bytes(std::span(&header, 1)));
  std::memcpy(out.data(), &header, sizeof header);
}

uint64_t PplHeader::partial_size() const {
  uint64_t sum = 0;
  for (const PplEntry& entry : entries) sum += entry.partial_size;
  return sum;
}

std::optional<PplHeader> decode_ppl_header(uint32_t signature,
                                           std::span<const std::byte, ppl_header_size> bytes) {
  DiskPplHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const uint32_t stored = header.checksum, count = header.entries_count;
  header.checksum = 0;
  if (stored != ~ppl_checksum(~0u, std::as_bytes(std::span(&header, 1)))) return std::nullopt;
  if (header.signature != signature || count > ppl_max_entries) return std::nullopt;
  PplHeader found{header.generation, {}};
  for (uint32_t i = 0; i < count; ++i) {
    const DiskPplEntry& entry = header.entries[i];
    const uint64_t sector = entry.data_sector;
    if (sector > max_device_size >> sector_shift || entry.pp_size % sector_size != 0 ||
        entry.data_size % sector_size != 0)
      return std::nullopt;
    found.entries.push_back({sector << sector_shift, entry.data_size, entry.pp_size,
                             entry.parity_disk, entry.checksum});
  }
  return found;
}

}  // namespace volfs::md
