// SPDX-License-Identifier: GPL-2.0-or-later
// Images: the files and block devices of a definition.
#include <fmt/format.h>

#include "assembler.h"
#include "volfs/backing/image.h"

namespace volfs::engine {

void Assembler::build(const config::Image& image) {
  const std::string path = resolve_path(options_.directory, image.path.value);
  ImageOptions options;
  options.read_only = engine_->read_only() || image.readonly.value;
  options.lock = !options_.probe;
  options.direct = image.direct && image.direct->value;
  if (image.partition) options.partition = image.partition->value;
  options.offset = image.offset.value;
  if (image.length) options.length = image.length->value;
  auto opened = FileImage::open(own_name(image.name.value), path, options);
  if (!opened) return report(image.path.at, opened.error().text());
  if (image.size && (*opened)->size() < image.size->value)
    return report(image.size->at, fmt::format("{}: {} is smaller than that: {} bytes",
                                              image.name.value, path, (*opened)->size()));
  if (Node* node = add(image.name, Kind::image, std::move(*opened), true))
    node->read_only_wanted = image.readonly.value;
}

}  // namespace volfs::engine
