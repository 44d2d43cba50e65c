// SPDX-License-Identifier: GPL-2.0-or-later
// Requests that tell where bytes are: those of a volume on the images, and back.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "requests.h"
#include "volfs/units.h"

namespace volfs::control {
namespace {

using nlohmann::json;
using Opened = std::unique_ptr<engine::Volume, void (*)(engine::Volume*)>;

// A volume that stays meanwhile; null if it is about to go.
Opened opened(engine::Volume& volume) {
  return {volume.open() ? &volume : nullptr, [](engine::Volume* each) { each->close(); }};
}

const char* kind_name(const Extent& extent, const engine::Node* node) {
  if (extent.kind == Extent::Kind::zero) return "zero";
  if (extent.kind == Extent::Kind::error) return "error";
  if (!node) return "device";
  return engine::to_string(node->kind).data();
}

// Where a byte of a volume is: the extents of [offset, offset+length).
Result<json> where(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string path, fields.text("volume"));
  VOLFS_TRY_ASSIGN(const uint64_t offset, fields.number("offset"));
  VOLFS_TRY_ASSIGN(const uint64_t length, fields.number_or("length", 1));
  const auto volume = context.engine.catalog().find(path);
  if (!volume) return fail(Error::make(ENOENT, path + ": there is no such volume"));
  const Opened open = opened(*volume);
  if (!open) return fail_sys(ENOENT, path);
  if (!range_within(offset, length, volume->size()))
    return fail_invalid(fmt::format("{}: {} bytes at {}: expected an end at {} at most", path,
                                    length, offset, volume->size()));
  Mapping mapping;
  volume->device().map(Op::read, offset, length, Wait::yes, mapping);
  json extents = json::array();
  uint64_t at = offset;
  for (const Extent& extent : mapping.extents()) {
    const engine::Node* node =
        extent.device ? context.engine.graph().find(*extent.device) : nullptr;
    json entry{{"offset", at}, {"length", extent.length}, {"kind", kind_name(extent, node)}};
    if (extent.device) {
      entry["device"] = extent.device->name();
      entry["device_offset"] = extent.offset;
    }
    extents.push_back(std::move(entry));
    at += extent.length;
  }
  return json{{"volume", path}, {"extents", std::move(extents)}};
}

// Looks through volumes for what lies in a range of a device.
class BackSearch {
 public:
  BackSearch(const BlockDevice& device, uint64_t offset, uint64_t length)
      : device_(device), begin_(offset), end_(offset + length) {}

  // False if the volume has to be waited for, or nobody waits for the answer.
  bool search(engine::Volume& volume, const RequestContext& context) {
    const uint64_t size = volume.size();
    uint64_t piece = most_piece;
    json found = json::array();
    for (uint64_t at = 0; at < size;) {
      if (context.abandoned()) return false;
      const uint64_t length = std::min(piece, size - at);
      Mapping mapping;
      if (!volume.device().map(Op::read, at, length, Wait::no, mapping)) return false;
      const size_t count = mapping.extents().size();
      take(mapping, at, found);
      at += length;
      // Finely spread volumes are looked at in smaller pieces, so that memory stays bounded.
      if (count > 8192 && piece > MiB) piece /= 2;
    }
    const std::string path = volume.path();
    for (json& each : found) {
      each["volume"] = path;
      extents_.push_back(std::move(each));
    }
    return true;
  }
  json& extents() { return extents_; }

 private:
  static constexpr uint64_t most_piece = 256 * MiB;

  void take(const Mapping& mapping, uint64_t at, json& found) const {
    for (const Extent& extent : mapping.extents()) {
      const uint64_t begin = std::max(begin_, extent.offset);
      const uint64_t end = std::min(end_, extent.offset + extent.length);
      if (extent.kind == Extent::Kind::device && extent.device == &device_ && begin < end)
        add(begin, end - begin, at + (begin - extent.offset), found);
      at += extent.length;
    }
  }
  // Neighbours become one.
  static void add(uint64_t offset, uint64_t length, uint64_t in_volume, json& found) {
    if (!found.empty()) {
      json& last = found.back();
      const uint64_t before = last["length"];
      if (last["offset"].get<uint64_t>() + before == offset &&
          last["volume_offset"].get<uint64_t>() + before == in_volume) {
        last["length"] = before + length;
        return;
      }
    }
    found.push_back({{"offset", offset}, {"length", length}, {"volume_offset", in_volume}});
  }

  const BlockDevice& device_;
  const uint64_t begin_, end_;
  json extents_ = json::array();
};

// Which bytes of volumes lie in [offset, offset+length) of an image.
Result<json> where_back(const RequestContext& context, const Fields& fields) {
  VOLFS_TRY_ASSIGN(const std::string name, fields.text("device"));
  VOLFS_TRY_ASSIGN(const uint64_t offset, fields.number("offset"));
  VOLFS_TRY_ASSIGN(const uint64_t length, fields.number_or("length", 1));
  VOLFS_TRY_ASSIGN(const engine::Graph::Pin pin, context.engine.graph().pin(name));
  if (!range_within(offset, length, pin->device->size()))
    return fail_invalid(fmt::format("{}: {} bytes at {}: expected an end at {} at most", name,
                                    length, offset, pin->device->size()));
  BackSearch search(*pin->device, offset, length);
  json waiting = json::array();
  for (const auto& volume : context.engine.catalog().volumes()) {
    const Opened open = opened(*volume);
    if (open && !search.search(*volume, context)) waiting.push_back(volume->path());
    if (context.abandoned()) return fail(Error::make(ECANCELED, "nobody waits any more"));
  }
  return json{
      {"device", name}, {"extents", std::move(search.extents())}, {"unknown", std::move(waiting)}};
}

constexpr std::array where_rows{
    RequestType{"where", "volume:name,offset:number,length:number?", where},
    RequestType{"where.back", "device:name,offset:number,length:number?", where_back},
};

}  // namespace

std::span<const RequestType> where_requests() {
  return where_rows;
}

}  // namespace volfs::control
