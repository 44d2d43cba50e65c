// SPDX-License-Identifier: GPL-2.0-or-later
// Arrays that are made, set up and taken down on a running mount.
#include "volfs/md/array.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <mutex>

#include "array_options.h"
#include "owners.h"
#include "snapshot_parts.h"
#include "volfs/config/names.h"
#include "volfs/config/parser.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/engine/engine.h"
#include "volfs/log.h"
#include "volfs/units.h"
#include "words.h"

namespace volfs::engine {
namespace {

constexpr std::string_view missing = "missing";

std::vector<std::string> all_names(const NewArray& array) {
  std::vector<std::string> names = array.devices;
  names.insert(names.end(), array.spares.begin(), array.spares.end());
  return names;
}

// The devices of an array that is set up: they stay, and nobody else uses them.
struct Taken {
  std::vector<Graph::Pin> pins;
  std::vector<BlockDevice*> devices;  // null: missing
};

// Nobody uses it.
Status check_free(Engine& engine, const Node& node) {
  const Graph& graph = engine.graph();
  if (node.volume && node.volume->open_count() > 0)
    return fail(Error::make(EBUSY, fmt::format("{}: is open", node.name)));
  if (const auto users = graph.users(node.shown()); !users.empty())
    return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", node.name, users.front())));
  if (const std::string owner = owner_of(engine, node); !owner.empty())
    return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", node.name, owner)));
  return {};
}

Result<Taken> take_devices(Engine& engine, const std::vector<std::string>& names) {
  Taken taken;
  for (const std::string& name : names) {
    taken.devices.push_back(nullptr);
    if (name == missing) continue;
    VOLFS_TRY_ASSIGN(auto pin, engine.graph().pin(name));
    BlockDevice& device = pin->shown();
    if (std::ranges::find(taken.devices, &device) != taken.devices.end())
      return fail_invalid(fmt::format("{}: is given twice", name));
    VOLFS_TRY(check_free(engine, *pin));
    taken.devices.back() = &device;
    taken.pins.push_back(std::move(pin));
  }
  return taken;
}

// Devices by their numbers: any device may be one, whatever it is called.
std::string numbered(const std::vector<std::string>& names, size_t first) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    text += fmt::format("{}{}", text.empty() ? "" : ", ",
                        names[i] == missing ? "missing" : fmt::format("device{}", first + i));
  return text;
}

bool is_plain(const std::string& text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == ':' || c == '+';
  });
}

// The array as a definition would have it, so that it is checked as one that was written.
Result<config::Definition> as_definition(const NewArray& array) {
  std::string text = "volfs: 1\nimages:\n";
  for (size_t i = 0; i < array.devices.size() + array.spares.size(); ++i)
    text += fmt::format("  device{}: /device{}\n", i, i);
  text += fmt::format("arrays:\n  \"{}\": {{devices: [{}]", array.name, numbered(array.devices, 0));
  if (!array.spares.empty())
    text += fmt::format(", spares: [{}]", numbered(array.spares, array.devices.size()));
  for (const auto& [key, value] : array.words) {
    if (!is_plain(value))
      return fail_invalid(
          fmt::format("{}: '{}' of '{}': expected a plain word", array.name, value, key));
    text += fmt::format(", {}: {}", key, value);
  }
  auto definition = config::parse(text + "}\n", array.name);
  if (definition) return std::move(*definition);
  std::string problems;
  for (const config::Diagnostic& each : definition.error().entries())
    problems += (problems.empty() ? "" : "; ") + each.text;
  return fail_invalid(std::move(problems));
}

}  // namespace

Status Engine::check_new_name(std::string_view name) const {
  if (closed_) return fail(Error::make(ECANCELED, "the mount ends"));
  if (const auto expected = config::bad_device_name(name))
    return fail_invalid(
        fmt::format("'{}' is not a name for an array; expected {}", name, *expected));
  if (graph_.find(name))
    return fail(Error::make(EEXIST, fmt::format("{}: there is a device of that name", name)));
  return {};
}

Status Engine::put_front(Node& node, bool origin) {
  if (node.device->size() == 0) return {};
  auto front = std::make_unique<dm::MappedDevice>(node.name);
  std::vector<std::string> args{"origin"};
  if (!origin) args.emplace_back("0");
  VOLFS_TRY(load_over(
      *front, origin ? "snapshot-origin" : "linear", {node.device.get(), nullptr}, std::move(args),
      {.size = node.device->size(), .read_only = node.device->read_only(), .origins = origins_}));
  VOLFS_TRY(front->resume());
  graph_.set_front(node, std::move(front));
  return {};
}

