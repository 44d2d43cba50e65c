// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "assembler.h"
#include "scan_arrays.h"
#include "volfs/backing/image.h"
#include "volfs/backing/partitions.h"
#include "volfs/config/names.h"
#include "volfs/lvm/assemble.h"
#include "volfs/lvm/physical_volume.h"
#include "volfs/md/array.h"

namespace volfs::engine {
namespace {

AssembleOptions looking(const ScanOptions& options) {
  AssembleOptions o;
  o.read_only = true;
  o.force = options.force;
  o.quiet = true;
  o.overlay = options.overlay;
  o.metadata_seqno = options.metadata_seqno;
  return o;
}

// Builds what it finds as it goes, with what assembles definitions, because an array or a volume
// may hold members and physical volumes itself.
class Scanner {
 public:
  Scanner(const std::vector<std::string>& paths, const ScanOptions& options)
      : paths_(paths),
        pad_(options.pad),
        assemble_options_(looking(options)),
        assembler_(scan_.definition, assemble_options_) {
    scan_.definition.scanned = true;
    scan_.definition.file_name = paths.size() == 1 ? paths.front() : "images";
  }

  Result<Scan> run() {
    assembler_.begin();
    for (const std::string& path : paths_) VOLFS_TRY(look_at(path));
    while (build_next() || build_older_group()) look_at_volumes();
    separate_names();
    return scan_;
  }

 private:
  // The file's name without folders, as definitions write names; a second one of that name gets a
  // number.
  std::string name_for(const std::string& path) {
    std::string base = path.substr(path.find_last_of('/') + 1);
    for (char& c : base)
      if (config::bad_device_name(std::string("x") + c)) c = '_';
    constexpr size_t most = 100;  // bytes: suffixes must find room, and so must people
    if (base.size() > most) base.resize(most);
    if (config::bad_device_name(base)) base = "image" + base;
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
    VOLFS_TRY_ASSIGN(const auto partitions, list_partitions(real, pad_ ? size_for_table(real) : 0));
    if (partitions.empty()) return look_at_image(name, real, 0);
    if (is_member_itself(name, real, partitions)) {
      scan_.remarks.push_back(
          name + ": its partition table is left alone: the whole of it is a member of an array");
      return look_at_image(name, real, 0);
    }
    for (const Partition& partition : partitions) {
      if (partition.extended) continue;
      const std::string part = fmt::format("{}p{}", name, partition.number);
      names_.insert(part);
      if (auto looked = look_at_image(part, real, partition.number); !looked)
        scan_.remarks.push_back(looked.error().text());
    }
    return {};
  }

  // A GPT is only believed where all of its disk is there. 0: the file's own size.
  static uint64_t size_for_table(const std::string& path) {
    const auto whole = FileImage::open(path, path, {.read_only = true});
    const uint64_t wanted = partitioned_size(path);
    return whole && wanted > (*whole)->size() ? wanted : 0;
  }

  static std::optional<md::MemberMetadata> superblock_on(const std::string& name,
                                                         const std::string& path,
                                                         unsigned partition) {
    ImageOptions options;
    options.read_only = true;
    options.partition = partition;
    auto image = FileImage::open(name, path, options);
    if (!image) return std::nullopt;
    auto found = md::scan(**image);
    if (!found || !*found) return std::nullopt;
    (*found)->super_offset += (*image)->start();
    return std::move(**found);
  }

  // Whether the whole image is a member, not its partitions. A superblock at its end may be the
  // last partition's (0.90 does not record where it belongs), and one at its start may be left over
  // from before it was partitioned: then a partition's is younger.
  static bool is_member_itself(const std::string& name, const std::string& path,
                               const std::vector<Partition>& partitions) {
    const auto whole = superblock_on(name, path, 0);
    if (!whole) return false;
    return std::ranges::none_of(partitions, [&](const Partition& partition) {
      if (partition.extended) return false;
      const auto part = superblock_on(name, path, partition.number);
      return part && (part->super_offset == whole->super_offset ||
                      part->array.ctime.seconds >= whole->array.ctime.seconds);
    });
  }

