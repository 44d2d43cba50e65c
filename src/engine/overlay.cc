// SPDX-License-Identifier: GPL-2.0-or-later
// The directory of an overlay: its manifest, and what belongs to it.
#include "volfs/engine/overlay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "overlay_parts.h"
#include "small_file.h"
#include "volfs/backing/file_identity.h"
#include "volfs/backing/image.h"
#include "volfs/dm/snapshot.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

using nlohmann::json;

constexpr const char* manifest_name = "overlay.json";
// A store that is being made; no entry can be called that.
constexpr const char* new_store_name = ".new.cow";
constexpr uint64_t default_chunk = 16 * KiB;
constexpr std::array state_names{"open", "committing", "committed", "discarding"};

json to_json(const OverlayImage& image) {
  return {{"path", image.path},           {"size", image.size},
          {"mtime", image.mtime},         {"fingerprint", image.fingerprint},
          {"store", image.store},         {"chunk_size", image.chunk_size},
          {"committed", image.committed}, {"pad", image.pad}};
}

// Throws what nlohmann's library throws for a wrong type or a missing key.
OverlayImage from_json(const json& entry) {
  OverlayImage image;
  entry.at("path").get_to(image.path);
  entry.at("size").get_to(image.size);
  entry.at("mtime").get_to(image.mtime);
  entry.at("fingerprint").get_to(image.fingerprint);
  entry.at("store").get_to(image.store);
  entry.at("chunk_size").get_to(image.chunk_size);
  entry.at("committed").get_to(image.committed);
  image.pad = entry.value("pad", uint64_t{0});
  return image;
}

bool good_store_name(const std::string& name) {
  return !name.empty() && name[0] != '.' && name.find('/') == std::string::npos;
}

// Whether it is a store that was made for IMAGE and never written to: of an addition that was
// interrupted before the manifest told of it.
bool is_unused_store(const std::string& path, const OverlayImage& image) {
  const auto store = FileImage::open("store", path, {.read_only = true});
  if (!store || (*store)->size() != dm::full_store_size(image.size, image.chunk_size)) return false;
  const auto info = dm::inspect_store(**store);
  return info && info->kind == dm::StoreInfo::Kind::store && info->valid &&
         info->chunk_size == image.chunk_size && info->first_old == 0 && info->first_new == 0;
}

}  // namespace

Result<std::string> real_path(const std::string& path) {
  char* const whole = ::realpath(path.c_str(), nullptr);
  if (!whole) return fail_sys(errno, path);
  std::string result(whole);
  std::free(whole);
  return result;
}

Error stale_image(const std::string& path, const std::string& directory, const std::string& what) {
  return Error::make(
      ESTALE,
      fmt::format("{}: changed since {} was laid over it: {}; the overlay no longer fits. Put the "
                  "image back as it was, or forget the overlay with `volfs overlay discard {}`; "
                  "-o force and `commit --force` lay it over the image all the same",
                  path, directory, what, directory));
}

Result<std::unique_ptr<Overlay>> Overlay::open(const std::string& directory, bool create,
                                               bool lock) {
  if (create && ::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_sys(errno, directory);
  VOLFS_TRY_ASSIGN(const std::string real, real_path(directory));
  std::unique_ptr<Overlay> overlay(new Overlay(real));
  // The file that is locked stays where an overlay was: what is gone was committed or discarded,
  // and who asks for that once more, having been interrupted, is told that all is well.
  const bool was_one = lock && ::access(overlay->lock_path().c_str(), F_OK) == 0;
  if (lock && (create || was_one)) VOLFS_TRY(overlay->lock());
  VOLFS_TRY_ASSIGN(const bool there, overlay->load());
  if (!there && !create && !was_one)
    return fail(Error::make(ENOENT, fmt::format("{}: holds no overlay", directory)));
  if (lock && (overlay->state_ == State::committed || overlay->state_ == State::discarding))
    VOLFS_TRY(overlay->remove_files());
  if (create && lock && overlay->images_.empty()) VOLFS_TRY(overlay->save());
  return overlay;
}

Overlay::~Overlay() = default;

Status Overlay::lock() {
  const std::string path = lock_path();
  lock_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock_ && (errno == EROFS || errno == EACCES))
    lock_ = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!lock_) return fail_sys(errno, path);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return {};
  if (errno == EWOULDBLOCK)
    return fail(Error::make(EBUSY, directory_ + ": the overlay is in use by another volfs"));
  return fail_sys(errno, path + ": lock");
}

