// SPDX-License-Identifier: GPL-2.0-or-later
#include "design_volume_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "volfs/lvm/assemble.h"

namespace volfs::engine {
namespace {

lvm::SizeRequest size_of(const config::LvSize& size) {
  using Unit = config::LvSize::Unit;
  using Of = lvm::SizeRequest::Of;
  switch (size.unit) {
    case Unit::bytes:
      return {Of::bytes, size.value};
    case Unit::extents:
      return {Of::extents, size.value};
    case Unit::percent_free:
      return {Of::free, size.value};
    case Unit::percent_vg:
      return {Of::group, size.value};
    case Unit::percent_pvs:
      return {Of::pvs, size.value};
    case Unit::percent_origin:
      return {Of::origin, size.value};
  }
  return {};
}

std::string policy_name(config::Allocation allocation) {
  if (allocation == config::Allocation::inherit) return "";
  return std::string(config::word_of(allocation));
}

// A new volume has no place to cling to.
lvm::AllocationPolicy policy_of(config::Allocation volume, config::Allocation group) {
  switch (volume == config::Allocation::inherit ? group : volume) {
    case config::Allocation::contiguous:
      return lvm::AllocationPolicy::contiguous;
    case config::Allocation::anywhere:
      return lvm::AllocationPolicy::anywhere;
    default:
      return lvm::AllocationPolicy::normal;
  }
}

lvm::Words words(const std::vector<config::Text>& texts) {
  lvm::Words out;
  for (const config::Text& text : texts) out.push_back(text.value);
  return out;
}

class Designer {
 public:
  Designer(const config::VolumeGroup& wanted, std::span<const PvDevice> devices, bool force,
           const lvm::Provenance& provenance, config::Diagnostics& problems)
      : wanted_(wanted),
        devices_(devices),
        force_(force),
        provenance_(provenance),
        problems_(problems) {
    // Ids are chosen by chance, unless the whole result is to be a function of the definition.
    const bool reproducible = std::getenv("SOURCE_DATE_EPOCH") != nullptr && wanted.uuid;
    ids_ = reproducible ? lvm::seeded_ids(wanted.uuid->value) : lvm::random_ids();
  }

  std::optional<GroupDesign> run() {
    if (!find_group() || (design_.new_group && !make_group())) return std::nullopt;
    bool all = true;
    // In the order of the file, but for snapshots that stand before their origins.
    std::vector<const config::LogicalVolume*> early;
    for (const config::LogicalVolume& volume : wanted_.logical_volumes) {
      if (design_.group.find_lv(volume.name.value)) continue;
      if (!volume.origin.value.empty() && !design_.group.find_lv(volume.origin.value))
        early.push_back(&volume);
      else
        all &= add_volume(volume);
    }
    for (const config::LogicalVolume* volume : early) all &= add_volume(*volume);
    if (!all) return std::nullopt;
    return std::move(design_);
  }

 private:
  bool refuse(config::Position at, std::string text) {
    problems_.add(at, text);
    return false;
  }
  bool refuse(config::Position at, const Error& error) { return refuse(at, error.text()); }

  lvm::Id id_of(const config::Optional<std::string>& uuid) {
    // The definition's reader has checked it.
    if (uuid)
      if (auto id = lvm::Id::parse(uuid->value)) return *id;
    return ids_();
  }

  // The group on the devices, if it is there.
  bool find_group() {
    std::vector<lvm::PvInfo> found;
    std::vector<size_t> device_of;
    for (size_t i = 0; i < devices_.size(); ++i)
      if (devices_[i].found) {
        found.push_back(*devices_[i].found);
        device_of.push_back(i);
      }
    const lvm::Assembly assembly = lvm::assemble(found);
    const lvm::FoundGroup* const meant = lvm::find_group(assembly, wanted_.name.value);
    design_.new_group = true;
    bool fine = true;
    for (const lvm::FoundGroup& candidate : assembly.groups) {
      if (&candidate == meant) {
        fine &= take_group(candidate, found, device_of);
        continue;
      }
      for (const auto& pv : candidate.pvs)
        if (pv && !force_)
          fine = refuse(
              place(device_of[*pv]),
              fmt::format("{} is a physical volume of volume group '{}' ({}); --force "
                          "overwrites it",
                          found[*pv].device, candidate.group.name, candidate.group.id.dashed()));
    }
    for (const size_t pv : assembly.unused) orphans_.push_back(device_of[pv]);
    return fine;
  }