  Status look_at_image(const std::string& name, const std::string& path, unsigned partition) {
    config::Image described;
    described.name.value = name;
    described.path.value = path;
    if (partition != 0) described.partition = config::Located<uint32_t>{partition, {}};
    const std::optional<Wanted> wanted = size_wanted(name, path, partition);
    if (wanted) remark_cut(name, *wanted);
    if (wanted && pad_) described.pad = config::Located<uint64_t>{wanted->size, {}};
    auto& images = scan_.definition.images;
    images.push_back(std::move(described));
    BlockDevice* device = build({config::DeviceKind::image, images.size() - 1}, name);
    if (!device) {
      images.pop_back();
      return fail_invalid(assembler_.take_problems());
    }
    if (wanted && !wanted->member) {
      VOLFS_TRY(look_for_volumes(name, *device));
      return {};
    }
    if (wanted && !pad_) {  // md takes no member that is smaller than it was
      cut_members_.push_back({name, *wanted->superblock});
      return {};
    }
    VOLFS_TRY_ASSIGN(const bool known, look_at_device(name, *device, true));
    const auto* image = dynamic_cast<const FileImage*>(device);
    if (!known && image) remark_signatures(name, path, image->start(), image->size());
    return {};
  }

  // The device of an item that was just added to the definition; null, with a problem reported, if
  // it cannot be built.
  BlockDevice* build(const config::Item& item, const std::string& name) {
    assembler_.build(item);
    if (assembler_.has_problems()) return nullptr;
    const Node* node = assembler_.engine().graph().find(name);
    if (!node) return nullptr;
    scan_.definition.build_order.push_back(item);
    return node->device.get();
  }

  // Whether it is a member or a physical volume. lvm2 by default does not look for physical volumes
  // on logical ones: those are the disks of other machines.
  Result<bool> look_at_device(const std::string& name, BlockDevice& device, bool volumes_too) {
    auto member = md::scan(device);
    // A volume that is to give errors, or an array whose members are cut off, bears no superblock
    // where it cannot be read; of images that is only believed where nothing is written to them.
    const bool composed = dynamic_cast<const FileImage*>(&device) == nullptr;
    if (!member && member.error().code() == EIO && (composed || pad_)) member = std::nullopt;
    if (!member) {
      scan_.remarks.push_back(member.error().text());
      return true;  // whatever else is there belongs to the array
    }
    if (*member) {
      add_member({name, std::move(**member)});
      return true;
    }
    if (!volumes_too) return false;
    return look_for_volumes(name, device);
  }

  Result<bool> look_for_volumes(const std::string& name, BlockDevice& device) {
    VOLFS_TRY_ASSIGN(auto found, lvm::scan(device));
    if (!found) return false;
    found->device = name;
    physical_volumes_.push_back(std::move(*found));
    return true;
  }

  // What the file of an image was as large as, at least, if it has been cut off since.
  struct Wanted {
    uint64_t size = 0;
    bool member = false;  // of an array; else a physical volume
    uint64_t left = 0;
    std::optional<md::MemberMetadata> superblock;  // of a member
  };
  std::optional<Wanted> size_wanted(const std::string& name, const std::string& path,
                                    unsigned partition) {
    ImageOptions options{.read_only = true, .partition = partition};
    const auto whole = FileImage::open(name, path, {.read_only = true});
    if (!whole) return std::nullopt;
    options.pad = max_device_size;
    const auto image = FileImage::open(name, path, options);
    if (!image) return std::nullopt;
    Wanted wanted{.size = (*image)->start()};
    if (const auto member = md::scan(**image); member && *member) {
      wanted.size += (*member)->data_offset + (*member)->data_size;
      wanted.member = true;
      wanted.superblock = **member;
    } else if (const auto volume = lvm::scan(**image); volume && *volume) {
      wanted.size += (*volume)->label.device_size;
    } else {
      return std::nullopt;
    }
    if (partition != 0)
      wanted.size = std::max((*image)->start() + (*image)->size(), size_for_table(path));
    if (wanted.size <= (*whole)->size() || wanted.size > max_device_size) return std::nullopt;
    std::error_code error;  // a block device has no size of a file
    const uint64_t exact = std::filesystem::file_size(path, error);
    wanted.left = error ? (*whole)->size() : exact;
    return wanted;
  }

  void remark_cut(const std::string& name, const Wanted& wanted) {
    scan_.cut_off.push_back({name, wanted.left, wanted.size});
    const std::string what = fmt::format(
        "{}: cut off: its file ends at byte {}, and what is on it was {} bytes large: {} "
        "bytes are missing",
        name, wanted.left, wanted.size, wanted.size - wanted.left);
    if (pad_ || !wanted.member)
      scan_.remarks.push_back(
          fmt::format("{}, and answer with errors{}", what,
                      wanted.member ? ", unless other members of its array have them" : ""));
    else
      scan_.remarks.push_back(
          fmt::format("{}: it is left out of its array; what is left of it is used by volfs mount "
                      "--rescue, or by a definition with `pad: {}` as volfs scan --yaml writes it",
                      what, wanted.size));
  }

