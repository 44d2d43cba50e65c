// SPDX-License-Identifier: GPL-2.0-or-later
// Making md arrays: superblocks and bitmaps on devices that hold nothing else.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>

#include "array_options.h"
#include "assembler.h"
#include "below.h"
#include "signatures.h"
#include "volfs/md/array.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

std::vector<const config::ArrayDevice*> all_devices(const config::Array& array) {
  std::vector<const config::ArrayDevice*> list;
  for (const auto& each : array.devices) list.push_back(&each);
  for (const auto& each : array.spares) list.push_back(&each);
  return list;
}

std::vector<std::string> names_of(const config::Array& array) {
  std::vector<std::string> names;
  for (const config::ArrayDevice* each : all_devices(array))
    if (!each->missing) names.push_back(each->device.value);
  return names;
}

// "md7" is number 7, as mdadm takes it from the device it makes.
uint32_t minor_of(const std::string& name) {
  const auto number = name.starts_with("md") ? parse_u64(name.substr(2)) : parse_u64("");
  return number && *number < 256 ? static_cast<uint32_t>(*number) : 127;
}

// All that a plan depends on but the devices and the uuids.
md::CreateOptions options_of(const config::Array& array) {
  md::CreateOptions o;
  o.level = md_level(array.level.value);
  o.version = md_version(array.metadata.value);
  if (array.layout) o.layout = array.layout->value;
  if (array.chunk) o.chunk = array.chunk->value;
  o.raid_disks = static_cast<uint32_t>(array.devices.size());
  if (array.size) o.size = array.size->value;
  o.name = array.array_name ? array.array_name->value : array.name.value;
  if (array.homehost) o.homehost = array.homehost->value;
  if (array.bitmap)
    o.bitmap = array.bitmap->value == config::ArrayBitmap::internal ? md::BitmapChoice::internal
                                                                    : md::BitmapChoice::none;
  if (array.consistency && array.consistency->value == config::ArrayConsistency::bitmap)
    o.bitmap = md::BitmapChoice::internal;
  if (array.bitmap_chunk) o.bitmap_chunk = array.bitmap_chunk->value;
  if (array.bitmap_chunk || array.write_behind) o.bitmap = md::BitmapChoice::internal;
  if (array.write_behind) o.write_behind = array.write_behind->value;
  o.assume_clean = array.assume_clean.value;
  o.ppl = array.consistency && array.consistency->value == config::ArrayConsistency::ppl;
  if (o.ppl) o.bitmap = md::BitmapChoice::none;
  o.force = array.force.value;
  if (array.data_offset) o.data_offset = array.data_offset->value;
  o.preferred_minor = minor_of(array.name.value);
  o.now = static_cast<uint64_t>(wall_clock() / std::chrono::seconds(1));
  if (array.uuid) o.uuid.bytes = array.uuid->value;
  return o;
}

md::CreateDevice device_of(const config::ArrayDevice& each, uint64_t size) {
  return {.size = size,
          .missing = each.missing,
          .write_mostly = each.write_mostly.value,
          .failfast = each.failfast.value};
}

Status make(const config::Definition& definition, const config::Array& array,
            const CreateOptions& options) {
  AssembleOptions assemble;
  assemble.directory = options.directory;
  assemble.open_image = options.open_image;
  assemble.read_only = false;
  auto engine = Engine::assemble(needed_for(definition, names_of(array)), assemble);
  if (!engine) return fail_invalid(engine.error().to_string());
  std::vector<BlockDevice*> devices;
  for (const config::ArrayDevice* each : all_devices(array)) {
    devices.push_back(nullptr);
    if (each->missing) continue;
    const Node* node = (*engine)->graph().find(each->device.value);
    if (!node)
      return fail(Error::make(ENOENT, fmt::format("there is no device '{}'", each->device.value)));
    devices.back() = node->device.get();
  }
  VOLFS_TRY(write_members(array, devices, options.force));
  return (*engine)->close();
}

// What a device holds: nothing, a member of an array, or something else that is named.
struct Holding {
  std::optional<md::ArrayMetadata> array;
  std::string other;
  uint64_t size = 0;
};

Result<Holding> look(BlockDevice& device, const md::SuperblockChoice& choice = {}) {
  Holding holding;
  holding.size = device.size();
  // A damaged superblock is a signature, too.
  if (auto member = md::scan(device, choice); member && *member)
    holding.array = std::move((*member)->array);
  VOLFS_TRY_ASSIGN(const auto found, signatures_on(device));
  for (const Signature& signature : found) {
    if (holding.array && signature.type == "linux_raid_member") continue;
    holding.other += (holding.other.empty() ? "" : "; ") + describe(signature);
  }
  return holding;
}

