// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <set>

#include "volfs/backing/image.h"
#include "volfs/backing/partitions.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/physical_volume.h"

namespace volfs::engine {
namespace {

class Scanner {
 public:
  explicit Scanner(const std::vector<std::string>& paths) : paths_(paths) {
    scan_.definition.file_name = paths.size() == 1 ? paths.front() : "images";
  }

  Result<Scan> run() {
    for (const std::string& path : paths_) VOLFS_TRY(look_at(path));
    add_groups();
    return std::move(scan_);
  }

 private:
  // The file's name without folders; a second one of that name gets a number.
  std::string name_for(const std::string& path) {
    const std::string base = path.substr(path.find_last_of('/') + 1);
    std::string name = base;
    for (int i = 2; !names_.insert(name).second; ++i) name = fmt::format("{}-{}", base, i);
    return name;
  }

  Status look_at(const std::string& path) {
    char* whole = realpath(path.c_str(), nullptr);
    if (!whole) return fail_sys(errno, path);
    const std::string real(whole);
    free(whole);
    if (!files_.insert(real).second) return fail_invalid(path + ": given twice");
    const std::string name = name_for(path);
    VOLFS_TRY_ASSIGN(const auto partitions, list_partitions(real));
    if (partitions.empty()) return look_at_device(name, real, 0);
    for (const Partition& partition : partitions) {
      if (partition.extended) continue;
      const std::string part = fmt::format("{}p{}", name, partition.number);
      names_.insert(part);
      if (auto looked = look_at_device(part, real, partition.number); !looked)
        scan_.remarks.push_back(looked.error().text());
    }
    return {};
  }

  Status look_at_device(const std::string& name, const std::string& path, unsigned partition) {
    ImageOptions options;
    options.read_only = true;
    options.partition = partition;
    VOLFS_TRY_ASSIGN(const auto image, FileImage::open(name, path, options));
    config::Image described;
    described.name.value = name;
    described.path.value = path;
    if (partition != 0) described.partition = config::Located<uint32_t>{partition, {}};
    scan_.definition.images.push_back(std::move(described));
    VOLFS_TRY_ASSIGN(auto found, lvm::scan(*image));
    if (!found) {
      remark_signatures(name, path, image->start(), image->size());
      return {};
    }
    found->device = name;
    physical_volumes_.push_back(std::move(*found));
    return {};
  }

  void remark_signatures(const std::string& name, const std::string& path, uint64_t start,
                         uint64_t size) {
    const auto signatures = probe_signatures(path, start, size);
    if (!signatures) return;
    for (const Signature& signature : *signatures)
      scan_.remarks.push_back(fmt::format("{}: {}", name, describe(signature)));
  }

  void add_groups() {
    const lvm::Assembly assembly = lvm::assemble(physical_volumes_);
    for (const std::string& warning : assembly.warnings) scan_.remarks.push_back(warning);
    for (const lvm::FoundGroup& found : assembly.groups) {
      if (found.shown_name != found.group.name) {
        scan_.remarks.push_back(
            fmt::format("a second volume group of the name '{}' ({}) is left "
                        "out",
                        found.group.name, found.shown_name));
        continue;
      }
      config::VolumeGroup group;
      group.name.value = found.group.name;
      for (const auto& pv : found.pvs) {
        if (!pv) continue;
        config::PhysicalVolume described;
        described.device.value = physical_volumes_[*pv].device;
        group.physical_volumes.push_back(std::move(described));
      }
      scan_.definition.volume_groups.push_back(std::move(group));
    }
    auto& order = scan_.definition.build_order;
    for (size_t i = 0; i < scan_.definition.images.size(); ++i)
      order.push_back({config::DeviceKind::image, i});
    for (size_t i = 0; i < scan_.definition.volume_groups.size(); ++i)
      order.push_back({config::DeviceKind::volume_group, i});
  }

  const std::vector<std::string>& paths_;
  Scan scan_;
  std::set<std::string> names_, files_;
  std::vector<lvm::PvInfo> physical_volumes_;
};

}  // namespace

Result<Scan> scan_images(const std::vector<std::string>& paths) {
  return Scanner(paths).run();
}

}  // namespace volfs::engine
