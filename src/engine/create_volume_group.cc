// SPDX-License-Identifier: GPL-2.0-or-later
// What is to be made is found out twice: for the plan, as far as the devices are there already,
// and again when they all are.
#include "create_volume_group.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "array_options.h"
#include "assembler.h"
#include "below.h"
#include "design_volume_group.h"
#include "signatures.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

// A group's devices, opened.
class Devices {
 public:
  Devices(const config::Definition& definition, const config::VolumeGroup& group,
          const CreateOptions& options)
      : definition_(definition), group_(group), options_(options) {}
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  // False: PROBLEMS says why.
  bool open(bool read_only, config::Diagnostics& problems) {
    std::vector<std::string> names;
    for (const auto& pv : group_.physical_volumes) names.push_back(pv.device.value);
    part_ = needed_for(definition_, names);
    part_.snapshots.clear();  // of what is being made there are none yet
    AssembleOptions options;
    options.directory = options_.directory;
    options.open_image = options_.open_image;
    options.read_only = read_only;
    options.probe = read_only;
    auto assembled = Engine::assemble(part_, options);
    if (!assembled) {
      for (const config::Diagnostic& each : assembled.error().entries())
        problems.add(each.at, each.text);
      return false;
    }
    engine_ = std::move(*assembled);
    for (const auto& pv : group_.physical_volumes) {
      Node* node = engine_->graph().find(pv.device.value);
      if (!node) {
        problems.add(pv.device.at, fmt::format("there is no device '{}'", pv.device.value));
        return false;
      }
      devices_.push_back(node->device.get());
    }
    return true;
  }

  bool look(std::vector<PvDevice>& found, config::Diagnostics& problems) const {
    bool fine = true;
    for (size_t i = 0; i < devices_.size(); ++i) {
      const config::Text& name = group_.physical_volumes[i].device;
      PvDevice& pv = found.emplace_back();
      pv.size = devices_[i]->size();
      auto scanned = lvm::scan(*devices_[i]);
      if (scanned) {
        pv.found = std::move(*scanned);
        if (pv.found) pv.found->device = name.value;
      } else if (!options_.force) {
        problems.add(name.at, scanned.error().text());
        fine = false;
      }
      fine &= pv.found || options_.force || check_blank(i, problems);
    }
    return fine;
  }

  // What is on those that become physical volumes, or on which a new group takes the place of
  // another one; false: PROBLEMS says why it cannot be told.
  bool overwritten(const GroupDesign& design, std::vector<std::string>& loses,
                   config::Diagnostics& problems) const {
    for (size_t pv = 0; pv < design.pvs.size(); ++pv) {
      const bool fresh = std::ranges::find(design.new_pvs, pv) != design.new_pvs.end();
      if (!fresh && !design.new_group) continue;
      const size_t i = design.devices[pv];
      const config::Text& name = group_.physical_volumes[i].device;
      const auto holds = contents_of(*devices_[i]);
      if (!holds) {
        problems.add(name.at, holds.error().text());
        return false;
      }
      if (!holds->text.empty()) loses.push_back(fmt::format("{}: {}", name.value, holds->text));
    }
    return true;
  }

  BlockDevice& device(size_t i) const { return *devices_[i]; }
  Status close() { return engine_->close(); }

 private:
  bool check_blank(size_t i, config::Diagnostics& problems) const {
    const config::Text& name = group_.physical_volumes[i].device;
    const auto signatures = signatures_on(*devices_[i]);
    if (!signatures) {
      problems.add(name.at, signatures.error().text());
      return false;
    }
    for (const Signature& signature : *signatures)
      problems.add(name.at, fmt::format("{} holds {}; --force overwrites it", name.value,
                                        describe(signature)));
    return signatures->empty();
  }

  const config::Definition& definition_;
  const config::VolumeGroup& group_;
  const CreateOptions& options_;
  config::Definition part_;
  std::unique_ptr<Engine> engine_;
  std::vector<BlockDevice*> devices_;
};

lvm::Provenance provenance_of(const config::VolumeGroup& group) {
  return lvm::provenance(fmt::format("volfs create: volume group {}", group.name.value));
}

