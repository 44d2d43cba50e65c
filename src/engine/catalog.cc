// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "volfs/engine/events.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

// A volume in more pieces than this, as a large one in narrow stripes is, is not walked to its end:
// stat(2) is no work of minutes. Samples tell how much of the rest holds data.
constexpr uint64_t most_pieces = 4096, samples = 4096, sample_size = 4096;

uint64_t allocated_in(ByteAccess& bytes, uint64_t size) {
  uint64_t sum = 0, at = 0;
  for (uint64_t pieces = 0; at < size && pieces < most_pieces; ++pieces) {
    const auto part = bytes.allocation(at, size - at);
    if (!part || part->length == 0) return sum;  // beyond the end of an image that was cut off
    if (part->data) sum += part->length;
    at += part->length;
  }
  const uint64_t rest = size - at;
  const uint64_t step = rest / samples;
  if (step < sample_size) return sum + rest;
  uint64_t with_data = 0;
  for (uint64_t i = 0; i < samples; ++i) {
    const auto part = bytes.allocation(at + round_down(i * step, sample_size), sample_size);
    if (part && part->data) ++with_data;
  }
  return sum + with_data * step;
}

}  // namespace

Volume::Volume(uint64_t inode, std::string path, BlockDevice& device, const Exposure& exposure)
    : inode_(inode),
      device_(device),
      bytes_(device),
      exposure_(exposure),
      modified_(wall_clock().count()),
      path_(std::move(path)) {}

std::string Volume::path() const {
  const std::lock_guard lock(mutex_);
  return path_;
}

uint64_t Volume::allocated() {
  const uint64_t as_of = changes_.load();
  {
    const std::lock_guard lock(mutex_);
    if (known_at_ == as_of) return allocated_;
  }
  // Walked without the lock: data goes on meanwhile, and what changes then is found next time.
  const uint64_t sum = allocated_in(bytes_, size());
  const std::lock_guard lock(mutex_);
  known_at_ = as_of;
  allocated_ = sum;
  return sum;
}

std::optional<uint64_t> Volume::allocated_if_known() const {
  const std::lock_guard lock(mutex_);
  if (known_at_ != changes_.load()) return std::nullopt;
  return allocated_;
}

void Volume::touched() {
  changes_.fetch_add(1, std::memory_order_relaxed);
  modified_.store(wall_clock().count(), std::memory_order_relaxed);
}

bool Volume::open() {
  const std::lock_guard lock(mutex_);
  if (going_) return false;
  ++open_count_;
  return true;
}

void Volume::close() {
  const std::lock_guard lock(mutex_);
  if (--open_count_ == 0) unused_.notify_all();
}

bool Volume::wait_unused(TimePoint deadline) {
  const std::lock_guard lock(mutex_);
  return unused_.wait_until(mutex_, deadline, [this] { return open_count_ == 0; });
}

uint64_t Volume::open_count() const {
  const std::lock_guard lock(mutex_);
  return open_count_;
}

namespace {

struct SplitPath {
  std::string_view directory;  // empty: the root
  std::string_view name;
};

bool good_component(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name[0] != '.' &&
         name.find('\0') == std::string_view::npos;
}

Result<SplitPath> split(std::string_view path) {
  SplitPath parts{"", path};
  if (const size_t slash = path.find('/'); slash != std::string_view::npos) {
    parts = {path.substr(0, slash), path.substr(slash + 1)};
    if (!good_component(parts.directory))
      return fail_invalid(
          fmt::format("'{}' is not a name for a volume; expected NAME or GROUP/NAME, no "
                      "dot before either",
                      path));
  }
  if (!good_component(parts.name) || parts.name.find('/') != std::string_view::npos)
    return fail_invalid(
        fmt::format("'{}' is not a name for a volume; expected NAME or GROUP/NAME, no "
                    "dot before either",
                    path));
  return parts;
}

}  // namespace

Catalog::Catalog(const Exposure& exposure) : exposure_(exposure) {
  entries_[root] = {root, {root, "", nullptr}, {}};
}

