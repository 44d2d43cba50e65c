// SPDX-License-Identifier: GPL-2.0-or-later
// What an overlay would change in its images, and changing it.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "overlay_parts.h"
#include "snapshot_parts.h"
#include "volfs/backing/image.h"
#include "volfs/dm/snapshot.h"
#include "volfs/engine/overlay.h"
#include "volfs/units.h"

namespace volfs::engine {
namespace {

// What is looked at for the fingerprint: both ends, and blocks all over.
constexpr uint64_t end_sample = 1 * MiB;
constexpr uint64_t block_sample = 4 * KiB;
constexpr uint64_t block_count = 64;

// The finalizer of splitmix64 over each word and what came before.
class Digest {
 public:
  void add(std::span<const std::byte> bytes) {
    for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + at, sizeof word);
      a_ = mix(a_ ^ word);
      b_ = mix(b_ + a_ + 0x9e3779b97f4a7c15U);
    }
  }
  std::string text() const { return fmt::format("{:016x}{:016x}", a_, b_); }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
  }
  uint64_t a_ = 0x6a09e667f3bcc908U, b_ = 0xbb67ae8584caa73bU;
};

Status sample(FileImage& file, uint64_t offset, uint64_t length, Digest& digest) {
  const uint64_t end = std::min(offset + length, file.size());
  const uint64_t begin = round_down(std::min(offset, end), file.logical_block());
  std::vector<std::byte> bytes(round_down(end - begin, file.logical_block()));
  if (bytes.empty()) return {};
  VOLFS_TRY(file.read(begin, bytes));
  digest.add(bytes);
  return {};
}

struct Opened {
  std::unique_ptr<FileImage> image, store;
  std::shared_ptr<dm::Snapshot> snapshot;
};

Result<Opened> open_parts(dm::OriginRegistry& registry, const OverlayImage& image,
                          const std::string& store, bool write) {
  // What was written beyond the end of an image that was padded can be looked at.
  ImageOptions options{.read_only = !write, .lock = write, .pad = write ? 0 : image.pad};
  Opened opened;
  VOLFS_TRY_ASSIGN(opened.image, FileImage::open("image", image.path, options));
  options.pad = 0;
  VOLFS_TRY_ASSIGN(opened.store, FileImage::open("store", store, options));
  if (opened.image->size() != (write ? image.size : std::max(image.size, image.pad)))
    return fail(Error::make(
        ESTALE, fmt::format("{}: its size was {} and is {}; expected the image as it was when the "
                            "overlay was laid over it",
                            image.path, image.size, opened.image->size())));
  VOLFS_TRY_ASSIGN(opened.snapshot,
                   registry.open(*opened.image, *opened.store,
                                 {.chunk_size = image.chunk_size, .read_only = true}));
  if (dm::status_of(*opened.snapshot).state == dm::SnapshotStatus::State::invalid)
    return fail(Error::make(EUCLEAN, store + ": is marked invalid"));
  return opened;
}

}  // namespace

Status describe_image(FileImage& file, OverlayImage& image) {
  struct stat status{};
  if (::stat(image.path.c_str(), &status) != 0) return fail_sys(errno, image.path);
  image.mtime = S_ISBLK(status.st_mode)
                    ? 0
                    : status.st_mtim.tv_sec * int64_t{1000000000} + status.st_mtim.tv_nsec;
  Digest digest;
  const uint64_t size = file.size();
  VOLFS_TRY(sample(file, 0, end_sample, digest));
  if (size > end_sample) VOLFS_TRY(sample(file, size - end_sample, end_sample, digest));
  for (uint64_t i = 1; i < block_count; ++i)
    VOLFS_TRY(sample(file, round_down(size / block_count * i, block_sample), block_sample, digest));
  image.fingerprint = digest.text();
  return {};
}

