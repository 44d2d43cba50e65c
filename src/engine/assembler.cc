// SPDX-License-Identifier: GPL-2.0-or-later
#include "assembler.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "snapshot_parts.h"
#include "volfs/dm/table.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

// The number of a user or group: as given, looked up, or nothing.
template <class Lookup>
std::optional<uint32_t> account_id(const config::Account& account, Lookup lookup) {
  if (account.id) return account.id;
  return lookup(account.name.c_str());
}

std::optional<uint32_t> user_id(const char* name) {
  const passwd* entry = getpwnam(name);
  return entry ? std::optional<uint32_t>(entry->pw_uid) : std::nullopt;
}

std::optional<uint32_t> group_id(const char* name) {
  const group* entry = getgrnam(name);
  return entry ? std::optional<uint32_t>(entry->gr_gid) : std::nullopt;
}

}  // namespace

std::string resolve_path(const std::string& directory, const std::string& path) {
  if (path.starts_with('/') || directory.empty()) return path;
  return directory + (directory.ends_with('/') ? "" : "/") + path;
}

Assembler::Assembler(const config::Definition& definition, const AssembleOptions& options)
    : definition_(definition),
      options_(options),
      problems_(definition.scanned ? "volfs" : definition.file_name) {}

void Assembler::report(config::Position at, std::string text) {
  problems_.add(at, text);
}

Exposure Assembler::exposure() {
  Exposure exposure{.mode = definition_.expose.mode.value, .uid = getuid(), .gid = getgid()};
  const auto named = [&](const config::Optional<config::Account>& account, auto lookup,
                         const char* what, uint32_t& id) {
    if (!account) return;
    const auto found = account_id(account->value, lookup);
    if (found)
      id = *found;
    else
      report(account->at, fmt::format("there is no {} '{}'", what, account->value.name));
  };
  named(definition_.expose.owner, user_id, "user", exposure.uid);
  named(definition_.expose.group, group_id, "group", exposure.gid);
  if (options_.mode) exposure.mode = *options_.mode;
  if (options_.owner) exposure.uid = *options_.owner;
  if (options_.group) exposure.gid = *options_.group;
  return exposure;
}

bool Assembler::is_origin(const std::string& name) const {
  return std::ranges::any_of(definition_.snapshots, [&](const config::Snapshot& snapshot) {
    return snapshot.origin.value == name;
  });
}

std::string Assembler::own_name(const std::string& name, Kind kind) const {
  return kind != Kind::array && is_origin(name) ? name + "-real" : name;
}

dm::Resolver Assembler::resolver() const {
  return [this](std::string_view name) -> Result<BlockDevice*> {
    if (Node* node = engine_->graph_.find(name)) return &node->shown();
    return fail(Error::make(ENXIO, "there is no such device"));
  };
}

dm::MappedDevice::LoadOptions Assembler::load_options(bool read_only) const {
  return {.read_only = read_only, .origins = &engine_->origins_, .hold_sync = options_.frozen};
}

Result<Node*> Assembler::add_map(const std::string& name, Kind kind, const std::string& table,
                                 bool read_only) {
  VOLFS_TRY_ASSIGN(const auto rows, dm::parse_table(table));
  auto map = std::make_unique<dm::MappedDevice>(name);
  VOLFS_TRY(map->load(rows, resolver(), load_options(read_only)));
  VOLFS_TRY(map->resume());
  return engine_->graph_.add(name, kind, std::move(map));
}

void Assembler::expose(Node& node, const std::string& path, config::Position at) {
  auto volume = engine_->catalog_->add(path, node.shown());
  if (volume)
    node.volume = *volume;
  else
    report(at, volume.error().text());
}

void Assembler::warn(std::string_view text) const {
  if (!options_.quiet) log_warning("{}", text);
}

Node* Assembler::add(const config::Text& name, Kind kind, std::unique_ptr<BlockDevice> device,
                     bool hidden) {
  const bool origin = is_origin(name.value);
  const bool read_only = device->read_only();
  const uint64_t sectors = device->size() / sector_size;
  const std::string own = own_name(name.value, kind);
  auto node = engine_->graph_.add(own, kind, std::move(device));
  if (node && origin && kind != Kind::array) {
    (*node)->internal = true;
    node =
        add_map(name.value, Kind::map,
                fmt::format("0 {} snapshot-origin {}", sectors, dm::escape_word(own)), read_only);
  }
  if (!node) {
    report(name.at, node.error().text());
    return nullptr;
  }
  if (kind == Kind::array) {
    if (auto put = engine_->put_front(**node, origin); !put) {
      if (origin) report(name.at, put.error().text());
      log_warning("{}: no snapshots can be taken of it: {}", name.value, put.error().text());
    }
  }
  const bool show = !hidden || options_.hidden || definition_.expose.hidden.value;
  if (kind != Kind::image && show) expose(**node, name.value, name.at);
  return *node;
}

BlockDevice* Assembler::device(const config::Text& name) {
  if (Node* node = engine_->graph_.find(name.value)) return &node->shown();
  // What failed to build has its own report; saying it twice helps nobody.
  if (problems_.empty()) report(name.at, fmt::format("there is no device '{}'", name.value));
  return nullptr;
}

void Assembler::begin() {
  engine_.reset(new Engine);
  engine_->source_ = definition_.file_name;
  engine_->directory_ = options_.directory;
  engine_->open_image_ = options_.open_image ? options_.open_image : FileImage::open;
  engine_->not_assembled_ = options_.unavailable;
  engine_->frozen_ = options_.frozen;
  engine_->read_only_ = options_.read_only.value_or(definition_.readonly.value);
  engine_->exposure_ = exposure();
  engine_->as_defined_ = {definition_.readonly.value, definition_.expose};
  engine_->shows_hidden_ = options_.hidden || definition_.expose.hidden.value;
  engine_->catalog_ = std::make_unique<Catalog>(engine_->exposure_);
  open_overlay();
}

void Assembler::build(const config::Item& item) {
  switch (item.kind) {
    case config::DeviceKind::image:
      return build(definition_.images[item.index]);
    case config::DeviceKind::array:
      return build(definition_.arrays[item.index]);
    case config::DeviceKind::volume_group:
      return build(definition_.volume_groups[item.index]);
    case config::DeviceKind::snapshot:
      return build(definition_.snapshots[item.index]);
    case config::DeviceKind::map:
      return build(definition_.maps[item.index]);
  }
}

std::string Assembler::take_problems() {
  std::string text;
  for (const config::Diagnostic& each : problems_.entries())
    text += (text.empty() ? "" : "; ") + each.text;
  problems_ = config::Diagnostics(definition_.file_name);
  return text;
}

std::expected<std::unique_ptr<Engine>, config::Diagnostics> Assembler::run() {
  begin();
  if (has_problems()) return std::unexpected(problems_);
  for (const config::Item& item : definition_.build_order) build(item);
  if (problems_.empty()) continue_merges();
  if (problems_.empty()) start_held_merges();
  if (!problems_.empty()) {
    problems_.sort();
    return std::unexpected(problems_);
  }
  engine_->catalog_->publish_to(engine_->events_);
  return std::move(engine_);
}

std::expected<std::unique_ptr<Engine>, config::Diagnostics> Engine::assemble(
    const config::Definition& definition, const AssembleOptions& options) {
  return Assembler(definition, options).run();
}

}  // namespace volfs::engine
