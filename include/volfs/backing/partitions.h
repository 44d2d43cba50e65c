// SPDX-License-Identifier: GPL-2.0-or-later
// What libblkid knows of an image: its partitions, and the signatures on it. Reads only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "volfs/error.h"

namespace volfs {

struct Partition {
  unsigned number = 0;  // as the kernel counts: logical ones of an MBR from 5
  uint64_t offset = 0;  // bytes from the start of the image
  uint64_t length = 0;  // bytes
  std::string type;     // GPT: the type's UUID; MBR: "0xfd", "0x0c"
  std::string name;     // GPT only
  std::string uuid;
  bool extended = false;  // an MBR's extended partition: holds logical ones, is none itself
};

// In the order of the table; empty if there is no table that libblkid knows. GPTs made for
// sectors of 4096 bytes are found on files, too. Partitions that do not lie in the image are
// listed as they are.
// SIZE: how large the image is to be taken for, where it has a GPT and ends before; 0: as it is.
Result<std::vector<Partition>> list_partitions(const std::string& path, uint64_t size = 0);
// FD is open for reading and stays open; its position is moved.
Result<std::vector<Partition>> list_partitions(int fd, const std::string& path, uint64_t size = 0);
// How large the disk was for which the GPT at the start of the image was made; 0: there is none.
uint64_t partitioned_size(const std::string& path);

struct Signature {
  std::string type;   // "ext4", "linux_raid_member", "LVM2_member", "gpt", ...
  std::string usage;  // "filesystem", "raid", "crypto", "other", "partition table"
  std::string label;
  std::string uuid;
  uint64_t offset = 0;  // of the magic, from the start of the range
};

// All signatures in [offset, offset+length) of the image; LENGTH 0: to the end.
Result<std::vector<Signature>> probe_signatures(const std::string& path, uint64_t offset = 0,
                                                uint64_t length = 0);
// Writes one for people: `ext4 file system, label "root", UUID 1234, at 1080`.
std::string describe(const Signature& signature);

}  // namespace volfs
