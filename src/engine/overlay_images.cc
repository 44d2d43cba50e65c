// SPDX-License-Identifier: GPL-2.0-or-later
// Images of a mount with an overlay: a snapshot over each file, opened read-only, and what a
// definition calls an image on top of that.
#include <fmt/format.h>

#include "assembler.h"
#include "snapshot_parts.h"
#include "volfs/backing/image.h"
#include "volfs/dm/snapshot.h"
#include "volfs/engine/overlay.h"
#include "volfs/units.h"

namespace volfs::engine {

void Assembler::open_overlay() {
  if (options_.overlay.empty()) return;
  const bool read_only = engine_->read_only_ || options_.probe;
  auto opened = Overlay::open(options_.overlay, !read_only, !options_.probe);
  if (opened) {
    engine_->overlay_ = std::move(*opened);
  } else if (!read_only || opened.error().code() != ENOENT) {
    report({}, opened.error().text());
  }
}

Result<Node*> Assembler::add_internal(const std::string& name, Kind kind,
                                      std::unique_ptr<BlockDevice> device) {
  VOLFS_TRY_ASSIGN(Node* const node, engine_->graph_.add(name, kind, std::move(device)));
  node->internal = true;
  return node;
}

// The whole of a file with its overlay; NAME is what its parts are named after.
Result<std::unique_ptr<dm::MappedDevice>> Assembler::lay_over(const std::string& name,
                                                              const OverlayImage& image,
                                                              const ImageOptions& options) {
  const Overlay& overlay = *engine_->overlay_;
  VOLFS_TRY_ASSIGN(auto base, FileImage::open(name + "-base", image.path,
                                              {.read_only = true,
                                               .direct = options.direct,
                                               .lock = !options_.probe,
                                               .pad = options.pad}));
  const bool read_only = engine_->read_only_ || options_.probe;
  VOLFS_TRY_ASSIGN(auto store, FileImage::open(name + "-cow", overlay.store_path(image),
                                               {.read_only = read_only, .lock = !options_.probe}));
  VOLFS_TRY_ASSIGN(const dm::StoreInfo info, dm::inspect_store(*store));
  if (info.kind != dm::StoreInfo::Kind::store || !info.valid)
    return fail(Error::make(EUCLEAN, fmt::format("{}: {}", store->path(),
                                                 info.kind == dm::StoreInfo::Kind::store
                                                     ? "is marked invalid"
                                                     : "is no snapshot store any more")));
  const Below below{base.get(), store.get()};
  VOLFS_TRY_ASSIGN(
      auto snapshot,
      engine_->origins_.open(*base, *store, {.chunk_size = image.chunk_size, .keep = true}));
  VOLFS_TRY(add_internal(name + "-base", Kind::image, std::move(base)));
  VOLFS_TRY(add_internal(name + "-cow", Kind::image, std::move(store)));
  auto map = std::make_unique<dm::MappedDevice>(name);
  VOLFS_TRY(load_over(
      *map, "snapshot", below, snapshot_words("P", image.chunk_size / sector_size),
      {.size = below.origin->size(), .read_only = read_only, .origins = engine_->origins_}));
  VOLFS_TRY(map->resume());
  return map;
}

Result<std::unique_ptr<BlockDevice>> Assembler::overlaid(const config::Image& image,
                                                         const std::string& path,
                                                         ImageOptions options) {
  const std::string name = own_name(image.name.value, Kind::image);
  Overlay& overlay = *engine_->overlay_;
  const bool read_only = options.read_only;
  options.read_only = true;
  VOLFS_TRY_ASSIGN(auto range, FileImage::open(name, path, options));
  if (range->size() == 0) return range;  // nothing can be written there
  VOLFS_TRY_ASSIGN(const OverlayImage* entry, overlay.find(path, options_.force));
  if (!entry && !engine_->read_only_ && !options_.probe) {
    VOLFS_TRY_ASSIGN(entry, overlay.add(path));
  }
  if (!entry) return range;  // nothing was written yet, and nothing will be
  if (!engine_->read_only_ && !options_.probe) VOLFS_TRY(overlay.pad(*entry, options.pad));
  for (const Overlaid& other : overlaid_)
    if (!(read_only && other.read_only) && range->overlaps(*other.range))
      return fail(overlap(*range, other.name, *other.range));
  const uint64_t start = range->start(), size = range->size();
  overlaid_.push_back({image.name.value, std::move(range), read_only});
  BlockDevice*& whole = laid_over_[entry->path];
  const bool all = start == 0 && size == std::max(entry->size, options.pad) && !read_only;
  if (!whole) {
    const std::string whole_name = all ? name : name + "-overlay";
    VOLFS_TRY_ASSIGN(auto map, lay_over(whole_name, *entry, options));
    whole = map.get();
    if (all) return map;
    VOLFS_TRY(add_internal(whole_name, Kind::image, std::move(map)));
  }
  auto part = std::make_unique<dm::MappedDevice>(name);
  VOLFS_TRY(load_over(*part, "linear", {whole, nullptr},
                      {"origin", fmt::format("{}", start / sector_size)},
                      {.size = size, .read_only = read_only, .origins = engine_->origins_}));
  VOLFS_TRY(part->resume());
  return part;
}

}  // namespace volfs::engine
