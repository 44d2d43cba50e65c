// SPDX-License-Identifier: GPL-2.0-or-later
// Finding a PV, its areas, and the texts in their rings.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "lvm/crc.h"
#include "lvm/disk_format.h"
#include "volfs/lvm/model.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

constexpr uint64_t most_ring_read = 64 * MiB;

// Reads SIZE bytes of the ring from OFFSET on, around its end if need be.
Status read_ring(BlockDevice& device, const MetadataArea& area, uint64_t offset,
                 std::span<std::byte> to) {
  const uint64_t first = std::min<uint64_t>(to.size(), area.size - offset);
  VOLFS_TRY(read_bytes(device, area.where.offset + offset, to.first(first)));
  return read_bytes(device, area.where.offset + area_header_size, to.subspan(first));
}

void read_text(BlockDevice& device, MetadataArea& area) {
  const RingLocation& at = area.committed;
  const uint64_t ring = area.size - area_header_size;
  if (at.offset < area_header_size || at.offset >= area.size || at.size > ring ||
      at.size > text::max_text_size) {
    area.text_problem =
        fmt::format("the header points to {} bytes at {}, outside of the ring", at.size, at.offset);
    return;
  }
  std::string text(at.size, '\0');
  const Status read = read_ring(device, area, at.offset, std::as_writable_bytes(std::span(text)));
  if (!read) {
    area.text_problem = read.error().text();
  } else if (const uint32_t sum = crc(text); sum != at.checksum) {
    area.text_problem = fmt::format("wrong checksum {:08x} of the text at {}, expected {:08x}", sum,
                                    at.offset, at.checksum);
  } else {
    text.resize(std::min(text.find('\0'), text.size()));
    area.text = std::move(text);
  }
}

// The start of the name of the group whose "NAME {\nid = " has its brace there. LVs and PVs begin
// so too, but only a group goes on with its seqno.
std::optional<size_t> group_start(std::string_view ring, size_t brace, size_t mark) {
  constexpr std::string_view next = "\"\nseqno = ";
  if (ring.substr(std::min(brace + mark + Id::length + 6, ring.size())).substr(0, next.size()) !=
      next)
    return std::nullopt;
  size_t start = brace;
  while (start > 0 && brace - start < 128 && ring[start - 1] > ' ' && ring[start - 1] < '\x7f')
    start--;
  if (start == brace) return std::nullopt;
  return start;
}

}  // namespace

MetadataArea read_area(BlockDevice& device, DiskArea where) {
  MetadataArea area;
  area.where = where;
  Sector sector;
  if (!range_within(where.offset, where.size, device.size()) || where.size <= area_header_size) {
    area.problem = fmt::format("{} bytes at {} are not within the device's {}", where.size,
                               where.offset, device.size());
  } else if (Status read = read_bytes(device, where.offset, sector); !read) {
    area.problem = read.error().text();
  } else {
    decode_area_header(sector, area);
  }
  if (area.problem.empty() && !area.ignored && area.committed.used()) read_text(device, area);
  return area;
}

Result<std::optional<PvInfo>> scan(BlockDevice& device) {
  std::array<Sector, label_sectors> sectors{};
  const uint64_t have = std::min<uint64_t>(round_down(device.size(), 512), sizeof sectors);
  VOLFS_TRY(read_bytes(
      device, 0, std::as_writable_bytes(std::span(sectors)).first(static_cast<size_t>(have))));
  for (unsigned i = 0; i < label_sectors; i++) {
    VOLFS_TRY_ASSIGN(std::optional<Label> label, decode_label(sectors[i], i));
    if (!label) continue;
    PvInfo info;
    info.device = device.name();
    info.device_size = device.size();
    info.label = std::move(*label);
    for (const DiskArea& where : info.label.metadata_areas)
      info.areas.push_back(read_area(device, where));
    return info;
  }
  return std::nullopt;
}

Result<std::vector<MetadataCopy>> list_copies(BlockDevice& device, const MetadataArea& area) {
  std::vector<MetadataCopy> copies;
  // Where the header is damaged, the label still says where the ring is.
  const uint64_t area_size = area.problem.empty() ? area.size : area.where.size;
  if (!range_within(area.where.offset, area_size, device.size()) || area_size <= area_header_size)
    return copies;
  const uint64_t size = std::min(area_size - area_header_size, most_ring_read);
  std::string ring(size, '\0');
  VOLFS_TRY(read_bytes(device, area.where.offset + area_header_size,
                       std::as_writable_bytes(std::span(ring))));
  // Once more behind itself, so that a text that wraps stands in one piece.
  const bool whole = size == area_size - area_header_size;
  if (whole) ring += ring;
  constexpr std::string_view mark = " {\nid = \"";
  for (size_t at = ring.find(mark); at != ring.npos; at = ring.find(mark, at + 1)) {
    const auto start = group_start(ring, at, mark.size());
    // The second turn is there for the ends of texts only.
    if (!start || *start >= size) continue;
    std::string_view text = std::string_view(ring).substr(*start, size);
    const size_t end = text.find('\0');
    if (end == text.npos) continue;
    text = text.substr(0, end);
    auto group = read_group(text);
    if (!group) continue;
    MetadataCopy copy;
    copy.offset = *start + area_header_size;
    copy.size = text.size();
    copy.committed = copy.offset == area.committed.offset;
    copy.group = group->name;
    copy.seqno = group->seqno;
    copy.description = group->header.description;
    copy.creation_time = group->header.creation_time;
    copy.text = text;
    copies.push_back(std::move(copy));
    at = *start + text.size() < ring.size() ? *start + text.size() - 1 : at;
  }
  std::ranges::stable_sort(copies, {}, &MetadataCopy::seqno);
  return copies;
}

}  // namespace volfs::lvm
