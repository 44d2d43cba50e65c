// SPDX-License-Identifier: GPL-2.0-or-later
// What stands in the mounted directory: the catalog's directories and volumes, and .volfs.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/engine/catalog.h"
#include "volfs/fuse/server.h"

namespace volfs::fuse {

class Tree {
 public:
  // The numbers of .volfs and its files are beyond those of any catalog.
  static constexpr uint64_t special = uint64_t{1} << 40;

  struct Item {
    enum class Kind { directory, volume, info, control, events };
    Kind kind = Kind::directory;
    uint64_t inode = 0;
    std::shared_ptr<engine::Volume> volume;  // Kind::volume
    const InfoFile* info = nullptr;          // Kind::info
  };
  struct Named {
    std::string name;
    Item item;
  };

  explicit Tree(engine::Catalog& catalog);
  // Before requests are served.
  void add_info_file(InfoFile file) { info_.push_back(std::move(file)); }
  void set_control() { has_control_ = true; }
  void set_events() { has_events_ = true; }

  std::optional<Item> get(uint64_t inode) const;
  std::optional<Item> lookup(uint64_t parent, std::string_view name) const;
  std::vector<Named> list(uint64_t directory) const;
  // Without st_blocks of a volume, which may be costly.
  struct stat attributes(const Item& item) const;
  engine::Catalog& catalog() const { return catalog_; }

 private:
  Item item_of(const engine::Catalog::Node& node) const;
  Item info_item(size_t index) const;

  engine::Catalog& catalog_;
  std::vector<InfoFile> info_;
  bool has_control_ = false;
  bool has_events_ = false;
  const timespec started_;
};

}  // namespace volfs::fuse