  bool take_group(const lvm::FoundGroup& candidate, const std::vector<lvm::PvInfo>& found,
                  const std::vector<size_t>& device_of) {
    design_.new_group = false;
    design_.group = candidate.group;
    if (!candidate.doubled_reason.empty())
      return refuse(wanted_.name.at,
                    fmt::format("{}: {}", wanted_.name.value, candidate.doubled_reason));
    std::vector<bool> used(devices_.size());
    for (size_t i = 0; i < candidate.pvs.size(); ++i) {
      if (!candidate.pvs[i] || candidate.group.pvs[i].marked_missing())
        return refuse(wanted_.name.at, fmt::format("{}: PV {} is missing", wanted_.name.value,
                                                   candidate.group.pvs[i].id.dashed()));
      design_.pvs.push_back(found[*candidate.pvs[i]]);
      design_.devices.push_back(device_of[*candidate.pvs[i]]);
      used[design_.devices.back()] = true;
    }
    bool fine = true;
    for (size_t i = 0; i < devices_.size(); ++i)
      if (!used[i])
        fine = refuse(place(i), fmt::format("{} does not belong to volume group '{}', which is "
                                            "there; expected only its physical volumes",
                                            name(i), wanted_.name.value));
    if (fine && !candidate.read_only_reason.empty())
      return refuse(wanted_.name.at,
                    fmt::format("{}: {}", wanted_.name.value, candidate.read_only_reason));
    return fine;
  }

  bool make_group() {
    if (!may_be_made(wanted_, problems_)) return false;
    for (size_t i = 0; i < devices_.size(); ++i) {
      const config::PhysicalVolume& pv = wanted_.physical_volumes[i];
      design_.devices.push_back(i);
      const bool orphan = std::ranges::find(orphans_, i) != orphans_.end();
      if (orphan && (!pv.uuid || devices_[i].found->label.id == id_of(pv.uuid))) {
        design_.pvs.push_back(*devices_[i].found);
        continue;
      }
      auto made =
          lvm::make_pv({.device = name(i), .device_size = devices_[i].size, .id = id_of(pv.uuid)});
      if (!made) return refuse(place(i), made.error());
      design_.new_pvs.push_back(design_.pvs.size());
      design_.pvs.push_back(std::move(*made));
    }
    lvm::GroupParameters parameters;
    parameters.name = wanted_.name.value;
    parameters.id = id_of(wanted_.uuid);
    parameters.extent_size = wanted_.extent_size.value;
    parameters.tags = words(wanted_.tags);
    parameters.allocation_policy = policy_name(wanted_.alloc.value);
    auto group = lvm::make_group(parameters, design_.pvs);
    if (!group) return refuse(wanted_.name.at, group.error());
    design_.group = std::move(*group);
    for (size_t i = 0; i < devices_.size(); ++i) {
      const config::PhysicalVolume& pv = wanted_.physical_volumes[i];
      for (const config::Text& tag : pv.tags)
        if (auto added = lvm::add_tag(design_.group.pvs[i].tags, tag.value); !added)
          return refuse(tag.at, added.error());
      if (!pv.allocatable.value) lvm::drop(design_.group.pvs[i].status, "ALLOCATABLE");
    }
    return true;
  }

  // The group's PVs on the devices that the volume names.
  std::vector<uint32_t> chosen_pvs(const config::LogicalVolume& volume) const {
    std::vector<uint32_t> out;
    for (const config::Text& device : volume.physical_volumes)
      for (uint32_t pv = 0; pv < design_.devices.size(); ++pv)
        if (name(design_.devices[pv]) == device.value) out.push_back(pv);
    return out;
  }