Result<std::vector<Overlay::Change>> Overlay::changes() const {
  std::vector<Change> all;
  for (const OverlayImage& image : images_) {
    dm::OriginRegistry registry;
    VOLFS_TRY_ASSIGN(const Opened opened, open_parts(registry, image, store_path(image), false));
    Change change{.image = image.path};
    dm::for_each_difference(*opened.snapshot, [&](uint64_t offset, uint64_t length) {
      const uint64_t end = std::max(image.size, image.pad);
      change.ranges.push_back({offset, std::min(length, end - std::min(offset, end))});
    });
    std::ranges::sort(change.ranges, {}, &Range::offset);
    std::vector<Range> joined;
    for (const Range& range : change.ranges) {
      change.bytes += range.length;
      if (!joined.empty() && joined.back().offset + joined.back().length == range.offset)
        joined.back().length += range.length;
      else
        joined.push_back(range);
    }
    change.ranges = std::move(joined);
    all.push_back(std::move(change));
  }
  return all;
}

Status Overlay::check_commit(bool force, const std::vector<Change>& all) const {
  if (state_ == State::open && !force)
    for (const OverlayImage& image : images_) VOLFS_TRY(check(image));
  for (size_t i = 0; i < all.size(); ++i) {
    const std::vector<Range>& ranges = all[i].ranges;
    if (!ranges.empty() && ranges.back().offset + ranges.back().length > images_[i].size)
      return fail(Error::make(
          ENOSPC, fmt::format("{}: ends at {}, and the overlay has data beyond that, for the image "
                              "was padded: it cannot be committed; copy what you need from a mount",
                              images_[i].path, images_[i].size)));
  }
  return {};
}

Status Overlay::commit(bool force, const std::function<void(uint64_t done, uint64_t total)>& show) {
  VOLFS_TRY_ASSIGN(const std::vector<Change> all, changes());
  VOLFS_TRY(check_commit(force, all));
  uint64_t total = 0;
  for (const Change& change : all) total += change.bytes;
  // None must turn out to be in use, or not to be written to, when others have their part already.
  std::vector<std::unique_ptr<FileImage>> held;
  for (const OverlayImage& image : images_)
    if (!image.committed)
      for (const std::string& path : {image.path, store_path(image)}) {
        VOLFS_TRY_ASSIGN(auto file, FileImage::open("held", path, {}));
        held.push_back(std::move(file));
      }
  state_ = State::committing;
  VOLFS_TRY(save());
  uint64_t done = 0;
  for (size_t i = 0; i < images_.size(); ++i) {
    const uint64_t bytes = all[i].bytes;
    if (!images_[i].committed)
      VOLFS_TRY(in(images_[i].path, commit_image(images_[i], [&](uint64_t left) {
                     show(done + bytes - std::min(bytes, left), total);
                   })));
    done += bytes;
  }
  state_ = State::committed;
  VOLFS_TRY(save());
  return remove_files();
}

Status Overlay::commit_image(OverlayImage& image, const std::function<void(uint64_t left)>& show) {
  dm::OriginRegistry registry;
  VOLFS_TRY_ASSIGN(const Opened opened, open_parts(registry, image, store_path(image), true));
  dm::MappedDevice merge("commit");
  VOLFS_TRY(load_over(merge, "snapshot-merge", {opened.image.get(), opened.store.get()},
                      snapshot_words("P", image.chunk_size / sector_size),
                      {.size = opened.image->size(), .origins = registry}));
  uint32_t seen = merge.info().event_nr;
  VOLFS_TRY(merge.resume());
  while (true) {
    SnapshotState state;
    read_status(merge, state);
    if (!state.state.empty()) return fail(Error::make(EIO, state.state));
    if (state.used == state.metadata) break;
    show(state.used - state.metadata);
    seen = merge.wait_event(seen, now() + std::chrono::milliseconds(100));
  }
  VOLFS_TRY(merge.suspend());
  VOLFS_TRY(opened.image->flush());
  image.committed = true;
  return save();
}

}  // namespace volfs::engine
