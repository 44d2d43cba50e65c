// SPDX-License-Identifier: GPL-2.0-or-later
// Files that two images name, and uuids that two things have.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <unordered_map>

#include "checks.h"

namespace volfs::config {
namespace {

std::string called(const Image& image) {
  return image.name.at.given() ? fmt::format("image {}", quote(image.name.value))
                               : std::string("a snapshot's cow");
}

uint64_t end_of(const Image& image) {
  const uint64_t length = image.length ? image.length->value : max_device_size;
  return checked_add(image.offset.value, length).value_or(UINT64_MAX);
}

bool overlap(const Image& a, const Image& b) {
  if (a.partition && b.partition) return a.partition->value == b.partition->value;
  if (a.partition || b.partition) return true;
  return a.offset.value < end_of(b) && b.offset.value < end_of(a);
}

void report_overlap(Context& context, const Image& a, const Image& b) {
  const Image& later = a.path.at < b.path.at ? b : a;
  const Image& first = a.path.at < b.path.at ? a : b;
  context.report(later.path.at,
                 fmt::format("{} is the file {} that {} has too (line {})", called(later),
                             quote(later.path.value), called(first), first.path.at.line),
                 "a file of its own, another partition, other bytes, or 'readonly: true' for both");
}

// IMAGES have one path. Sorted by where they begin, those that overlap the one that reaches
// farthest so far are the ones to tell, so that the work stays in proportion.
void check_one_path(Context& context, std::vector<const Image*>& images, bool all_readonly) {
  const auto readonly = [&](const Image* image) { return all_readonly || image->readonly.value; };
  std::stable_sort(images.begin(), images.end(), [](const Image* a, const Image* b) {
    return a->offset.value < b->offset.value;
  });
  std::unordered_map<uint32_t, const Image*> partitions;
  const Image* farthest = nullptr;          // of any image that is no partition
  const Image* farthest_written = nullptr;  // of those that are written
  for (const Image* image : images) {
    const Image* clash = nullptr;
    if (image->partition) {
      const auto [other, is_new] = partitions.emplace(image->partition->value, image);
      if (!is_new && !(readonly(image) && readonly(other->second))) clash = other->second;
    } else {
      const Image* other = readonly(image) ? farthest_written : farthest;
      if (other != nullptr && overlap(*other, *image)) clash = other;
      if (farthest == nullptr || end_of(*image) > end_of(*farthest)) farthest = image;
      if (!readonly(image) &&
          (farthest_written == nullptr || end_of(*image) > end_of(*farthest_written)))
        farthest_written = image;
    }
    if (clash != nullptr) report_overlap(context, *clash, *image);
  }
  if (partitions.empty() || farthest == nullptr) return;
  for (const auto& [number, image] : partitions) {
    const Image* whole = readonly(image) ? farthest_written : farthest;
    if (whole != nullptr) report_overlap(context, *whole, *image);
  }
}

// IMAGES have one path, in the order of the file. Two ways into one file do not see each other's
// writes in time.
void check_one_way(Context& context, const std::vector<const Image*>& images) {
  const auto direct = [](const Image* image) { return image->direct && image->direct->value; };
  const Image* const first = images.front();
  for (const Image* image : images) {
    if (direct(image) == direct(first)) continue;
    context.report(image->direct ? image->direct->at : image->path.at,
                   fmt::format("{} is used {} O_DIRECT and {}, of the same file, {} (line {})",
                               called(*image), direct(image) ? "with" : "without", called(*first),
                               direct(first) ? "with it" : "without", first->path.at.line),
                   "the same 'direct' for all images of a file");
  }
}

// IMAGES have one path, in the order of the file: `volfs create` makes it once.
void check_one_size(Context& context, const std::vector<const Image*>& images) {
  const Image* first = nullptr;
  for (const Image* image : images) {
    if (!image->size) continue;
    if (first == nullptr) first = image;
    if (image->size->value == first->size->value) continue;
    context.report(image->size->at,
                   fmt::format("'size' of {} is {}, and that of {}, of the same file, {} (line {})",
                               called(*image), format_size(image->size->value), called(*first),
                               format_size(first->size->value), first->size->at.line),
                   "the same size for all images of a file");
  }
}

class UuidChecker {
 public:
  explicit UuidChecker(Context& context) : context_(context) {}

  void add(std::string_view text, Position at) {
    const auto [before, is_new] = seen_.emplace(text, at);
    if (is_new) return;
    const Position first = std::min(before->second, at), later = std::max(before->second, at);
    context_.report(later, fmt::format("uuid {} again (line {})", quote(text), first.line),
                    "a uuid of its own");
  }
  void add(const Optional<std::string>& uuid) {
    if (uuid) add(uuid->value, uuid->at);
  }

 private:
  Context& context_;
  std::unordered_map<std::string, Position> seen_;
};

std::string to_string(const Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); ++i)
    text += fmt::format("{}{:02x}", i > 0 && i % 4 == 0 ? ":" : "", uuid[i]);
  return text;
}

}  // namespace

void check_paths(Context& context, const Definition& definition) {
  std::map<std::string, std::vector<const Image*>> by_path;
  const auto add = [&](const Image& image) {
    if (image.path.value.empty()) return;
    by_path[std::filesystem::path(image.path.value).lexically_normal().string()].push_back(&image);
  };
  for (const Image& image : definition.images) add(image);
  for (const Snapshot& snapshot : definition.snapshots)
    if (snapshot.cow_image) add(*snapshot.cow_image);
  for (auto& [path, images] : by_path) {
    if (images.size() < 2) continue;
    std::ranges::stable_sort(images, {}, [](const Image* image) { return image->path.at; });
    check_one_way(context, images);
    check_one_size(context, images);
    check_one_path(context, images, definition.readonly.value);
  }
}

void check_uuids(Context& context, const Definition& definition) {
  UuidChecker arrays(context), lvm(context), maps(context);
  for (const Array& array : definition.arrays)
    if (array.uuid) arrays.add(to_string(array.uuid->value), array.uuid->at);
  for (const VolumeGroup& group : definition.volume_groups) {
    lvm.add(group.uuid);
    for (const PhysicalVolume& pv : group.physical_volumes) lvm.add(pv.uuid);
    for (const LogicalVolume& volume : group.logical_volumes) lvm.add(volume.uuid);
  }
  for (const Map& map : definition.maps) maps.add(map.uuid);
}

}  // namespace volfs::config