Result<bool> Overlay::load() {
  const std::string path = directory_ + "/" + manifest_name;
  auto text = read_file(path);
  if (!text) {
    if (text.error().code() == ENOENT) return false;
    return fail(std::move(text.error()));
  }
  const auto corrupt = [&](std::string_view what) {
    return fail(Error::make(EUCLEAN, fmt::format("{}: {}", path, what)));
  };
  const json manifest = json::parse(*text, nullptr, false);
  if (!manifest.is_object() || !manifest.contains("volfs_overlay"))
    return corrupt("not the manifest of an overlay");
  if (manifest["volfs_overlay"] != 1) return corrupt("of a newer version of volfs");
  try {
    const auto name = manifest.at("state").get<std::string>();
    const auto known = std::ranges::find(state_names, name);
    if (known == state_names.end()) return corrupt("unknown state '" + name + "'");
    state_ = static_cast<State>(known - state_names.begin());
    for (const json& entry : manifest.at("images")) images_.push_back(from_json(entry));
  } catch (const json::exception& error) {
    return corrupt(error.what());
  }
  for (const OverlayImage& image : images_)
    if (!good_store_name(image.store))
      return corrupt("store '" + image.store + "': not a file name");
  return true;
}

Status Overlay::save() const {
  json images = json::array();
  for (const OverlayImage& image : images_) images.push_back(to_json(image));
  const json manifest{{"volfs_overlay", 1},
                      {"state", state_names[static_cast<size_t>(state_)]},
                      {"images", std::move(images)}};
  return replace_file(directory_ + "/" + manifest_name,
                      manifest.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

const std::string& Overlay::directory() const {
  return directory_;
}

std::string Overlay::store_path(const OverlayImage& image) const {
  return directory_ + "/" + image.store;
}

// An entry whose file is gone and whose image is what REAL holds now: it was moved, or the folder
// that it is in. Without that its changes would be out of sight, and a second store begun.
Result<std::vector<OverlayImage>::iterator> Overlay::find_moved(const std::string& real,
                                                                bool force) {
  OverlayImage now;
  now.path = real;
  for (auto entry = images_.begin(); entry != images_.end(); ++entry) {
    if (FileIdentity::at(entry->path)) continue;
    if (now.fingerprint.empty()) {
      VOLFS_TRY_ASSIGN(const auto file,
                       FileImage::open("image", real, {.read_only = true, .lock = false}));
      now.size = file->size();
      VOLFS_TRY(describe_image(*file, now));
    }
    if (now.size != entry->size || now.fingerprint != entry->fingerprint) continue;
    if (now.mtime != entry->mtime && !force)
      return fail(Error::make(
          ESTALE, fmt::format("{}: seems to be {}, which {} has changes of and which is gone, but "
                              "was written to at another time: move it back, or give it its time "
                              "(touch -d), or say force",
                              real, entry->path, directory_)));
    log_info("{}: is {}, which is gone from there: its changes are laid over it", real,
             entry->path);
    entry->path = real;
    entry->mtime = now.mtime;
    if (auto saved = save(); !saved) log_warning("{}", saved.error().text());
    return entry;
  }
  return images_.end();
}

Result<const OverlayImage*> Overlay::find(const std::string& path, bool force) {
  VOLFS_TRY_ASSIGN(const std::string real, real_path(path));
  if (state_ != State::open)
    return fail(Error::make(
        EBUSY, fmt::format("{}: a commit was interrupted; `volfs overlay commit {}` ends it",
                           directory_, directory_)));
  auto found = std::ranges::find(images_, real, &OverlayImage::path);
  if (found == images_.end()) {
    // Under another name: a hard link, a bind mount.
    const auto identity = FileIdentity::at(real);
    found = std::ranges::find_if(images_, [&](const OverlayImage& image) {
      return identity && FileIdentity::at(image.path) == identity;
    });
  }
  if (found == images_.end()) {
    VOLFS_TRY_ASSIGN(found, find_moved(real, force));
  }
  if (found == images_.end()) return nullptr;
  if (auto same = check(*found); !same) {
    if (!force) return fail(std::move(same.error()));
    log_warning("{}", same.error().text());
  }
  return &*found;
}

// A loop device and its file are two ways to the same bytes, which would get two stores.
Status Overlay::check_loops(const std::string& path) const {
  const auto ground = [](const std::string& each) {
    const auto behind = FileIdentity::behind_loop(each);
    return behind ? behind : FileIdentity::at(each);
  };
  const auto own = ground(path);
  for (const OverlayImage& image : images_)
    if (own && ground(image.path) == own)
      return fail(Error::make(
          EEXIST,
          fmt::format("{}: shows the same file as {}, by way of a loop device, and that has "
                      "its changes in {}; expected the same name again",
                      path, image.path, store_path(image))));
  return {};
}

Result<const OverlayImage*> Overlay::add(const std::string& path) {
  VOLFS_TRY_ASSIGN(const std::string real, real_path(path));
  VOLFS_TRY(check_loops(real));
  OverlayImage image;
  image.path = real;
  image.chunk_size = default_chunk;
  const std::string base = real.substr(real.find_last_of('/') + 1);
  const auto taken = [&](const std::string& name) {
    return std::ranges::find(images_, name, &OverlayImage::store) != images_.end();
  };
  image.store = base + ".cow";
  for (int i = 2; taken(image.store); ++i) image.store = fmt::format("{}-{}.cow", base, i);
  const std::string store = store_path(image);
  const std::string fresh = fmt::format("{}/{}", directory_, new_store_name);
  ::unlink(fresh.c_str());  // of an addition that was interrupted
  {
    VOLFS_TRY_ASSIGN(const auto origin, FileImage::open("image", real, {.read_only = true}));
    image.size = origin->size();
    struct stat status{};
    if (::lstat(store.c_str(), &status) == 0 && !is_unused_store(store, image))
      return fail(Error::make(
          EEXIST, fmt::format("{}: is there, and {} does not know it; expected no file of that "
                              "name, which the store for {} is to have",
                              store, manifest_name, real)));
    VOLFS_TRY(describe_image(*origin, image));
    VOLFS_TRY(create_image(fresh, dm::full_store_size(image.size, image.chunk_size)));
    VOLFS_TRY_ASSIGN(const auto cow, FileImage::open("store", fresh, {}));
    dm::OriginRegistry registry;
    VOLFS_TRY_ASSIGN(const auto snapshot,
                     registry.open(*origin, *cow, {.chunk_size = image.chunk_size}));
  }
  if (::rename(fresh.c_str(), store.c_str()) != 0) return fail_sys(errno, store);
  images_.push_back(std::move(image));
  if (auto saved = save(); !saved) {
    images_.pop_back();
    ::unlink(store.c_str());
    return fail(std::move(saved.error()));
  }
  return &images_.back();
}

Status Overlay::pad(const OverlayImage& entry, uint64_t size) {
  if (size <= std::max(entry.pad, entry.size)) return {};
  const std::string store = store_path(entry);
  const uint64_t room = dm::full_store_size(size, entry.chunk_size);
  if (::truncate(store.c_str(), static_cast<off_t>(room)) != 0) return fail_sys(errno, store);
  for (OverlayImage& image : images_)
    if (image.path == entry.path) image.pad = size;
  return save();
}

Status Overlay::check(const OverlayImage& image) const {
  VOLFS_TRY_ASSIGN(const auto origin,
                   FileImage::open("image", image.path, {.read_only = true, .lock = false}));
  OverlayImage now = image;
  now.size = origin->size();
  VOLFS_TRY(describe_image(*origin, now));
  const auto changed = [&](const std::string& what) {
    return fail(stale_image(image.path, directory_, what));
  };
  if (now.size != image.size)
    return changed(fmt::format("its size was {} and is {}", image.size, now.size));
  if (now.fingerprint != image.fingerprint) return changed("its contents are others");
  if (now.mtime != image.mtime) return changed("it was written to");
  const std::string store = store_path(image);
  struct stat status{};
  if (::stat(store.c_str(), &status) != 0) return fail_sys(errno, store);
  return {};
}

Status Overlay::discard() {
  if (state_ == State::committing)
    return fail(Error::make(
        EBUSY, fmt::format("{}: a commit has begun, and the images have a part of it; it can only "
                           "be ended: `volfs overlay commit {}`",
                           directory_, directory_)));
  state_ = State::discarding;
  VOLFS_TRY(save());
  return remove_files();
}

Status Overlay::remove_files() {
  for (const OverlayImage& image : images_) {
    const std::string path = store_path(image);
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_sys(errno, path);
  }
  VOLFS_TRY(sync_directory_of(directory_ + "/"));
  VOLFS_TRY(remove_file(directory_ + "/" + manifest_name + ".new"));  // of a save that was cut off
  VOLFS_TRY(remove_file(directory_ + "/" + manifest_name));
  images_.clear();
  state_ = State::open;
  return {};
}

}  // namespace volfs::engine
