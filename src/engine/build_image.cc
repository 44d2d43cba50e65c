// SPDX-License-Identifier: GPL-2.0-or-later
// Images: the files and block devices of a definition.
#include <fmt/format.h>

#include <filesystem>

#include <cerrno>

#include "assembler.h"
#include "volfs/backing/image.h"

namespace volfs::engine {

Error overlap(const FileImage& image, const std::string& name, const FileImage& other) {
  return Error::make(EBUSY,
                     fmt::format("{}: is, at least in part, what the image '{}' ({}) is too: "
                                 "expected a file of its own, other bytes, or 'readonly: true' for "
                                 "both",
                                 image.path(), name, other.path()));
}

Status check_overlap(const Graph& graph, const FileImage& image, bool read_only) {
  for (const Node* node : graph.nodes()) {
    const auto* other = dynamic_cast<const FileImage*>(node->device.get());
    if (!other || (read_only && node->read_only_wanted) || !image.overlaps(*other)) continue;
    return fail(overlap(image, node->name, *other));
  }
  return {};
}

namespace {

void put_source(Node& node, const config::Image& image, const std::string& path) {
  node.read_only_wanted = image.readonly.value;
  node.source = {.path = path,
                 .partition = image.partition ? image.partition->value : 0,
                 .offset = image.offset.value,
                 .length = image.length ? image.length->value : 0,
                 .pad = image.pad ? image.pad->value : 0,
                 .read_only = image.readonly.value,
                 .direct = image.direct && image.direct->value};
}

}  // namespace

void Assembler::build(const config::Image& image) {
  const std::string path = resolve_path(options_.directory, image.path.value);
  ImageOptions options;
  options.read_only = engine_->read_only() || image.readonly.value;
  options.lock = !options_.probe;
  options.direct = image.direct && image.direct->value;
  if (image.partition) options.partition = image.partition->value;
  options.offset = image.offset.value;
  if (image.length) options.length = image.length->value;
  if (image.pad) {
    options.pad = image.pad->value;
    std::error_code error;  // a block device has no size of a file
    const uint64_t size = std::filesystem::file_size(path, error);
    if (!error && size > options.pad)
      return report(
          image.pad->at,
          fmt::format("'pad' of the image '{}' is {}, and {} has {} bytes: expected as many, "
                      "or more",
                      image.name.value, options.pad, path, size));
  }
  const auto open = [&]() -> Result<std::unique_ptr<BlockDevice>> {
    if (engine_->overlay_) return overlaid(image, path, options);
    return engine_->open_image_(own_name(image.name.value, Kind::image), path, options);
  };
  auto opened = open();
  if (!opened) return report(image.path.at, opened.error().text());
  if (image.size && (*opened)->size() < image.size->value)
    return report(image.size->at, fmt::format("{}: {} is smaller than that: {} bytes",
                                              image.name.value, path, (*opened)->size()));
  if (const auto* file = dynamic_cast<const FileImage*>(opened->get()))
    if (!mount_read_only()) {
      auto alone = check_overlap(engine_->graph(), *file, image.readonly.value);
      if (!alone) return report(image.path.at, alone.error().text());
    }
  if (Node* node = add(image.name, Kind::image, std::move(*opened), true))
    put_source(*node, image, path);
}

}  // namespace volfs::engine
