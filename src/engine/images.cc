// SPDX-License-Identifier: GPL-2.0-or-later
// Images that join and leave a running mount.
#include "volfs/backing/image.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <mutex>

#include "volfs/config/names.h"
#include "volfs/engine/engine.h"
#include "words.h"

namespace volfs::engine {
namespace {

// An image that has bytes of FRESH, too: two devices must not write to the same ones.
const Node* overlapping(const Graph& graph, const BlockDevice& fresh) {
  const auto* file = dynamic_cast<const FileImage*>(&fresh);
  for (const Node* node : graph.nodes()) {
    const auto* image = dynamic_cast<const FileImage*>(node->device.get());
    if (image && file && image->overlaps(*file)) return node;
  }
  return nullptr;
}

}  // namespace

Result<std::vector<std::string>> Engine::image_add(const NewImage& image) {
  if (const auto expected = config::bad_device_name(image.name))
    return fail_invalid(
        fmt::format("'{}' is not a name for an image; expected {}", image.name, *expected));
  ImageOptions options;
  options.read_only = read_only_ || image.read_only;
  options.direct = image.direct;
  options.partition = image.partition;
  options.offset = image.offset;
  if (image.length > 0) options.length = image.length;
  options.pad = image.pad;
  if (overlay_)
    return fail(
        Error::make(EOPNOTSUPP, fmt::format("{}: an image cannot join a mount with an overlay: "
                                            "it would be written to itself",
                                            image.path)));
  // Without the structure lock: a file on a network may take its time.
  VOLFS_TRY_ASSIGN(auto opened, open_image_(image.name, image.path, options));
  {
    const std::lock_guard lock(structure_);
    if (closed_) return fail(Error::make(ECANCELED, "the mount ends"));
    if (const Node* other = overlapping(graph_, *opened))
      return fail(
          Error::make(EBUSY, fmt::format("{}: is image {} already", image.path, other->name)));
    const uint64_t size = opened->size();
    VOLFS_TRY_ASSIGN(Node* const node, graph_.add(image.name, Kind::image, std::move(opened)));
    node->source = {.path = image.path,
                    .partition = image.partition,
                    .offset = image.offset,
                    .length = image.length,
                    .pad = image.pad,
                    .read_only = image.read_only,
                    .direct = image.direct};
    events_.publish({"image.added", image.name, {{"path", image.path}, {"size", size}}});
  }
  if (!image.activate) return std::vector<std::string>();
  return join_groups_of(image.name);
}

Status Engine::image_remove(std::string_view name) {
  {
    VOLFS_TRY_ASSIGN(const Graph::Pin pin, graph_.pin(name));
    if (pin->kind != Kind::image)
      return fail(
          Error::make(ENOTTY, fmt::format("{}: not an image but {}", name, one_of(pin->kind))));
    if (pin->internal)
      return fail(Error::make(EBUSY, fmt::format("{}: is a part of another device", name)));
    if (const auto users = graph_.users(*pin->device); !users.empty())
      return fail(Error::make(EBUSY, fmt::format("{}: in use by {}", name, users.front())));
    for (const auto& group : volume_groups())
      if (std::ranges::count(group->devices(), name) > 0)
        return fail(
            Error::make(EBUSY, fmt::format("{}: in use by volume group {}", name, group->name())));
    VOLFS_TRY(pin->device->flush());
  }
  VOLFS_TRY(take_down(name, Kind::image));
  events_.publish({"image.removed", std::string(name), {}});
  return {};
}

}  // namespace volfs::engine
