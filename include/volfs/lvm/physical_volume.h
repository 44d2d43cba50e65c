// SPDX-License-Identifier: GPL-2.0-or-later
// What makes a device a PV: its label, and the metadata areas with their rings of text.
// Layout checked against lvm2's lib/format_text/layout.h, lib/label/label.h and areas it wrote.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/error.h"
#include "volfs/lvm/id.h"

namespace volfs::lvm {

struct DiskArea {
  uint64_t offset = 0;  // bytes from the start of the device
  uint64_t size = 0;    // 0 for a data area: up to the end
  friend bool operator==(const DiskArea&, const DiskArea&) = default;
};

struct Label {
  unsigned sector = 1;  // 0..3: where it is
  Id id;
  uint64_t device_size = 0;
  std::vector<DiskArea> data_areas, metadata_areas, bootloader_areas;
  uint32_t extension_version = 0;  // 0: there is no extension
  uint32_t extension_flags = 0;

  // The PV belongs to a VG (known from extension version 2 on).
  bool in_use() const { return (extension_flags & 1) != 0; }
};

// Where a text lies in its area. The offset is from the start of the area; a text that reaches
// the end goes on behind the area's header.
struct RingLocation {
  uint64_t offset = 0, size = 0;
  uint32_t checksum = 0;
  uint32_t flags = 0;
  bool used() const { return offset != 0 && size != 0; }
  friend bool operator==(const RingLocation&, const RingLocation&) = default;
};

struct MetadataArea {
  DiskArea where;
  std::string problem;   // why the header cannot be used; the rest is then empty
  uint64_t size = 0;     // as the header says; at most where.size
  bool ignored = false;  // lvm2 keeps no metadata here
  RingLocation committed, precommitted;
  std::string text;          // the committed text, its checksum verified
  std::string text_problem;  // why there is none although the header points to one
};

struct PvInfo {
  std::string device;  // the name of the device it was found on
  uint64_t device_size = 0;
  Label label;
  std::vector<MetadataArea> areas;
};

// One text found in the ring of an area, current or old.
struct MetadataCopy {
  uint64_t offset = 0;  // from the start of the area
  uint64_t size = 0;    // without the closing NUL
  bool committed = false;
  std::string group;
  uint32_t seqno = 0;
  std::string description;
  uint64_t creation_time = 0;
  std::string text;
};

// Nothing if the device has no LVM2 label. An error if it cannot be read or if what follows a
// valid label is nonsense; problems of one area stand in that area.
Result<std::optional<PvInfo>> scan(BlockDevice& device);

// Reads the area's header and committed text again (for one that may have changed).
MetadataArea read_area(BlockDevice& device, DiskArea where);

// Every text in the ring that is whole, oldest first. Texts that are partly overwritten do not
// count. Reads at most 64 MiB of the area. Also where the area's header is damaged.
Result<std::vector<MetadataCopy>> list_copies(BlockDevice& device, const MetadataArea& area);

}  // namespace volfs::lvm
