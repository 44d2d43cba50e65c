// SPDX-License-Identifier: GPL-2.0-or-later
// New PVs and groups. The layout is that of lvm2's lib/format_text/format-text.c: the first area
// between the label and the data, the second at the end of the device.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "lvm/disk_format.h"
#include "volfs/lvm/edit.h"

namespace volfs::lvm {
namespace {

constexpr uint64_t first_area_start = 4 * KiB;
constexpr uint64_t wiped_of_area = 4 * KiB;
constexpr uint32_t extension_version = 2;
constexpr uint32_t flag_in_use = 1;

MetadataArea empty_area(uint64_t offset, uint64_t size) {
  MetadataArea area;
  area.where = {offset, size};
  area.size = size;
  return area;
}

}  // namespace

Result<PvInfo> make_pv(const PvParameters& parameters) {
  const std::string place = parameters.device;
  const uint64_t align = parameters.data_alignment;
  const uint64_t size = round_down(parameters.device_size, sector_size);
  if (align == 0 || align % sector_size != 0 || align > GiB)
    return fail(Error::invalid("the data alignment must be whole sectors, at most 1GiB").in(place));
  if (parameters.metadata_copies > 2)
    return fail(Error::invalid("a PV has 0, 1 or 2 metadata areas").in(place));
  if (parameters.label_sector >= label_sectors)
    return fail(Error::invalid("the label is in sector 0, 1, 2 or 3").in(place));
  if (parameters.metadata_copies > 0 &&
      (parameters.metadata_size < least_area_size || parameters.metadata_size > GiB))
    return fail(Error::invalid("a metadata area has 32KiB to 1GiB").in(place));
  PvInfo pv;
  pv.device = parameters.device;
  pv.device_size = parameters.device_size;
  pv.label.id = parameters.id;
  pv.label.sector = parameters.label_sector;
  pv.label.device_size = size;
  pv.label.extension_version = extension_version;

  const uint64_t metadata = round_up(parameters.metadata_size, sector_size);
  uint64_t data = align;
  if (parameters.metadata_copies > 0) {
    data = round_up(first_area_start + metadata, align);
    pv.areas.push_back(empty_area(first_area_start, data - first_area_start));
  }
  uint64_t data_end = size;
  if (parameters.metadata_copies == 2 && size > metadata) {
    const uint64_t start = round_down(size - metadata, align);
    data_end = start;
    pv.areas.push_back(empty_area(start, size - start));
  }
  if (data >= data_end)
    return fail(
        Error::make(ENOSPC, fmt::format("{} are too small for a PV", format_size(size))).in(place));
  pv.label.data_areas.push_back({data, 0});
  for (const MetadataArea& area : pv.areas) pv.label.metadata_areas.push_back(area.where);
  return pv;
}

Result<WritePlan> plan_pv(const PvInfo& pv, size_t number) {
  WritePlan plan;
  plan.steps.resize(3);
  plan.steps[0].push_back(
      {number, 0, std::vector<std::byte>(label_sectors * sector_size, std::byte{0})});
  for (const MetadataArea& area : pv.areas) {
    plan.steps[0].push_back(
        {number, area.where.offset, std::vector<std::byte>(wiped_of_area, std::byte{0})});
    MetadataArea empty = empty_area(area.where.offset, area.where.size);
    const Sector header = encode_area_header(empty);
    plan.steps[1].push_back({number, area.where.offset, {header.begin(), header.end()}});
  }
  VOLFS_TRY_ASSIGN(const Sector label, encode_label(pv.label));
  plan.steps[2].push_back({number, pv.label.sector * sector_size, {label.begin(), label.end()}});
  return plan;
}

Result<VolumeGroup> make_group(const GroupParameters& parameters, std::span<PvInfo> pvs) {
  VOLFS_TRY(check_group_name(parameters.name));
  const uint64_t extent = parameters.extent_size;
  // As lvm2's vg_check_new_extent_size.
  if (extent < 1 * KiB || extent > uint64_t{UINT32_MAX} * sector_size ||
      (!is_power_of_two(extent) && extent % (128 * KiB) != 0))
    return fail_invalid(
        fmt::format("{}: an extent size of {} is neither a power of two nor a multiple of 128KiB",
                    parameters.name, format_size(extent)));
  if (pvs.empty()) return fail_invalid(parameters.name + ": a volume group needs a PV");
  VolumeGroup group;
  group.name = parameters.name;
  group.id = parameters.id;
  group.status = {"RESIZEABLE", "READ", "WRITE"};
  for (const std::string& tag : parameters.tags) VOLFS_TRY(add_tag(group.tags, tag));
  group.extent_size = extent;
  group.max_lv = parameters.max_lv;
  group.max_pv = parameters.max_pv;
  if (parameters.allocation_policy != "normal")
    group.allocation_policy = parameters.allocation_policy;
  for (PvInfo& info : pvs) {
    PhysicalVolume pv;
    pv.key = fmt::format("pv{}", group.pvs.size());
    pv.id = info.label.id;
    pv.device_hint = info.device;
    pv.status = {"ALLOCATABLE"};
    pv.device_size = info.label.device_size;
    pv.data_start = info.label.data_areas.empty() ? 0 : info.label.data_areas[0].offset;
    uint64_t end = pv.device_size;
    if (info.areas.size() > 1) end = info.areas[1].where.offset;
    const uint64_t extents = end > pv.data_start ? (end - pv.data_start) / extent : 0;
    if (extents == 0 || extents > UINT32_MAX)
      return fail(Error::make(
          ENOSPC, fmt::format("{}: {} bytes are {} extents of {}", info.device,
                              end - std::min(end, pv.data_start), extents, format_size(extent))));
    pv.extent_count = static_cast<uint32_t>(extents);
    group.pvs.push_back(std::move(pv));
  }
  if (group.max_pv != 0 && group.pvs.size() > group.max_pv)
    return fail_invalid(fmt::format("{}: more than {} PVs", group.name, group.max_pv));
  validate(group);
  if (!group.problems.empty()) return fail_invalid(group.name + ": " + group.problems.front());
  for (PvInfo& info : pvs) {
    info.label.extension_version = extension_version;
    info.label.extension_flags |= flag_in_use;
  }
  return group;
}

}  // namespace volfs::lvm
