// SPDX-License-Identifier: GPL-2.0-or-later
#include "tree.h"

#include <algorithm>

namespace volfs::fuse {
namespace {

constexpr std::string_view special_name = ".volfs";
constexpr std::string_view control_name = "control";
constexpr uint64_t control_inode = Tree::special + 1;
constexpr std::string_view events_name = "events";
constexpr uint64_t events_inode = Tree::special + 2;
constexpr uint64_t first_info_inode = Tree::special + 3;

timespec to_timespec(Nanos time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  timespec out{};
  out.tv_sec = seconds.count();
  out.tv_nsec = (time - seconds).count();
  return out;
}

// Who may read a file may enter its directory.
mode_t directory_mode(mode_t mode) {
  return S_IFDIR | (mode & 0777) | ((mode & 0444) >> 2);
}

// The kernel keeps a power of two; it steers the size of requests of cp and others.
blksize_t block_size(const Limits& limits) {
  return static_cast<blksize_t>(std::max({4096U, limits.physical_block, limits.io_min}));
}

}  // namespace

Tree::Tree(engine::Catalog& catalog) : catalog_(catalog), started_(to_timespec(wall_clock())) {}

Tree::Item Tree::item_of(const engine::Catalog::Node& node) const {
  return {.kind = node.volume ? Item::Kind::volume : Item::Kind::directory,
          .inode = node.inode,
          .volume = node.volume,
          .info = nullptr};
}

Tree::Item Tree::info_item(size_t index) const {
  return {.kind = Item::Kind::info,
          .inode = first_info_inode + index,
          .volume = nullptr,
          .info = &info_[index]};
}

std::optional<Tree::Item> Tree::get(uint64_t inode) const {
  if (inode < special) {
    if (auto node = catalog_.get(inode)) return item_of(*node);
    return std::nullopt;
  }
  if (inode == special) return Item{.inode = special};
  if (inode == control_inode && has_control_)
    return Item{.kind = Item::Kind::control, .inode = control_inode};
  if (inode == events_inode && has_events_)
    return Item{.kind = Item::Kind::events, .inode = events_inode};
  const uint64_t index = inode - first_info_inode;
  if (inode >= first_info_inode && index < info_.size()) return info_item(index);
  return std::nullopt;
}

std::optional<Tree::Item> Tree::lookup(uint64_t parent, std::string_view name) const {
  if (parent == engine::Catalog::root && name == special_name) return get(special);
  if (parent < special) {
    if (auto node = catalog_.lookup(parent, name)) return item_of(*node);
    return std::nullopt;
  }
  if (parent != special) return std::nullopt;
  if (name == control_name) return get(control_inode);
  if (name == events_name) return get(events_inode);
  for (size_t i = 0; i < info_.size(); ++i)
    if (info_[i].name == name) return info_item(i);
  return std::nullopt;
}

std::vector<Tree::Named> Tree::list(uint64_t directory) const {
  std::vector<Named> all;
  if (directory == special) {
    if (has_control_) all.push_back({std::string(control_name), *get(control_inode)});
    if (has_events_) all.push_back({std::string(events_name), *get(events_inode)});
    for (size_t i = 0; i < info_.size(); ++i) all.push_back({info_[i].name, info_item(i)});
    return all;
  }
  if (directory == engine::Catalog::root)
    all.push_back({std::string(special_name), Item{.inode = special}});
  for (const auto& node : catalog_.list(directory)) all.push_back({node.name, item_of(node)});
  return all;
}

struct stat Tree::attributes(const Item& item) const {
  const engine::Exposure& common = catalog_.exposure();
  const engine::Exposure& exposure = item.volume ? item.volume->exposure() : common;
  struct stat out{};
  out.st_ino = item.inode;
  out.st_uid = exposure.uid;
  out.st_gid = exposure.gid;
  out.st_nlink = 1;
  out.st_blksize = 4096;
  out.st_atim = out.st_mtim = out.st_ctim = started_;
  switch (item.kind) {
    case Item::Kind::directory:
      out.st_mode = directory_mode(common.mode);
      out.st_nlink = 2;
      break;
    case Item::Kind::volume:
      out.st_mode = S_IFREG | (exposure.mode & (item.volume->read_only() ? 07555 : 07777));
      out.st_size = static_cast<off_t>(item.volume->size());
      out.st_blksize = block_size(item.volume->bytes().limits());
      out.st_atim = out.st_mtim = out.st_ctim = to_timespec(item.volume->modified());
      break;
    case Item::Kind::events:
    case Item::Kind::info:
      // Made when it is opened, as in /proc: the size is not known before.
      out.st_mode = S_IFREG | (common.mode & 0444);
      break;
    case Item::Kind::control:
      // To share the data is not to share control over it.
      out.st_mode = S_IFREG | (common.mode & 0600);
      break;
  }
  return out;
}

}  // namespace volfs::fuse
