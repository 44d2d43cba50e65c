// SPDX-License-Identifier: GPL-2.0-or-later
#include "lvm/disk_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "lvm/crc.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

uint32_t label_checksum(const Sector& sector) {
  return crc(std::span(sector).subspan(offsetof(DiskLabelHeader, offset)));
}
uint32_t area_checksum(const Sector& sector) {
  return crc(std::span(sector).subspan(sizeof(Le32)));
}

// Takes structures from a sector, one behind the other, and never more than there is.
class Reader {
 public:
  Reader(const Sector& sector, size_t at) : sector_(sector), at_(at) {}
  template <class T>
  bool take(T& out) {
    if (at_ > sector_.size() || sector_.size() - at_ < sizeof out) return false;
    std::memcpy(&out, sector_.data() + at_, sizeof out);
    at_ += sizeof out;
    return true;
  }

 private:
  const Sector& sector_;
  size_t at_;
};

bool take_list(Reader& reader, std::vector<DiskArea>& areas) {
  DiskLocation location;
  while (reader.take(location)) {
    if (location.offset == 0) return true;
    areas.push_back({location.offset, location.size});
  }
  return false;
}

class Writer {
 public:
  Writer(Sector& sector, size_t at) : sector_(sector), at_(at) {}
  template <class T>
  bool put(const T& value) {
    if (sector_.size() - at_ < sizeof value) return false;
    std::memcpy(sector_.data() + at_, &value, sizeof value);
    at_ += sizeof value;
    return true;
  }
  bool put_list(const std::vector<DiskArea>& areas) {
    for (const DiskArea& area : areas)
      if (!put(DiskLocation{area.offset, area.size})) return false;
    return put(DiskLocation{0, 0});
  }

 private:
  Sector& sector_;
  size_t at_;
};

}  // namespace

Result<Sector> encode_label(const Label& label) {
  Sector sector{};
  DiskLabelHeader header{};
  std::ranges::copy(label_magic, header.id);
  std::ranges::copy(label_type, header.type);
  header.sector = label.sector;
  header.offset = sizeof header;
  DiskPvHeader pv{};
  std::ranges::copy(label.id.plain(), pv.id);
  pv.device_size = label.device_size;
  Writer writer(sector, sizeof header);
  if (!writer.put(pv) || !writer.put_list(label.data_areas) ||
      !writer.put_list(label.metadata_areas) || !writer.put(Le32(label.extension_version)) ||
      !writer.put(Le32(label.extension_flags)) || !writer.put_list(label.bootloader_areas))
    return fail_invalid("the lists of areas do not fit into a label");
  std::memcpy(sector.data(), &header, sizeof header);
  header.checksum = label_checksum(sector);
  std::memcpy(sector.data(), &header, sizeof header);
  return sector;
}

Result<std::optional<Label>> decode_label(const Sector& sector, unsigned number) {
  DiskLabelHeader header;
  std::memcpy(&header, sector.data(), sizeof header);
  // As lvm2: a label with a wrong sector or checksum is none.
  if (std::string_view(header.id, sizeof header.id) != label_magic || header.sector != number ||
      header.checksum != label_checksum(sector) ||
      std::string_view(header.type, sizeof header.type) != label_type)
    return std::nullopt;
  Label label;
  label.sector = number;
  Reader reader(sector, header.offset);
  DiskPvHeader pv;
  const std::string place = fmt::format("LVM2 label in sector {}", number);
  if (!reader.take(pv))
    return fail_invalid(
        fmt::format("{}: the PV header at {} is outside of it", place, uint32_t(header.offset)));
  auto id = Id::from_disk({pv.id, sizeof pv.id});
  if (!id) return fail(std::move(id.error()).in(place));
  label.id = *id;
  label.device_size = pv.device_size;
  if (!take_list(reader, label.data_areas) || !take_list(reader, label.metadata_areas))
    return fail_invalid(place + ": its list of areas has no end");
  if (label.metadata_areas.size() > 2)
    return fail_invalid(fmt::format("{}: {} metadata areas, where at most 2 were expected", place,
                                    label.metadata_areas.size()));
  Le32 version, flags;
  if (reader.take(version) && version != 0 && reader.take(flags)) {
    label.extension_version = version;
    label.extension_flags = flags;
    if (!take_list(reader, label.bootloader_areas))
      return fail_invalid(place + ": its list of bootloader areas has no end");
  }
  return label;
}

