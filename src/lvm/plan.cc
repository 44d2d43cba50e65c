// SPDX-License-Identifier: GPL-2.0-or-later
// The planner: devices bottom up, and what state each volume is in.
#include "volfs/lvm/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "lvm/nesting.h"
#include "lvm/planner.h"
#include "volfs/units.h"

namespace volfs::lvm {
namespace {

constexpr std::string_view layers[] = {"", "real", "cow"};

size_t layer_index(std::string_view layer) {
  return static_cast<size_t>(std::ranges::find(layers, layer) - std::begin(layers));
}

bool is_image_of_raid(const VolumeGroup& group, uint32_t lv) {
  const std::string& name = group.lvs[lv].name;
  return name.find("_rimage_") != name.npos || name.find("_rmeta_") != name.npos;
}

const RaidKind* raid_of(const LogicalVolume& lv) {
  if (lv.segments.empty() || !lv.segments[0].raw.empty()) return nullptr;
  return find_raid_kind(lv.segments[0].type);
}

}  // namespace

std::string to_string(const TableRow& row) {
  return fmt::format("{} {} {} {}", row.start_sector, row.sectors, row.type, row.params);
}

const char* to_string(VolumeState state) {
  switch (state) {
    case VolumeState::active:
      return "active";
    case VolumeState::degraded:
      return "degraded";
    case VolumeState::partial:
      return "partial";
    case VolumeState::unavailable:
      return "unavailable";
    case VolumeState::inactive:
      return "inactive";
  }
  return "";
}

uint64_t PlannedDevice::size() const {
  return table.empty() ? 0 : (table.back().start_sector + table.back().sectors) * sector_size;
}

Planner::Planner(const VolumeGroup& group, std::span<const std::string> pv_devices,
                 const PlanOptions& options)
    : group_(group),
      pv_devices_(pv_devices),
      options_(options),
      planned_(group.lvs.size() * std::size(layers)),
      partial_(group.lvs.size()),
      snapshots_(group.lvs.size()),
      cow_link_(group.lvs.size()) {
  for (uint32_t i = 0; i < group.lvs.size(); i++)
    if (group.lvs[i].is_snapshot_link() && group.lvs[i].problem.empty()) {
      const Segment& segment = group.lvs[i].segments[0];
      snapshots_[*segment.origin].push_back(i);
      cow_link_[*segment.cow] = i;
    }
}

ActivationPlan Planner::run() {
  mark_partial();
  for (uint32_t lv = 0; lv < group_.lvs.size(); lv++) {
    if (group_.lvs[lv].is_snapshot_link()) continue;
    PlannedVolume volume;
    volume.lv = lv;
    volume.name = group_.lvs[lv].name;
    volume.size = group_.size_of(lv);
    if (cow_link_[lv]) {
      const Segment& link = group_.lvs[*cow_link_[lv]].segments[0];
      volume.size = link.count * group_.extent_size;
      const LogicalVolume& origin = group_.lvs[*link.origin];
      volume.visible =
          origin.name.ends_with("_vorigin") || (!link.merging && has(origin.status, "VISIBLE"));
    } else {
      volume.visible = has(group_.lvs[lv].status, "VISIBLE");
    }
    volume.read_only = !group_.lvs[lv].writable();
    decide(lv, volume);
    plan_.volumes.push_back(std::move(volume));
  }
  // Inner LVs that a volume stands on have a device now.
  for (PlannedVolume& volume : plan_.volumes)
    if (const Planned& planned = planned_[volume.lv * std::size(layers)];
        volume.device.empty() && planned.done && planned.error.empty() &&
        volume.state != VolumeState::inactive) {
      volume.device = planned.name;
      volume.state = partial_[volume.lv] != 0 ? VolumeState::partial : VolumeState::active;
      volume.reason = partial_[volume.lv] != 0 ? missing_pvs(volume.lv) : "";
    }
  return std::move(plan_);
}

// As lvm2: an LV is partial if a PV it stands on is missing, and an origin shares its snapshots'
// fate.
void Planner::mark_partial() {
  std::vector<uint8_t> seen(group_.lvs.size());
  for (uint32_t lv = 0; lv < group_.lvs.size(); lv++) partial_below(lv, seen);
  for (uint32_t origin = 0; origin < group_.lvs.size(); origin++) {
    bool any = partial_[origin] != 0;
    for (uint32_t link : snapshots_[origin])
      any |= partial_[*group_.lvs[link].segments[0].cow] != 0;
    if (!any) continue;
    partial_[origin] = 1;
    for (uint32_t link : snapshots_[origin]) partial_[*group_.lvs[link].segments[0].cow] = 1;
  }
}

bool Planner::partial_below(uint32_t lv, std::vector<uint8_t>& seen) {
  if (seen[lv] != 0 || !group_.lvs[lv].problem.empty()) return partial_[lv] != 0;
  seen[lv] = 1;
  bool partial = false;
  for (const Segment& segment : group_.lvs[lv].segments) {
    for (const auto* areas : {&segment.areas, &segment.metadata_areas})
      for (const Area& area : *areas) {
        if (area.kind == Area::Kind::pv) partial |= pv_missing(area.index);
        if (area.kind == Area::Kind::lv) partial |= partial_below(area.index, seen);
      }
    if (segment.log) partial |= partial_below(*segment.log, seen);
    for (uint32_t other : segment.mentions) partial |= partial_below(other, seen);
  }
  partial_[lv] = partial;
  return partial;
}

void Planner::collect_missing(uint32_t lv, std::vector<uint8_t>& seen,
                              std::vector<uint32_t>& pvs) const {
  if (seen[lv] != 0 || !group_.lvs[lv].problem.empty()) return;
  seen[lv] = 1;
  for (const Segment& segment : group_.lvs[lv].segments) {
    for (const auto* areas : {&segment.areas, &segment.metadata_areas})
      for (const Area& area : *areas) {
        if (area.kind == Area::Kind::pv && pv_missing(area.index)) pvs.push_back(area.index);
        if (area.kind == Area::Kind::lv) collect_missing(area.index, seen, pvs);
      }
    if (segment.log) collect_missing(*segment.log, seen, pvs);
    for (uint32_t other : segment.mentions) collect_missing(other, seen, pvs);
  }
  for (uint32_t link : snapshots_[lv])
    collect_missing(*group_.lvs[link].segments[0].cow, seen, pvs);
}

std::string Planner::missing_pvs(uint32_t lv) const {
  std::vector<uint8_t> seen(group_.lvs.size());
  std::vector<uint32_t> pvs;
  collect_missing(lv, seen, pvs);
  if (cow_link_[lv]) collect_missing(*group_.lvs[*cow_link_[lv]].segments[0].origin, seen, pvs);
  std::ranges::sort(pvs);
  pvs.erase(std::ranges::unique(pvs).begin(), pvs.end());
  std::string out = "missing";
  for (uint32_t pv : pvs)
    out += fmt::format("{} PV {}{}", out == "missing" ? "" : ",", group_.pvs[pv].id.dashed(),
                       pv_devices_[pv].empty() ? "" : " (here again: vgextend --restoremissing)");
  return out;
}

// Whether lvm2 would activate the raid without the missing images.
bool Planner::raid_redundant(const Segment& segment) const {
  const RaidKind* kind = find_raid_kind(segment.type);
  auto failed = [&](size_t i) {
    return partial_[segment.areas[i].index] != 0 ||
           (i < segment.metadata_areas.size() && partial_[segment.metadata_areas[i].index] != 0);
  };
  const size_t devices = segment.areas.size();
  if (kind->target == "raid10") {
    // Pairs of neighbours, around the end if their number is odd.
    for (size_t i = 0; i < 2 * devices; i += 2)
      if (failed(i % devices) && failed((i + 1) % devices)) return false;
    return true;
  }
  size_t lost = 0;
  for (size_t i = 0; i < devices; i++) lost += failed(i) ? 1 : 0;
  return lost < devices && (kind->parity == 0 || lost <= kind->parity);
}

// Whether every byte of a partial LV can still be had: only raids miss something, and not more
// than they may.
bool Planner::all_data_there(uint32_t lv, unsigned depth) const {
  if (partial_[lv] == 0) return true;
  if (depth > max_nesting) return false;
  if (const RaidKind* kind = raid_of(group_.lvs[lv]))
    return kind->target != "raid0" && raid_redundant(group_.lvs[lv].segments[0]);
  for (const Segment& segment : group_.lvs[lv].segments)
    for (const Area& area : segment.areas) {
      if (area.kind == Area::Kind::pv && pv_missing(area.index)) return false;
      if (area.kind == Area::Kind::lv && !all_data_there(area.index, depth + 1)) return false;
    }
  return true;
}

void Planner::decide(uint32_t lv, PlannedVolume& volume) {
  const LogicalVolume& described = group_.lvs[lv];
  auto refuse = [&](std::string why) {
    volume.state = VolumeState::unavailable;
    volume.reason = std::move(why);
  };
  const uint32_t leader = cow_link_[lv] ? *group_.lvs[*cow_link_[lv]].segments[0].origin : lv;
  if (options_.wanted && volume.visible &&
      (!options_.wanted(described) || !options_.wanted(group_.lvs[leader]))) {
    volume.state = VolumeState::inactive;
    return;
  }
  if (!described.problem.empty()) return refuse(described.problem);
  if (!options_.exported && group_.exported()) return refuse(std::string(exported_reason));
  if (!options_.skipped && has(described.flags, "ACTIVATION_SKIP"))
    return refuse("it is marked to be skipped by activation");
  if (!volume.visible && !options_.hidden) return refuse("it is an inner LV that nothing uses");
  volume.reason.clear();
  if (partial_[lv] != 0) {
    // No mode helps those.
    const auto unknown = std::ranges::find_if(
        described.segments, [](const Segment& each) { return each.known_type() == nullptr; });
    if (unknown != described.segments.end())
      return refuse(
          fmt::format("{}: {}; {}", described.name, unknown->unsupported, missing_pvs(lv)));
    // A store with holes cannot be read at all.
    if (cow_link_[lv] && !all_data_there(lv, 0)) return refuse(missing_pvs(lv));
    const RaidKind* kind = raid_of(described);
    const bool image = is_image_of_raid(group_, lv);
    const std::optional<ActivationMode> own =
        options_.own_mode ? options_.own_mode(described) : std::nullopt;
    const ActivationMode mode = own.value_or(options_.mode);
    if (mode != ActivationMode::partial && !image) {
      if (kind == nullptr || !raid_redundant(described.segments[0]))
        return refuse(missing_pvs(lv) + "; activation mode partial would show what is left");
      if (mode == ActivationMode::complete)
        return refuse(missing_pvs(lv) + "; activation mode degraded would activate it");
    }
    volume.reason = missing_pvs(lv);
    volume.state = all_data_there(lv, 0) ? VolumeState::degraded : VolumeState::partial;
  }
  auto made = device(lv);
  if (!made) return refuse(made.error().text());
  volume.device = *made;
  // As lvm2: an origin brings its snapshots with it, the merging one too, and a snapshot its
  // origin. What fails of them is told where they are decided themselves.
  for (uint32_t link : snapshots_[lv]) (void)device(*group_.lvs[link].segments[0].cow);
  if (cow_link_[lv]) (void)device(*group_.lvs[*cow_link_[lv]].segments[0].origin);
}

Result<std::string> Planner::device(uint32_t lv, std::string_view layer) {
  Planned& planned = planned_[lv * std::size(layers) + layer_index(layer)];
  if (!planned.done && (planned.under_way || building_.size() > max_nesting))
    return fail_invalid(fmt::format("{} is made of itself", group_.lvs[lv].name));
  if (!planned.done) {
    planned.under_way = true;
    const size_t depth = building_.size();
    Status built =
        group_.lvs[lv].problem.empty()
            ? build(lv, layer)
            : fail_invalid(fmt::format("{}: {}", group_.lvs[lv].name, group_.lvs[lv].problem));
    building_.resize(depth);
    planned.done = true;
    planned.name = name_of(lv, layer);
    if (!built) planned.error = built.error().text();
  }
  if (!planned.error.empty()) return fail_invalid(planned.error);
  return planned.name;
}

std::string Planner::name_of(uint32_t lv, std::string_view layer) const {
  const std::string& group = options_.shown_name.empty() ? group_.name : options_.shown_name;
  return dm_name(group, group_.lvs[lv].name, layer);
}

Status Planner::build(uint32_t lv, std::string_view layer) {
  const LogicalVolume& described = group_.lvs[lv];
  Building building;
  building.device.name = name_of(lv, layer);
  building.device.uuid = fmt::format("LVM-{}{}{}{}", group_.id.plain(), described.id.plain(),
                                     layer.empty() ? "" : "-", layer);
  // COW stores and images stay writable whatever their volume is.
  building.device.read_only =
      !described.writable() && !(layer == "cow" && cow_link_[lv]) && !is_image_of_raid(group_, lv);
  // What is written to an origin without a snapshot of it would be written into the snapshot, too.
  if (layer.empty() && std::ranges::any_of(snapshots_[lv], [&](uint32_t link) {
        return !all_data_there(*group_.lvs[link].segments[0].cow, 0);
      }))
    building.device.read_only = true;
  building_.push_back(std::move(building));

  if (layer.empty() && !snapshots_[lv].empty()) {
    VOLFS_TRY_ASSIGN(const std::string real, device(lv, "real"));
    const auto merging = std::ranges::find_if(
        snapshots_[lv], [&](uint32_t link) { return group_.lvs[link].segments[0].merging; });
    if (merging != snapshots_[lv].end()) {
      const Segment& link = group_.lvs[*merging].segments[0];
      VOLFS_TRY_ASSIGN(const std::string cow, device(*link.cow, "cow"));
      // The merge begins at once, and the others must have copies of what it overwrites. What fails
      // of them is told where they are decided themselves.
      for (uint32_t other : snapshots_[lv])
        if (other != *merging) (void)device(*group_.lvs[other].segments[0].cow);
      row("snapshot-merge", fmt::format("{} {} P {}", real, cow, link.chunk_size / sector_size),
          group_.size_of(lv));
    } else {
      row("snapshot-origin", real, group_.size_of(lv));
    }
  } else if (layer.empty() && cow_link_[lv]) {
    const Segment& link = group_.lvs[*cow_link_[lv]].segments[0];
    const uint64_t length = link.count * group_.extent_size;
    VOLFS_TRY_ASSIGN(const std::string cow, device(lv, "cow"));
    VOLFS_TRY_ASSIGN(const std::string real, device(*link.origin, "real"));
    if (link.merging)
      row("error", "", length);
    else
      row("snapshot", fmt::format("{} {} P {}", real, cow, link.chunk_size / sector_size), length);
  } else {
    VOLFS_TRY(build_segments(lv));
  }
  plan_.devices.push_back(std::move(building_.back().device));
  return {};
}

Status Planner::build_segments(uint32_t lv) {
  const std::vector<Segment>& segments = group_.lvs[lv].segments;
  for (unsigned i = 0; i < segments.size(); i++) {
    const SegmentType* type = segments[i].known_type();
    if (type == nullptr)
      return fail_invalid(fmt::format("{}: {}", group_.lvs[lv].name, segments[i].unsupported));
    VOLFS_TRY(in(group_.lvs[lv].name, type->plan(*this, lv, i)));
  }
  return {};
}

Result<std::string> Planner::area(uint32_t lv, unsigned segment_number, unsigned area_number) {
  const LogicalVolume& described = group_.lvs[lv];
  const Segment& segment = described.segments[segment_number];
  const Area& area = segment.areas[area_number];
  if (area.kind == Area::Kind::lv) {
    VOLFS_TRY_ASSIGN(const std::string name, device(area.index));
    return fmt::format("{} {}", name, area.extent * group_.extent_size / sector_size);
  }
  const PhysicalVolume& pv = group_.pvs[area.index];
  if (const std::string& device = pv_devices_[area.index]; !device.empty())
    return fmt::format("{} {}", device,
                       (pv.data_start + area.extent * group_.extent_size) / sector_size);
  // A hole: lvm2 gives it a device of the segment's length that answers with errors.
  const std::string layer = fmt::format("missing_{}_{}", segment_number, area_number);
  PlannedDevice hole;
  hole.name = name_of(lv, layer);
  hole.uuid = fmt::format("LVM-{}{}-{}", group_.id.plain(), described.id.plain(), layer);
  hole.table.push_back({0, segment.count * group_.extent_size / sector_size, "error", ""});
  const std::string name = hole.name;
  plan_.devices.push_back(std::move(hole));
  return name + " 0";
}

void Planner::row(std::string_view type, std::string params, uint64_t length) {
  PlannedDevice& device = building_.back().device;
  TableRow row;
  row.start_sector = device.size() / sector_size;
  row.sectors = length / sector_size;
  row.type = type;
  row.params = std::move(params);
  device.table.push_back(std::move(row));
}

ActivationPlan activation_plan(const VolumeGroup& group, std::span<const std::string> pv_devices,
                               const PlanOptions& options) {
  std::vector<std::string> devices(pv_devices.begin(), pv_devices.end());
  devices.resize(group.pvs.size());
  return Planner(group, devices, options).run();
}

}  // namespace volfs::lvm