// New PVs, then what must read as zeros, then the metadata: a crash before its end leaves PVs of
// no group, and creating again goes on from there.
Status write(GroupDesign design, const Devices& devices, const lvm::Provenance& provenance) {
  const auto device_of = [&](size_t pv) -> BlockDevice& {
    return devices.device(design.devices[pv]);
  };
  for (const size_t pv : design.new_pvs) VOLFS_TRY(wipe_signatures(device_of(pv)));
  // A PV that was there gets its areas emptied and its label marked as in use.
  for (size_t pv = 0; design.new_group && pv < design.pvs.size(); ++pv) {
    VOLFS_TRY_ASSIGN(const auto plan, lvm::plan_pv(design.pvs[pv], pv));
    VOLFS_TRY(lvm::carry_out(plan, device_of));
  }
  for (const uint32_t lv : design.new_volumes)
    for (const lvm::ZeroRange& range : lvm::ranges_to_zero(design.group, lv))
      VOLFS_TRY(device_of(range.pv).write_zeroes(range.offset, range.length));
  std::vector<lvm::PvInfo> scanned;
  for (size_t pv = 0; pv < design.pvs.size(); ++pv) {
    VOLFS_TRY(device_of(pv).flush());
    VOLFS_TRY_ASSIGN(auto found, lvm::scan(device_of(pv)));
    if (!found)
      return fail(
          Error::make(EIO, design.pvs[pv].device + ": the label just written is not there"));
    scanned.push_back(std::move(*found));
    scanned.back().device = design.pvs[pv].device;
  }
  std::vector<const lvm::PvInfo*> pvs;
  for (const lvm::PvInfo& pv : scanned) pvs.push_back(&pv);
  VOLFS_TRY_ASSIGN(const auto plan, lvm::plan_commit(design.group, pvs, provenance));
  return lvm::carry_out(plan, device_of);
}

Status make(const config::Definition& definition, const config::VolumeGroup& group,
            const CreateOptions& options) {
  config::Diagnostics problems(definition.file_name);
  const auto told = [&]() -> Status {
    std::string text = problems.to_string();
    if (text.ends_with('\n')) text.pop_back();
    return fail_invalid(text);
  };
  Devices devices(definition, group, options);
  if (!devices.open(false, problems)) return told();
  std::vector<PvDevice> found;
  if (!devices.look(found, problems)) return told();
  const lvm::Provenance provenance = provenance_of(group);
  auto design = design_group(group, found, options.force, provenance, problems);
  if (!design) return told();
  VOLFS_TRY(write(std::move(*design), devices, provenance));
  return devices.close();
}

std::string text_of(const config::VolumeGroup& group, const GroupDesign& design) {
  std::string text;
  if (design.new_group) {
    uint64_t extents = 0;
    for (const lvm::PhysicalVolume& pv : design.group.pvs) extents += pv.extent_count;
    text = fmt::format("create volume group {}: {} physical volumes, {} extents of {}",
                       group.name.value, design.pvs.size(), extents,
                       format_size(design.group.extent_size));
  } else {
    text = fmt::format("create volumes in volume group {}", group.name.value);
  }
  for (const size_t pv : design.new_pvs)
    text += fmt::format("\n  {}: physical volume, {}", design.pvs[pv].device,
                        format_size(design.pvs[pv].device_size));
  for (const uint32_t lv : design.new_volumes) text += "\n  " + design.describe(lv);
  return text;
}

// The sizes of PVs whose images are still to be made; nothing if one is not an image or exists.
std::vector<PvDevice> coming_sizes(const config::Definition& definition,
                                   const config::VolumeGroup& group,
                                   const std::set<std::string>& coming) {
  std::vector<PvDevice> sizes;
  for (const auto& pv : group.physical_volumes) {
    const auto image = std::ranges::find_if(definition.images, [&](const config::Image& each) {
      return each.name.value == pv.device.value;
    });
    if (image == definition.images.end() || !coming.contains(pv.device.value) || !image->size ||
        image->length || image->offset.value != 0)
      return {};
    sizes.push_back({.size = image->size->value, .found = {}});
  }
  return sizes;
}

}  // namespace

void plan_volume_group(const config::Definition& definition, const config::VolumeGroup& group,
                       const CreateOptions& options, const std::set<std::string>& coming,
                       std::vector<CreateStep>& steps, config::Diagnostics& problems) {
  std::vector<std::string> names;
  for (const auto& pv : group.physical_volumes) names.push_back(pv.device.value);
  bool ready = true;
  for (const config::Item& item : needed_for(definition, names).build_order)
    ready &= !coming.contains(name_of(definition, item));
  std::vector<PvDevice> found;
  Devices devices(definition, group, options);
  if (ready) {
    if (!devices.open(true, problems) || !devices.look(found, problems)) return;
  } else if (may_be_made(group, problems)) {
    found = coming_sizes(definition, group, coming);
  } else {
    return;
  }
  std::string text = fmt::format("create volume group {}", group.name.value);
  std::vector<std::string> loses;
  if (!found.empty()) {
    const auto design = design_group(group, found, options.force, provenance_of(group), problems);
    if (!design || (!design->new_group && design->new_volumes.empty())) return;
    text = text_of(group, *design);
    if (ready && options.force && !devices.overwritten(*design, loses, problems)) return;
  }
  steps.push_back({text,
                   [&definition, &group, options] { return make(definition, group, options); },
                   std::move(loses)});
}

}  // namespace volfs::engine
