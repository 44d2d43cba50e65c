// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <stdexcept>

#include "factories.h"
#include "support/disk_tables.h"
#include "support/memory_device.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

struct Image {
  TempDir dir;
  std::unique_ptr<FileImage> device;
};

Subject image(const ImageOptions& options, uint64_t size = MiB) {
  auto all_of_it = std::make_shared<Image>();
  const std::string path = all_of_it->dir.file("disk.img", size);
  if (options.partition != 0) write_mbr(path);
  auto opened = FileImage::open("disk", path, options);
  if (!opened) throw std::runtime_error(opened.error().text());
  all_of_it->device = std::move(*opened);
  return Subject::of(all_of_it, *all_of_it->device);
}

void add(Factories& all, const std::string& name, const ImageOptions& options) {
  ImageOptions read_only = options;
  read_only.read_only = true;
  const uint64_t size = options.partition != 0 ? mbr_disk_size : MiB + 512;
  all.push_back({.name = name,
                 .make = [=] { return image(options, size); },
                 .make_read_only = [=] { return image(read_only, size); }});
}

}  // namespace

void add_images(Factories& all) {
  add(all, "buffered image", {});
  add(all, "O_DIRECT image", {.direct = true, .length = MiB});
  add(all, "primary partition", {.partition = 1});
  add(all, "logical partition with O_DIRECT", {.direct = true, .partition = 6});
  add(all, "range of an image", {.offset = 1536, .length = 200 * KiB});
}

}  // namespace volfs::test
