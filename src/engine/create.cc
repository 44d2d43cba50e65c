// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/engine/create.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "array_options.h"
#include "assembler.h"
#include "below.h"
#include "create_volume_group.h"
#include "merge_record.h"
#include "small_file.h"
#include "volfs/backing/image.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

bool exists(const std::string& path) {
  struct stat status{};
  return stat(path.c_str(), &status) == 0 || errno != ENOENT;
}

// Whether a map or snapshot cannot be looked at yet, since it stands on what is yet to be made.
bool stands_on(const config::Definition& definition, const config::Item& item,
               const std::string& directory, const std::set<std::string>& coming) {
  if (item.kind != config::DeviceKind::map && item.kind != config::DeviceKind::snapshot)
    return false;
  if (item.kind == config::DeviceKind::snapshot)
    if (const auto& cow = definition.snapshots[item.index].cow_image;
        cow && !exists(resolve_path(directory, cow->path.value)))
      return true;
  const config::Definition below = needed_for(definition, {name_of(definition, item)});
  return std::ranges::any_of(below.build_order, [&](const config::Item& each) {
    return coming.contains(name_of(definition, each));
  });
}

// The files that a definition knows, those that snapshots keep their chunks in too: with what they
// are called in messages.
struct NamedFile {
  const config::Image& image;
  std::string what;
  bool store = false;  // of a snapshot
};
std::vector<NamedFile> files_of(const config::Definition& definition) {
  std::vector<NamedFile> files;
  for (const config::Image& image : definition.images)
    files.push_back({image, fmt::format("the image '{}'", image.name.value)});
  for (const config::Snapshot& snapshot : definition.snapshots)
    if (snapshot.cow_image)
      files.push_back({*snapshot.cow_image,
                       fmt::format("the cow of snapshot '{}'", snapshot.name.value), true});
  return files;
}

// Where a missing file will be, so that two ways to say it are seen to be one.
std::string place_of(const std::string& path) {
  const std::filesystem::path whole = std::filesystem::absolute(path);
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::canonical(whole.parent_path(), error);
  return error ? whole.lexically_normal().string() : (folder / whole.filename()).string();
}

// COMING: the names of images whose files are yet to be made.
void plan_images(const config::Definition& definition, const CreateOptions& options,
                 std::set<std::string>& coming, std::vector<CreateStep>& steps,
                 config::Diagnostics& problems) {
  std::map<std::string, const config::Image*> planned;
  for (const auto& [image, what, is_store] : files_of(definition)) {
    const std::string path = resolve_path(options.directory, image.path.value);
    if (exists(path)) continue;
    const auto same = planned.find(place_of(path));
    if (same != planned.end()) {
      const config::Image& first = *same->second;
      if (!image.name.value.empty()) coming.insert(image.name.value);
      if (image.size && image.size->value != first.size->value)
        problems.add(image.size->at,
                     fmt::format("{} makes {} with {}, and line {} with {}", what, path,
                                 format_size(image.size->value), first.size->at.line,
                                 format_size(first.size->value)),
                     "the same size for all images of a file");
      continue;
    }
    if (!image.size) {
      problems.add(image.path.at,
                   fmt::format("{} does not exist and {} has no size to make it with", path, what));
      continue;
    }
    const uint64_t size = image.size->value;
    planned.emplace(place_of(path), &image);
    if (!image.name.value.empty()) coming.insert(image.name.value);
    steps.push_back({fmt::format("create {}, {}", path, format_size(size)),
                     [path, size, store = is_store,
                      place = fmt::format("{}:{}:{}", definition.file_name, image.size->at.line,
                                          image.size->at.column)]() -> Status {
                       // Of an earlier file: a mount would merge the snapshot.
                       if (store) VOLFS_TRY(in(place, remove_file(marker_of(path))));
                       return in(place, create_image(path, size));
                     }});
  }
}

// What is there already must be what the definition says: nothing is made beside an image that a
// mount would refuse.
void check_rest(const config::Definition& definition, const CreateOptions& options,
                const std::set<std::string>& coming, config::Diagnostics& problems) {
  std::vector<std::string> there;
  for (const config::Item& item : definition.build_order)
    if (std::string name = name_of(definition, item); !coming.contains(name))
      there.push_back(std::move(name));
  AssembleOptions look;
  look.directory = options.directory;
  look.open_image = options.open_image;
  look.read_only = true;
  look.probe = true;
  auto engine = Engine::assemble(needed_for(definition, there), look);
  if (!engine) problems = std::move(engine.error());
}

}  // namespace

std::vector<std::string> missing_images(const config::Definition& definition,
                                        const std::string& directory) {
  std::vector<std::string> missing;
  for (const NamedFile& file : files_of(definition))
    if (!exists(resolve_path(directory, file.image.path.value)))
      missing.push_back(file.image.path.value);
  return missing;
}

std::expected<std::vector<CreateStep>, config::Diagnostics> plan_creation(
    const config::Definition& definition, const CreateOptions& options) {
  std::vector<CreateStep> steps;
  config::Diagnostics problems(definition.file_name);
  std::set<std::string> coming;
  plan_images(definition, options, coming, steps, problems);
  for (const config::Item& item : definition.build_order) {
    const size_t before = steps.size();
    if (item.kind == config::DeviceKind::array)
      plan_array(definition, definition.arrays[item.index], options, coming, steps, problems);
    if (item.kind == config::DeviceKind::volume_group && problems.empty())
      plan_volume_group(definition, definition.volume_groups[item.index], options, coming, steps,
                        problems);
    if (steps.size() > before || stands_on(definition, item, options.directory, coming))
      coming.insert(name_of(definition, item));
  }
  if (problems.empty()) check_rest(definition, options, coming, problems);
  if (!problems.empty()) {
    problems.sort();
    return std::unexpected(problems);
  }
  return steps;
}

}  // namespace volfs::engine
