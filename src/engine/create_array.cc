// SPDX-License-Identifier: GPL-2.0-or-later
// Making md arrays: superblocks and bitmaps on devices that hold nothing else.
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "array_options.h"
#include "assembler.h"
#include "volfs/backing/image.h"
#include "volfs/backing/partitions.h"
#include "volfs/md/array.h"
#include "volfs/sync.h"

namespace volfs::engine {
namespace {

md::SuperblockVersion version_of(config::ArrayMetadata metadata) {
  switch (metadata) {
    case config::ArrayMetadata::v0_90:
      return md::SuperblockVersion::v0_90;
    case config::ArrayMetadata::v1_0:
      return md::SuperblockVersion::v1_0;
    case config::ArrayMetadata::v1_1:
      return md::SuperblockVersion::v1_1;
    case config::ArrayMetadata::v1_2:
      break;
  }
  return md::SuperblockVersion::v1_2;
}

Result<md::Uuid> random_uuid() {
  md::Uuid uuid;
  if (getrandom(uuid.bytes.data(), uuid.bytes.size(), 0) != static_cast<ssize_t>(uuid.bytes.size()))
    return fail_sys(errno, "getrandom");
  return uuid;
}

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return {};
  return name;
}

std::vector<const config::ArrayDevice*> all_devices(const config::Array& array) {
  std::vector<const config::ArrayDevice*> list;
  for (const auto& each : array.devices) list.push_back(&each);
  for (const auto& each : array.spares) list.push_back(&each);
  return list;
}

const config::Image* find_image(const config::Definition& definition, const std::string& name) {
  for (const config::Image& image : definition.images)
    if (image.name.value == name) return &image;
  return nullptr;
}

// The definition up to ARRAY: what its devices may be built of.
config::Definition below(const config::Definition& definition, const config::Array& array) {
  config::Definition part = definition;
  std::erase_if(part.build_order, [after = false, &definition,
                                   &array](const config::Item& item) mutable {
    after = after ||
            (item.kind == config::DeviceKind::array && &definition.arrays[item.index] == &array);
    return after;
  });
  const auto used = all_devices(array);
  const bool plain = std::all_of(used.begin(), used.end(), [&](const auto* each) {
    return each->missing || find_image(definition, each->device.value);
  });
  // Images that it does not use need not even exist.
  if (plain)
    std::erase_if(part.build_order, [&](const config::Item& item) {
      if (item.kind != config::DeviceKind::image) return true;
      return std::none_of(used.begin(), used.end(), [&](const auto* each) {
        return each->device.value == definition.images[item.index].name.value;
      });
    });
  part.readonly.value = false;
  return part;
}

Result<md::CreateOptions> options_of(const config::Array& array) {
  md::CreateOptions o;
  o.level = md_level(array.level.value);
  o.version = version_of(array.metadata.value);
  if (array.layout) o.layout = array.layout->value;
  if (array.chunk) o.chunk = array.chunk->value;
  o.raid_disks = static_cast<uint32_t>(array.devices.size());
  if (array.size) o.size = array.size->value;
  o.name = array.array_name ? array.array_name->value : array.name.value;
  o.homehost = array.homehost ? array.homehost->value : host_name();
  if (array.bitmap)
    o.bitmap = array.bitmap->value == config::ArrayBitmap::internal ? md::BitmapChoice::internal
                                                                    : md::BitmapChoice::none;
  if (array.bitmap_chunk) o.bitmap_chunk = array.bitmap_chunk->value;
  if (array.write_behind) o.write_behind = array.write_behind->value;
  o.assume_clean = array.assume_clean.value;
  o.ppl = array.consistency && array.consistency->value == config::ArrayConsistency::ppl;
  o.force = array.force.value;
  if (array.data_offset) o.data_offset = array.data_offset->value;
  o.now = static_cast<uint64_t>(wall_clock() / std::chrono::seconds(1));
  if (array.uuid) {
    o.uuid.bytes = array.uuid->value;
  } else {
    VOLFS_TRY_ASSIGN(o.uuid, random_uuid());
  }
  return o;
}

Status make(const config::Definition& definition, const config::Array& array,
            const AssembleOptions& assemble) {
  auto engine = Engine::assemble(below(definition, array), assemble);
  if (!engine) return fail_invalid(engine.error().to_string());
  VOLFS_TRY_ASSIGN(md::CreateOptions o, options_of(array));
  std::vector<BlockDevice*> devices;
  for (const config::ArrayDevice* each : all_devices(array)) {
    md::CreateDevice device{.missing = each->missing,
                            .write_mostly = each->write_mostly.value,
                            .failfast = each->failfast.value};
    devices.push_back(nullptr);
    if (!each->missing) {
      const Node* node = (*engine)->graph().find(each->device.value);
      if (!node)
        return fail(
            Error::make(ENOENT, fmt::format("there is no device '{}'", each->device.value)));
      devices.back() = node->device.get();
      device.size = node->device->size();
    }
    o.devices.push_back(device);
    VOLFS_TRY_ASSIGN(const md::Uuid uuid, random_uuid());
    o.device_uuids.push_back(uuid);
  }
  VOLFS_TRY_ASSIGN(const md::CreatePlan plan, md::plan_create(o));
  VOLFS_TRY(md::write_new_members(plan, devices));
  return (*engine)->close();
}

// What an image holds: nothing, a member of an array, or something else that is named.
struct Holding {
  std::optional<md::Uuid> array;
  std::string other;
};
Result<Holding> look(const config::Image& image, const std::string& path) {
  Holding holding;
  ImageOptions options;
  options.read_only = true;
  options.lock = false;
  if (image.partition) options.partition = image.partition->value;
  options.offset = image.offset.value;
  if (image.length) options.length = image.length->value;
  VOLFS_TRY_ASSIGN(auto opened, FileImage::open(image.name.value, path, options));
  if (auto member = md::scan(*opened); member && *member) holding.array = (*member)->array.uuid;
  VOLFS_TRY_ASSIGN(auto found, probe_signatures(path, opened->start(), opened->size()));
  for (const Signature& signature : found) {
    if (holding.array && signature.type == "linux_raid_member") continue;
    holding.other += (holding.other.empty() ? "" : "; ") + describe(signature);
  }
  return holding;
}

}  // namespace