  bool add_volume(const config::LogicalVolume& volume) {
    auto made =
        volume.type.value == config::LvType::snapshot ? make_snapshot(volume) : make_volume(volume);
    if (!made) return refuse(volume.name.at, made.error());
    design_.new_volumes.push_back(*made);
    return true;
  }

  // What both kinds have in common.
  template <class Parameters>
  void fill(const config::LogicalVolume& volume, Parameters& out) const {
    out.name = volume.name.value;
    if (volume.uuid)
      if (auto id = lvm::Id::parse(volume.uuid->value)) out.id = *id;
    out.size = size_of(volume.size.value);
    out.allocation = policy_of(volume.alloc.value, wanted_.alloc.value);
    out.allocation_policy = policy_name(volume.alloc.value);
    out.pvs = chosen_pvs(volume);
    out.read_only = volume.permission.value == config::Permission::read_only;
    out.tags = words(volume.tags);
  }

  Result<uint32_t> make_volume(const config::LogicalVolume& volume) {
    lvm::VolumeParameters parameters;
    fill(volume, parameters);
    parameters.type = config::to_string(volume.type.value);
    parameters.stripes = volume.stripes.value;
    parameters.mirrors = volume.mirrors.value;
    parameters.stripe_size = volume.stripe_size.value;
    parameters.nosync = volume.nosync.value;
    if (volume.region_size) parameters.region_size = volume.region_size->value;
    return lvm::create_volume(design_.group, parameters, ids_, provenance_);
  }

  Result<uint32_t> make_snapshot(const config::LogicalVolume& volume) {
    lvm::SnapshotParameters parameters;
    fill(volume, parameters);
    parameters.origin = volume.origin.value;
    parameters.chunk_size = volume.chunk_size.value;
    return lvm::create_snapshot(design_.group, parameters, ids_, provenance_);
  }

  config::Position place(size_t device) const { return wanted_.physical_volumes[device].device.at; }
  const std::string& name(size_t device) const {
    return wanted_.physical_volumes[device].device.value;
  }

  const config::VolumeGroup& wanted_;
  const std::span<const PvDevice> devices_;
  const bool force_;
  const lvm::Provenance& provenance_;
  config::Diagnostics& problems_;
  lvm::IdSource ids_;
  std::vector<size_t> orphans_;  // devices with a PV of no group
  GroupDesign design_;
};

}  // namespace

std::string GroupDesign::describe(uint32_t lv) const {
  const lvm::LogicalVolume& described = group.lvs[lv];
  std::string type = "nothing";
  if (!described.segments.empty()) type = described.segments[0].type;
  if (type == "striped" && described.segments[0].areas.size() == 1) type = "linear";
  if (const auto link = group.link_of_cow(lv))
    type = "snapshot of " + group.lvs[*group.lvs[*link].segments[0].origin].name;
  std::string text =
      fmt::format("{}/{}: {}, {} extents", group.name, described.name, type, described.extents());
  for (const lvm::Segment& segment : described.segments)
    for (const lvm::Area& area : segment.areas) {
      if (area.kind != lvm::Area::Kind::pv) continue;
      const uint32_t count = segment.count / static_cast<uint32_t>(segment.areas.size());
      text += fmt::format("{} {} {}-{}", text.ends_with("extents") ? ":" : ",",
                          pvs[area.index].device, area.extent, area.extent + count - 1);
    }
  return text;
}

bool may_be_made(const config::VolumeGroup& wanted, config::Diagnostics& problems) {
  if (!wanted.name.value.contains('@')) return true;
  problems.add(
      wanted.name.at,
      fmt::format("there is no volume group '{}' on its physical volumes, and none is made "
                  "by a name with a uuid; expected a name of its own for a new one",
                  wanted.name.value));
  return false;
}

std::optional<GroupDesign> design_group(const config::VolumeGroup& wanted,
                                        std::span<const PvDevice> devices, bool force,
                                        const lvm::Provenance& provenance,
                                        config::Diagnostics& problems) {
  return Designer(wanted, devices, force, provenance, problems).run();
}

}  // namespace volfs::engine