  void add_member(ArrayMember member) {
    for (Group& group : groups_) {
      if (group.array.uuid() != member.sb.array.uuid) continue;
      if (group.done)
        scan_.remarks.push_back(
            fmt::format("{}: left out: a member of an array that was assembled before it was found",
                        member.device));
      else
        group.array.add(std::move(member));
      return;
    }
    groups_.push_back({ArrayGroup(member.sb.array.uuid), false});
    groups_.back().array.add(std::move(member));
  }

  void remark_signatures(const std::string& name, const std::string& path, uint64_t start,
                         uint64_t size) {
    const auto signatures = probe_signatures(path, start, size);
    if (!signatures) return;
    if (signatures->empty())
      scan_.remarks.push_back(name +
                              ": nothing on it is recognised: no superblock, label or signature");
    for (const Signature& signature : *signatures)
      scan_.remarks.push_back(fmt::format("{}: {}", name, describe(signature)));
  }

  // What is whole goes first: what seems to be missing may turn up on it.
  bool build_next() {
    for (const bool whole : {true, false}) {
      for (Group& group : groups_) {
        if (group.done || (whole && !group.array.complete())) continue;
        build_array(group);
        return true;
      }
      if (build_group(whole)) return true;
    }
    return false;
  }

  struct Group {
    ArrayGroup array;
    bool done;
  };

  std::string array_name(const ArrayGroup& group, FoundArray& found) {
    std::string wanted = group.wanted_name();
    if (names_.insert(wanted).second) return wanted;
    std::string name = fmt::format("{}-{}", wanted, found.uuid.substr(0, 8));
    while (!names_.insert(name).second) name += '_';
    found.notes.push_back(
        fmt::format("it is shown as '{}', because there is another '{}'", name, wanted));
    return name;
  }

  // The device, or null with the array's problem.
  BlockDevice* try_array(FoundArray& found) {
    auto& arrays = scan_.definition.arrays;
    arrays.push_back(found.definition);
    // A volume group may have the same name; see separate_names().
    arrays.back().hidden.value = true;
    BlockDevice* device = build({config::DeviceKind::array, arrays.size() - 1}, found.name);
    found.problem = assembler_.take_problems();
    if (const std::string prefix = found.name + ": "; found.problem.starts_with(prefix))
      found.problem.erase(0, prefix.size());
    arrays.back().hidden.value = false;
    if (!device) arrays.pop_back();
    return device;
  }

  void build_array(Group& group) {
    group.done = true;
    FoundArray found = group.array.describe(assemble_options_.force);
    BlockDevice* device = nullptr;
    found.name = array_name(group.array, found);
    found.definition.name.value = found.name;
    if (found.problem.empty()) {
      device = try_array(found);
      if (!device && group.array.put_left_out(found)) {
        device = try_array(found);
        found.definition.force.value = device != nullptr;  // nor can a definition have it otherwise
      }
    }
    const auto* array = dynamic_cast<const md::Array*>(device);
    group.array.tell(found, array ? array->status() : md::ArrayStatus(), cut_members_);
    if (device) {  // what is on it may be another group
      found.size = device->size();
      if (auto known = look_at_device(found.name, *device, true); !known)
        scan_.remarks.push_back(known.error().text());
    }
    scan_.arrays.push_back(std::move(found));
  }

  bool build_group(bool whole) {
    const lvm::Assembly assembly = lvm::assemble(physical_volumes_);
    for (const std::string& warning : assembly.warnings) remark(warning);
    std::set<lvm::Id> seen;
    for (const lvm::FoundGroup& found : assembly.groups) {
      const bool complete = std::ranges::all_of(found.pvs, [](const auto& pv) { return !!pv; });
      if (!seen.insert(found.group.id).second)
        remark(fmt::format("a copy of volume group '{}' is left out: {}", found.group.name,
                           found.warnings.back()));
      if ((whole && !complete) || !built_groups_.insert(found.group.id).second) continue;
      add_group(found);
      return true;
    }
    return false;
  }

  void remark(std::string text) {
    if (remarked_.insert(text).second) scan_.remarks.push_back(std::move(text));
  }

  // Of groups of one name, some may have been built before the others were found.
  std::string group_name(const lvm::FoundGroup& found) {
    const bool taken = std::ranges::any_of(scan_.definition.volume_groups, [&](const auto& each) {
      return each.name.value == found.shown_name;
    });
    std::string name = taken ? lvm::full_name(found.group) : found.shown_name;
    if (name != found.group.name)
      remark(fmt::format("there is another volume group of the name '{}'; this one is '{}'",
                         found.group.name, name));
    return name;
  }

