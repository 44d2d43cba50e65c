// SPDX-License-Identifier: GPL-2.0-or-later
// A boot record holds four entries of 16 bytes from byte 446 (status, first CHS, type, last CHS,
// first sector and count as 32-bit little-endian) and 55 AA at its end. Each logical partition has
// a record of its own: its first entry counts from that record, its second one, the link to the
// next record, from the start of the extended partition.
#include "support/disk_tables.h"

#include <array>
#include <fstream>

#include "volfs/endian.h"

namespace volfs::test {
namespace {

struct Entry {
  uint8_t type;
  uint32_t first, count;
};

struct DiskEntry {
  uint8_t status = 0;
  uint8_t first_chs[3] = {0xfe, 0xff, 0xff};
  uint8_t type = 0;
  uint8_t last_chs[3] = {0xfe, 0xff, 0xff};
  Le32 first = 0, count = 0;
};
static_assert(sizeof(DiskEntry) == 16);

void write_record(std::fstream& file, uint64_t sector, std::initializer_list<Entry> entries) {
  std::array<char, 512> record{};
  size_t at = 446;
  for (const Entry& entry : entries) {
    DiskEntry on_disk;
    on_disk.type = entry.type;
    on_disk.first = entry.first;
    on_disk.count = entry.count;
    std::memcpy(record.data() + at, &on_disk, sizeof on_disk);
    at += sizeof on_disk;
  }
  record[510] = 0x55;
  record[511] = static_cast<char>(0xaa);
  file.seekp(static_cast<std::streamoff>(sector * sector_size));
  file.write(record.data(), record.size());
}

}  // namespace

void write_mbr(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  write_record(file, 0, {{0x83, 2048, 1024}, {0xfd, 3072, 512}, {0x05, 4096, 4096}});
  write_record(file, 4096, {{0x83, 64, 1000}, {0x05, 2048, 2048}});
  write_record(file, 4096 + 2048, {{0x8e, 64, 1984}});
}

}  // namespace volfs::test