std::string in_words(const Holding& holding) {
  if (!holding.array) return holding.other;
  return fmt::format("a member of array {}{}{}", md::format_uuid(holding.array->uuid),
                     holding.other.empty() ? "" : "; ", holding.other);
}

class Planner {
 public:
  Planner(const config::Definition& definition, const config::Array& array,
          const CreateOptions& options, const std::set<std::string>& coming,
          config::Diagnostics& problems)
      : definition_(definition),
        array_(array),
        options_(options),
        coming_(coming),
        problems_(problems) {}

  // Whether there is something to do and nothing in its way.
  bool run() {
    if (!look_at_devices() || is_there() || !may_overwrite()) return false;
    return try_plan();
  }

  std::string text() const {
    std::string names;
    for (const config::ArrayDevice* each : all_devices(array_))
      names += fmt::format("{}{}", names.empty() ? "" : ", ",
                           each->missing ? "missing" : each->device.value);
    std::string text =
        fmt::format("create {} array {} of {}", md::level_name(md_level(array_.level.value)),
                    array_.name.value, names);
    if (plan_) {
      const md::ArrayMetadata& a = plan_->members.front().member.array;
      text += fmt::format(": metadata {}", md::version_name(a.version));
      if (a.geometry.chunk != 0) text += fmt::format(", chunk {}", format_size(a.geometry.chunk));
      if (a.geometry.level > 4)
        text += ", layout " + md::layout_name(a.geometry.level, a.geometry.layout);
      if (plan_->bitmap)
        text += fmt::format(", bitmap with chunks of {}", format_size(plan_->bitmap->chunk));
      text += ", " + format_size_rounded(plan_->array_size);
    }
    return text;
  }

  // What the devices hold that goes.
  std::vector<std::string> loses() const {
    std::vector<std::string> all;
    for (const std::string& name : names_of(array_))
      if (const auto found = found_.find(name); found != found_.end())
        if (const std::string holds = in_words(found->second); !holds.empty())
          all.push_back(fmt::format("{}: {}", name, holds));
    return all;
  }

 private:
  // Of those that are there what they hold.
  bool look_at_devices() {
    std::vector<std::string> there;
    for (const std::string& name : names_of(array_))
      if (!coming_.contains(name.substr(0, name.find('/')))) there.push_back(name);
    if (there.empty()) return true;
    AssembleOptions assemble;
    assemble.directory = options_.directory;
    assemble.open_image = options_.open_image;
    assemble.read_only = true;
    assemble.probe = assemble.quiet = true;
    auto engine = Engine::assemble(needed_for(definition_, there), assemble);
    if (!engine) {
      for (const config::Diagnostic& each : engine.error().entries())
        problems_.add(each.at, each.text);
      return false;
    }
    bool all = true;
    for (const config::ArrayDevice* each : all_devices(array_)) {
      const Node* node = each->missing ? nullptr : (*engine)->graph().find(each->device.value);
      if (!node) continue;
      auto holding = look(*node->device, choice_of(array_));
      if (holding) {
        found_[each->device.value] = std::move(*holding);
      } else {
        problems_.add(each->device.at, holding.error().text());
        all = false;
      }
    }
    return all;
  }

  // All devices are members of one array that is as the definition says.
  bool is_there() const { return is_one_array() && difference().empty(); }

  bool is_one_array() const {
    const auto names = names_of(array_);
    return std::ranges::all_of(names, [&](const std::string& name) {
      const auto found = found_.find(name);
      return found != found_.end() && found->second.array &&
             found->second.array->uuid == found_.at(names.front()).array->uuid;
    });
  }

  // What the definition says otherwise than the array that is there.
  std::string difference() const {
    const md::ArrayMetadata& a = *found_.at(names_of(array_).front()).array;
    const md::Geometry& g = a.geometry;
    if (array_.uuid && a.uuid.bytes != array_.uuid->value) return "another uuid";
    if (g.level != md_level(array_.level.value)) return "level " + md::level_name(g.level);
    if (a.version != md_version(array_.metadata.value))
      return fmt::format("metadata {}", md::version_name(a.version));
    if (g.raid_disks != array_.devices.size()) return fmt::format("{} devices", g.raid_disks);
    if (array_.chunk && g.chunk != array_.chunk->value) return "chunks of " + format_size(g.chunk);
    if (array_.size && g.level > 0 &&
        a.member_size != round_down(array_.size->value, g.chunk != 0 ? g.chunk : KiB))
      return format_size(a.member_size) + " of each device in use";
    if (array_.layout && g.layout != array_.layout->value && g.level != 0)
      return "layout " + md::layout_name(g.level, g.layout);
    return {};
  }