  // A group whose newest metadata cannot be read, as the copy that is asked for describes it.
  bool build_older_group() {
    if (!assemble_options_.metadata_seqno) return false;
    for (const size_t pv : lvm::assemble(physical_volumes_).unused) {
      const Node* node = assembler_.engine().graph().find(physical_volumes_[pv].device);
      for (const lvm::MetadataArea& area : physical_volumes_[pv].areas) {
        const auto copies = lvm::list_copies(*node->device, area);
        if (!copies) continue;
        for (const lvm::MetadataCopy& copy : *copies) {
          if (copy.seqno != *assemble_options_.metadata_seqno) continue;
          const auto older = lvm::assemble_as(physical_volumes_, copy);
          if (!older || !built_groups_.insert(older->group.id).second) continue;
          add_group(*older);
          return true;
        }
      }
    }
    return false;
  }

  void add_group(const lvm::FoundGroup& found) {
    const std::string name = group_name(found);
    if (!found.doubled_reason.empty())
      scan_.remarks.push_back(fmt::format("{}: {}", name, found.doubled_reason));
    // Of whole copies none can be taken.
    if (std::ranges::none_of(found.pvs, [](const auto& pv) { return !!pv; })) return;
    config::VolumeGroup group;
    group.name.value = name;
    Scan::PhysicalVolumes& pvs = scan_.physical_volumes[name];
    pvs.all = found.pvs.size();
    const auto add = [&](size_t pv) {
      config::PhysicalVolume described;
      described.device.value = physical_volumes_[pv].device;
      group.physical_volumes.push_back(std::move(described));
    };
    for (const auto& pv : found.pvs) {
      if (pv)
        add(*pv);
      else
        pvs.missing++;
    }
    // Given, too, so that who assembles the definition knows what is so.
    for (const size_t pv : found.doubles) {
      add(pv);
      pvs.doubles.push_back(physical_volumes_[pv].device);
    }
    auto& groups = scan_.definition.volume_groups;
    groups.push_back(std::move(group));
    const config::Item item{config::DeviceKind::volume_group, groups.size() - 1};
    assembler_.build(item);
    scan_.definition.build_order.push_back(item);
    if (const std::string problem = assembler_.take_problems(); !problem.empty())
      scan_.remarks.push_back(problem);
  }

  // Members of arrays may be logical volumes.
  void look_at_volumes() {
    for (Node* node : assembler_.engine().graph().nodes()) {
      if (node->kind != Kind::logical_volume || !node->volume) continue;
      const std::string path = node->volume->path();
      if (!volumes_.insert(path).second) continue;
      // A volume that cannot be read has been told of by its group.
      (void)look_at_device(path, *node->device, false);
    }
  }

  // Images, arrays and groups share one space of names, but a group must keep its own.
  void separate_names() {
    std::set<std::string> groups;
    for (const auto& group : scan_.definition.volume_groups) groups.insert(group.name.value);
    for (config::Image& image : scan_.definition.images)
      if (groups.contains(image.name.value)) rename(image.name, "-image");
    for (FoundArray& array : scan_.arrays) {
      if (!groups.contains(array.name)) continue;
      const std::string name = rename(array.definition.name, "-array");
      for (config::Array& each : scan_.definition.arrays)
        if (each.name.value == array.name) each.name.value = name;
      array.notes.push_back(fmt::format("it is shown as '{}', because there is a volume group '{}'",
                                        name, array.name));
      array.name = name;
    }
  }

  // A new name, also where the old one is used.
  std::string rename(config::Text& name, const char* suffix) {
    const std::string old = name.value;
    do name.value += suffix;
    while (!names_.insert(name.value).second);
    const auto update = [&](config::Text& use) {
      if (use.value == old) use.value = name.value;
    };
    for (auto& [group, pvs] : scan_.physical_volumes)
      std::ranges::replace(pvs.doubles, old, name.value);
    for (CutImage& cut : scan_.cut_off)
      if (cut.name == old) cut.name = name.value;
    for (config::Array& array : scan_.definition.arrays)
      for (auto* list : {&array.devices, &array.spares})
        for (config::ArrayDevice& device : *list) update(device.device);
    for (config::VolumeGroup& group : scan_.definition.volume_groups)
      for (config::PhysicalVolume& pv : group.physical_volumes) update(pv.device);
    return name.value;
  }

  const std::vector<std::string>& paths_;
  const bool pad_;
  const AssembleOptions assemble_options_;
  Scan scan_;
  Assembler assembler_;
  std::set<std::string> names_, files_, remarked_, volumes_;
  std::set<lvm::Id> built_groups_;
  std::vector<Group> groups_;
  std::vector<ArrayMember> cut_members_;  // left out
  std::vector<lvm::PvInfo> physical_volumes_;
};

}  // namespace

Result<Scan> scan_images(const std::vector<std::string>& paths, const ScanOptions& options) {
  return Scanner(paths, options).run();
}

}  // namespace volfs::engine