const Catalog::Entry* Catalog::walk(std::string_view path) const {
  const Entry* at = &entries_.at(root);
  while (!path.empty()) {
    const size_t slash = std::min(path.find('/'), path.size());
    const auto child = at->children.find(path.substr(0, slash));
    if (child == at->children.end()) return nullptr;
    at = &entries_.at(child->second);
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return at;
}

Result<uint64_t> Catalog::make_parent(std::string_view directory) {
  if (directory.empty()) return root;
  if (const Entry* there = walk(directory)) {
    if (there->node.volume)
      return fail(
          Error::make(EEXIST, fmt::format("{}: there is a volume of that name", directory)));
    return there->node.inode;
  }
  const uint64_t inode = next_inode_++;
  entries_[inode] = {root, {inode, std::string(directory), nullptr}, {}};
  entries_.at(root).children.emplace(directory, inode);
  return inode;
}

Result<std::shared_ptr<Volume>> Catalog::add(std::string_view path, BlockDevice& device,
                                             const Exposure& exposure) {
  VOLFS_TRY_ASSIGN(const SplitPath parts, split(path));
  std::shared_ptr<Volume> volume;
  std::vector<std::pair<uint64_t, Node>> changes;
  {
    const std::lock_guard lock(mutex_);
    if (walk(path))
      return fail(Error::make(EEXIST, fmt::format("{}: there is a volume of that name", path)));
    const bool new_directory = !parts.directory.empty() && !walk(parts.directory);
    VOLFS_TRY_ASSIGN(const uint64_t parent, make_parent(parts.directory));
    if (new_directory) changes.emplace_back(root, entries_.at(parent).node);
    const uint64_t inode = next_inode_++;
    volume = std::make_shared<Volume>(inode, std::string(path), device, exposure);
    entries_[inode] = {parent, {inode, std::string(parts.name), volume}, {}};
    entries_.at(parent).children.emplace(parts.name, inode);
    changes.emplace_back(parent, entries_.at(inode).node);
  }
  tell(changes);
  publish("volume.added", path);
  return volume;
}

void Catalog::drop_if_empty(uint64_t directory, std::vector<std::pair<uint64_t, Node>>& gone) {
  if (directory == root || !entries_.at(directory).children.empty()) return;
  gone.emplace_back(root, entries_.at(directory).node);
  entries_.at(root).children.erase(entries_.at(directory).node.name);
  entries_.erase(directory);
}

Status Catalog::remove(std::string_view path) {
  std::vector<std::pair<uint64_t, Node>> changes;
  {
    const std::lock_guard lock(mutex_);
    const Entry* entry = walk(path);
    if (!entry || !entry->node.volume) return fail_sys(ENOENT, path);
    Volume& volume = *entry->node.volume;
    {
      const std::lock_guard volume_lock(volume.mutex_);
      if (volume.open_count_ > 0)
        return fail(
            Error::make(EBUSY, fmt::format("{}: in use: {} open file{}", path, volume.open_count_,
                                           volume.open_count_ == 1 ? "" : "s")));
      volume.going_ = true;
    }
    const uint64_t parent = entry->parent;
    changes.emplace_back(parent, entry->node);
    entries_.at(parent).children.erase(entry->node.name);
    entries_.erase(entry->node.inode);
    drop_if_empty(parent, changes);
  }
  tell(changes);
  publish("volume.removed", path);
  return {};
}

Status Catalog::rename(std::string_view from, std::string_view to) {
  VOLFS_TRY_ASSIGN(const SplitPath parts, split(to));
  std::vector<std::pair<uint64_t, Node>> changes;
  {
    const std::lock_guard lock(mutex_);
    const Entry* old = walk(from);
    if (!old || !old->node.volume) return fail_sys(ENOENT, from);
    if (walk(to))
      return fail(Error::make(EEXIST, fmt::format("{}: there is a volume of that name", to)));
    const bool new_directory = !parts.directory.empty() && !walk(parts.directory);
    VOLFS_TRY_ASSIGN(const uint64_t parent, make_parent(parts.directory));
    if (new_directory) changes.emplace_back(root, entries_.at(parent).node);
    Entry& entry = entries_.at(old->node.inode);
    changes.emplace_back(entry.parent, entry.node);
    entries_.at(entry.parent).children.erase(entry.node.name);
    const uint64_t old_parent = std::exchange(entry.parent, parent);
    entry.node.name = parts.name;
    entries_.at(parent).children.emplace(parts.name, entry.node.inode);
    changes.emplace_back(parent, entry.node);
    {
      const std::lock_guard volume_lock(entry.node.volume->mutex_);
      entry.node.volume->path_ = to;
    }
    drop_if_empty(old_parent, changes);
  }
  tell(changes);
  publish("volume.renamed", to, from);
  return {};
}

void Catalog::changed(Volume& volume) {
  volume.refresh();
  const std::lock_guard lock(listener_mutex_);
  if (listener_) listener_->volume_changed(volume.inode());
}

std::shared_ptr<Volume> Catalog::find(std::string_view path) const {
  const std::lock_guard lock(mutex_);
  const Entry* entry = walk(path);
  return entry ? entry->node.volume : nullptr;
}

std::vector<std::shared_ptr<Volume>> Catalog::volumes() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Volume>> all;
  for (const auto& [inode, entry] : entries_)
    if (entry.node.volume) all.push_back(entry.node.volume);
  return all;
}

std::optional<Catalog::Node> Catalog::get(uint64_t inode) const {
  const std::lock_guard lock(mutex_);
  const auto entry = entries_.find(inode);
  if (entry == entries_.end()) return std::nullopt;
  return entry->second.node;
}

std::optional<Catalog::Node> Catalog::lookup(uint64_t parent, std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto entry = entries_.find(parent);
  if (entry == entries_.end()) return std::nullopt;
  const auto child = entry->second.children.find(name);
  if (child == entry->second.children.end()) return std::nullopt;
  return entries_.at(child->second).node;
}

std::vector<Catalog::Node> Catalog::list(uint64_t directory) const {
  const std::lock_guard lock(mutex_);
  std::vector<Node> nodes;
  const auto entry = entries_.find(directory);
  if (entry == entries_.end()) return nodes;
  nodes.reserve(entry->second.children.size());
  for (const auto& [name, inode] : entry->second.children) nodes.push_back(entries_.at(inode).node);
  return nodes;
}

void Catalog::publish_to(EventHub& hub) {
  hub_.store(&hub);
}

void Catalog::publish(const char* type, std::string_view path, std::string_view from) {
  EventHub* const hub = hub_.load();
  if (!hub) return;
  Event event{type, std::string(path), {}};
  if (!from.empty()) event.details.emplace_back("from", std::string(from));
  hub->publish(event);
}

void Catalog::set_listener(Listener* listener) {
  const std::lock_guard lock(listener_mutex_);
  listener_ = listener;
}

void Catalog::tell(const std::vector<std::pair<uint64_t, Node>>& changes) {
  const std::lock_guard lock(listener_mutex_);
  if (!listener_) return;
  for (const auto& [parent, node] : changes) listener_->name_changed(parent, node.name, node.inode);
}

}  // namespace volfs::engine