  // Some are members of one array, and the others hold nothing: one was replaced, perhaps.
  std::string members_beside() const {
    if (is_one_array())
      return fmt::format(
          "{}: the devices are members of array {}, which has {}; --force makes a "
          "new array of them",
          array_.name.value, md::format_uuid(found_.at(names_of(array_).front()).array->uuid),
          difference());
    std::string members;
    std::optional<md::Uuid> uuid;
    for (const std::string& name : names_of(array_)) {
      const auto found = found_.find(name);
      if (found == found_.end() || (!found->second.array && found->second.other.empty())) continue;
      if (!found->second.array || (uuid && uuid != found->second.array->uuid)) return {};
      uuid = found->second.array->uuid;
      members += (members.empty() ? "" : ", ") + name;
    }
    if (members.empty()) return {};
    return fmt::format(
        "{}: {} already belong to array {}: `volfs array add` adds the others to it, "
        "--force makes a new array of all",
        array_.name.value, members, md::format_uuid(*uuid));
  }

  bool may_overwrite() {
    if (options_.force) return true;
    if (auto text = members_beside(); !text.empty()) {
      problems_.add(array_.name.at, text);
      return false;
    }
    bool may = true;
    for (const config::ArrayDevice* each : all_devices(array_)) {
      const auto found = found_.find(each->device.value);
      if (each->missing || found == found_.end()) continue;
      const std::string holds = in_words(found->second);
      if (holds.empty()) continue;
      problems_.add(each->device.at,
                    fmt::format("{} holds {}; --force overwrites it", each->device.value, holds));
      may = false;
    }
    return may;
  }

  // What can be known before the devices below are made.
  bool try_plan() {
    md::CreateOptions o = options_of(array_);
    for (const config::ArrayDevice* each : all_devices(array_)) {
      std::optional<uint64_t> size = each->missing ? 0 : size_of(each->device.value);
      if (!size) return true;
      o.devices.push_back(device_of(*each, *size));
      o.device_uuids.emplace_back();
    }
    auto plan = md::plan_create(o);
    if (plan)
      plan_ = std::move(*plan);
    else
      problems_.add(array_.name.at, fmt::format("{}: {}", array_.name.value, plan.error().text()));
    return plan_.has_value();
  }

  std::optional<uint64_t> size_of(const std::string& name) const {
    if (const auto found = found_.find(name); found != found_.end()) return found->second.size;
    for (const config::Image& image : definition_.images)
      if (image.name.value == name && image.size && !image.partition && image.offset.value == 0 &&
          !image.length)
        return image.size->value;
    return std::nullopt;
  }

  const config::Definition& definition_;
  const config::Array& array_;
  const CreateOptions& options_;
  const std::set<std::string>& coming_;
  config::Diagnostics& problems_;
  std::map<std::string, Holding> found_;
  std::optional<md::CreatePlan> plan_;
};

}  // namespace

Result<Contents> contents_of(BlockDevice& device) {
  VOLFS_TRY_ASSIGN(const Holding holding, look(device));
  return Contents{in_words(holding), holding.array ? md::format_uuid(holding.array->uuid) : ""};
}

Status write_members(const config::Array& array, const std::vector<BlockDevice*>& devices,
                     bool wipe) {
  md::CreateOptions o = options_of(array);
  if (!array.uuid) o.uuid = md::random_uuid();
  const auto listed = all_devices(array);
  for (size_t i = 0; i < listed.size(); ++i) {
    o.devices.push_back(device_of(*listed[i], devices[i] ? devices[i]->size() : 0));
    o.device_uuids.push_back(md::random_uuid());
  }
  VOLFS_TRY_ASSIGN(const md::CreatePlan plan, in(array.name.value, md::plan_create(o)));
  if (wipe)
    for (BlockDevice* device : devices)
      if (device) VOLFS_TRY(wipe_signatures(*device));
  return in(array.name.value, md::write_new_members(plan, devices));
}

void plan_array(const config::Definition& definition, const config::Array& array,
                const CreateOptions& options, const std::set<std::string>& coming,
                std::vector<CreateStep>& steps, config::Diagnostics& problems) {
  Planner planner(definition, array, options, coming, problems);
  if (!planner.run()) return;
  steps.push_back({planner.text(),
                   [definition, index = &array - definition.arrays.data(), options] {
                     return make(definition, definition.arrays[static_cast<size_t>(index)],
                                 options);
                   },
                   planner.loses()});
}

}  // namespace volfs::engine