void plan_array(const config::Definition& definition, const config::Array& array,
                const CreateOptions& options, std::vector<CreateStep>& steps,
                config::Diagnostics& problems) {
  std::string names;
  size_t members = 0, devices = 0;
  for (const config::ArrayDevice* each : all_devices(array)) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ",
                         each->missing ? "missing" : each->device.value);
    const config::Image* image =
        each->missing ? nullptr : find_image(definition, each->device.value);
    if (each->missing) continue;
    ++devices;
    if (!image) continue;
    const std::string path = resolve_path(options.directory, image->path.value);
    if (access(path.c_str(), F_OK) != 0) continue;  // it is made new
    auto holding = look(*image, path);
    if (!holding) {
      problems.add(each->device.at, holding.error().text());
    } else if (holding->array) {
      ++members;
    } else if (!holding->other.empty() && !options.force) {
      problems.add(each->device.at, fmt::format("{} holds {}; --force overwrites it",
                                                each->device.value, holding->other));
    }
  }
  if (members == devices && members > 0) return;  // it is there
  if (members > 0 && !options.force) {
    problems.add(array.name.at,
                 fmt::format("{} of {} devices of '{}' are members of an array already; --force "
                             "makes a new one of all",
                             members, devices, array.name.value));
    return;
  }
  AssembleOptions assemble;
  assemble.directory = options.directory;
  assemble.read_only = false;
  const std::string text =
      fmt::format("create {} array {} of {}", md::level_name(md_level(array.level.value)),
                  array.name.value, names);
  steps.push_back({text, [definition, index = &array - definition.arrays.data(), assemble] {
                     return make(definition, definition.arrays[static_cast<size_t>(index)],
                                 assemble);
                   }});
}

}  // namespace volfs::engine