Result<Contents> Engine::contents(std::string_view device) {
  VOLFS_TRY_ASSIGN(const Graph::Pin pin, graph_.pin(device));
  VOLFS_TRY_ASSIGN(Contents found, contents_of(pin->shown()));
  if (found.array.empty()) return found;
  VOLFS_TRY_ASSIGN(const auto superblock, md::scan(pin->shown()));
  const std::lock_guard lock(structure_);
  for (const Node* node : graph_.nodes()) {
    const auto* array = dynamic_cast<const md::Array*>(node->device.get());
    if (!array || node->uuid != found.array || !superblock || !array->was_apart(*superblock))
      continue;
    found.text += fmt::format(
        ", written apart from '{}': what was written to it since then is on no other", node->name);
    found.array.clear();
  }
  return found;
}

Status Engine::array_create(const NewArray& array) {
  if (read_only_) return fail(Error::make(EROFS, "the mount is read-only"));
  const std::lock_guard one(arrays_);
  {
    const std::lock_guard lock(structure_);
    VOLFS_TRY(check_new_name(array.name));
  }
  for (const std::string& name : all_names(array))
    if (name != missing && !graph_.find(name))
      return fail(Error::make(ENOENT, fmt::format("{}: no such device", name)));
  VOLFS_TRY_ASSIGN(const config::Definition definition, as_definition(array));
  {
    VOLFS_TRY_ASSIGN(const Taken taken, take_devices(*this, all_names(array)));
    for (BlockDevice* device : taken.devices) {
      if (!device || array.force) continue;
      VOLFS_TRY_ASSIGN(const Contents holds, contents_of(*device));
      if (!holds.text.empty())
        return fail(Error::make(EEXIST, fmt::format("{} holds {}; expected an empty device, or "
                                                    "force, which overwrites it",
                                                    device->name(), holds.text)));
    }
    VOLFS_TRY(write_members(definition.arrays.front(), taken.devices, array.force));
  }
  NewArray made = array;
  made.force = false;
  return assemble_array(made);
}

Result<std::vector<std::string>> Engine::array_assemble(const NewArray& array) {
  {
    const std::lock_guard one(arrays_);
    VOLFS_TRY(assemble_array(array));
  }
  if (!array.activate) return std::vector<std::string>();
  return join_groups_of(array.name);
}

// `arrays_` is held; the structure lock is not while members are read and written.
Status Engine::assemble_array(const NewArray& array) {
  {
    const std::lock_guard lock(structure_);
    VOLFS_TRY(check_new_name(array.name));
  }
  VOLFS_TRY_ASSIGN(Taken taken, take_devices(*this, all_names(array)));
  std::erase(taken.devices, nullptr);
  if (taken.devices.empty()) return fail_invalid(array.name + ": no devices; expected its members");
  md::ArrayOptions options;
  options.name = array.name;
  options.read_only = read_only_ || array.read_only;
  options.force = array.force;
  VOLFS_TRY_ASSIGN(auto assembled, md::Array::assemble(taken.devices, options));
  const std::string uuid = md::format_uuid(assembled->status().uuid);
  const uint64_t size = assembled->size();
  const std::lock_guard lock(structure_);
  VOLFS_TRY(check_new_name(array.name));
  VOLFS_TRY_ASSIGN(Node* const node, graph_.add(array.name, Kind::array, std::move(assembled)));
  node->uuid = uuid;
  if (auto put = put_front(*node, false); !put)
    log_warning("{}: no snapshots can be taken of it: {}", array.name, put.error().text());
  auto volume = catalog_->add(array.name, node->shown());
  if (!volume) {
    (void)graph_.remove(array.name);  // nobody can stand on it yet
    return fail(std::move(volume.error()));
  }
  node->volume = *volume;
  events_.publish({"array.assembled", array.name, {{"size", size}}});
  return {};
}

Status Engine::array_add(std::string_view array, std::string_view device, bool re_add) {
  VOLFS_TRY_ASSIGN(const Graph::Pin target, graph_.pin(array));
  auto* running = dynamic_cast<md::Array*>(target->device.get());
  if (!running) return fail(Error::make(ENOTTY, fmt::format("{} is no array", array)));
  VOLFS_TRY_ASSIGN(const Graph::Pin pin, graph_.pin(device));
  // Its superblock would be read and written through the array, which waits for that.
  if (const auto way = graph_.way_down(*pin, *target); way.size() == 1)
    return fail(Error::make(ELOOP, fmt::format("{}: cannot be a member of itself", array)));
  else if (!way.empty())
    return fail(Error::make(ELOOP, fmt::format("{}: {} stands on the array itself: {}", array,
                                               device, fmt::join(way, " -> "))));
  const std::lock_guard one(arrays_);
  VOLFS_TRY(check_free(*this, *pin));
  return re_add ? running->re_add(pin->shown()) : running->add(pin->shown());
}

Status Engine::array_stop(std::string_view name) {
  {
    VOLFS_TRY_ASSIGN(const Graph::Pin pin, graph_.pin(name));
    if (pin->kind != Kind::array)
      return fail(
          Error::make(ENOTTY, fmt::format("{}: not an array but {}", name, one_of(pin->kind))));
    VOLFS_TRY(pin->device->flush());
  }
  return take_down(name, Kind::array);
}

}  // namespace volfs::engine