Sector encode_area_header(const MetadataArea& area) {
  Sector sector{};
  DiskAreaHeader header{};
  std::ranges::copy(area_magic, header.magic);
  header.version = 1;
  header.start = area.where.offset;
  header.size = area.size;
  const RingLocation* locations[] = {&area.committed, &area.precommitted};
  for (size_t i = 0; i < 2; i++) {
    header.locations[i].offset = locations[i]->offset;
    header.locations[i].size = locations[i]->size;
    header.locations[i].checksum = locations[i]->checksum;
    header.locations[i].flags = locations[i]->flags;
  }
  std::memcpy(sector.data(), &header, sizeof header);
  header.checksum = area_checksum(sector);
  std::memcpy(sector.data(), &header, sizeof header);
  return sector;
}

void decode_area_header(const Sector& sector, MetadataArea& area) {
  DiskAreaHeader header;
  std::memcpy(&header, sector.data(), sizeof header);
  if (std::string_view(header.magic, sizeof header.magic) != area_magic) {
    area.problem = "wrong magic";
  } else if (header.checksum != area_checksum(sector)) {
    area.problem = fmt::format("wrong checksum {:08x}, expected {:08x}", uint32_t(header.checksum),
                               area_checksum(sector));
  } else if (header.version != 1) {
    area.problem = fmt::format("version {}, expected 1", uint32_t(header.version));
  } else if (header.start != area.where.offset) {
    area.problem = fmt::format("says that it begins at {}", uint64_t(header.start));
  } else if (header.size > area.where.size || header.size <= area_header_size) {
    area.problem = fmt::format("says that its size is {}, the label says {}", uint64_t(header.size),
                               area.where.size);
  }
  if (!area.problem.empty()) return;
  area.size = header.size;
  RingLocation* locations[] = {&area.committed, &area.precommitted};
  for (size_t i = 0; i < 2; i++) {
    const DiskRingLocation& from = header.locations[i];
    *locations[i] = {from.offset, from.size, from.checksum, from.flags};
    if (from.offset == 0) break;  // the list ends here
  }
  area.ignored = (area.committed.flags & location_ignored) != 0;
}

Status read_bytes(BlockDevice& device, uint64_t offset, std::span<std::byte> to) {
  const uint64_t block = device.logical_block();
  if (to.empty()) return {};
  if (offset % block == 0 && to.size() % block == 0) return device.read(offset, to);
  if (!range_within(offset, to.size(), device.size()))
    return fail_invalid(
        fmt::format("bytes {}+{} are beyond the end at {}", offset, to.size(), device.size()));
  const uint64_t start = round_down(offset, block);
  std::vector<std::byte> buffer(round_up(offset + to.size(), block) - start);
  VOLFS_TRY(device.read(start, std::span(buffer)));
  std::memcpy(to.data(), buffer.data() + (offset - start), to.size());
  return {};
}

Status write_bytes(BlockDevice& device, uint64_t offset, std::span<const std::byte> from) {
  const uint64_t block = device.logical_block();
  if (from.empty()) return {};
  if (offset % block == 0 && from.size() % block == 0) return device.write(offset, from);
  if (!range_within(offset, from.size(), device.size()))
    return fail_invalid(
        fmt::format("bytes {}+{} are beyond the end at {}", offset, from.size(), device.size()));
  const uint64_t start = round_down(offset, block);
  std::vector<std::byte> buffer(round_up(offset + from.size(), block) - start);
  VOLFS_TRY(device.read(start, std::span(buffer)));
  std::memcpy(buffer.data() + (offset - start), from.data(), from.size());
  return device.write(start, std::span<const std::byte>(buffer));
}

}  // namespace volfs::lvm
