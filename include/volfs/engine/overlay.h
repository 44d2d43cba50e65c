// SPDX-License-Identifier: GPL-2.0-or-later
// An overlay: a directory that takes all that a mount would write to its images. For each image it
// has a file, a persistent snapshot store as Linux's dm-snapshot has it (so dmsetup can use it),
// and a manifest, overlay.json, that says which image each belongs to and what that looked like:
//
//   {"volfs_overlay": 1, "state": "open",
//    "images": [{"path": ..., "size": ..., "mtime": ..., "fingerprint": ..., "store":
//    "disk0.img.cow",
//                "chunk_size": 16384, "committed": false, "pad": 0}]}
//
// States: open; committing (the merge into the images has begun and can only go on); committed and
// discarding (nothing of it is needed any more: the files are being removed). The manifest is
// replaced as a whole. A store is as large, and sparse, as it can ever need to be.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "volfs/error.h"
#include "volfs/unique_fd.h"

namespace volfs::engine {

struct OverlayImage {
  std::string path;  // absolute, without symbolic links
  uint64_t size = 0;
  int64_t mtime = 0;        // nanoseconds; 0 for a block device
  std::string fingerprint;  // of a sample of its bytes
  std::string store;        // file name in the directory
  uint64_t chunk_size = 0;
  uint64_t pad = 0;        // the largest size that it was taken for; 0: always its own
  bool committed = false;  // its part of a commit is done
};

class Overlay {
 public:
  enum class State : uint8_t { open, committing, committed, discarding };
  struct Range {
    uint64_t offset = 0, length = 0;
  };
  struct Change {
    std::string image;
    uint64_t bytes = 0;         // that differ from the image, in whole chunks
    std::vector<Range> ranges;  // of the image, rising
  };

  // CREATE makes the directory and the manifest where there are none; otherwise ENOENT. With LOCK
  // it is nobody else's as long as this lives, EBUSY; without, nothing may be changed. EUCLEAN: the
  // manifest cannot be understood. One that was being removed is removed to the end first, and then
  // is not there. Where one was that is gone now, whoever locks the directory gets one without
  // images, so that to commit or discard it once more does nothing.
  static Result<std::unique_ptr<Overlay>> open(const std::string& directory, bool create,
                                               bool lock);
  ~Overlay();
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  const std::string& directory() const;  // absolute
  State state() const { return state_; }
  const std::vector<OverlayImage>& images() const { return images_; }
  std::string store_path(const OverlayImage& image) const;

  // The entry of the image at PATH, whatever name the file had when it was made; null if there is
  // none. EBUSY: a commit has begun. ESTALE: the image changed since it was laid over; told with
  // what changed. FORCE lets that pass.
  // One that was moved since is known by its contents and time, and found there from now on.
  Result<const OverlayImage*> find(const std::string& path, bool force);
  // Makes an entry and an empty store. EEXIST: the directory has a file in the store's place, or a
  // store for what a loop device shows under another name.
  Result<const OverlayImage*> add(const std::string& path);
  // From here on the image is taken to be SIZE large, and its store has room for that. ENTRY is of
  // find() or add().
  Status pad(const OverlayImage& entry, uint64_t size);

  // What a commit would write.
  Result<std::vector<Change>> changes() const;
  // What would keep it, of changes(), from being written into the images: ESTALE as find(); ENOSPC:
  // it lies beyond the end of an image that was padded. Looks only.
  Status check_commit(bool force, const std::vector<Change>& all) const;
  // Writes it into the images, each bit of it once more if it was interrupted before, and removes
  // the overlay. SHOW is told how much is done, of how much. Errors as check_commit. If an image
  // cannot be opened for writing (EBUSY: it is in use) nothing was begun.
  Status commit(bool force, const std::function<void(uint64_t done, uint64_t total)>& show);
  // Removes the overlay. EBUSY: a commit has begun.
  Status discard();

 private:
  explicit Overlay(std::string directory) : directory_(std::move(directory)) {}
  std::string lock_path() const { return directory_ + "/lock"; }
  Status lock();
  Result<bool> load();
  Status save() const;
  Status check(const OverlayImage& image) const;
  Result<std::vector<OverlayImage>::iterator> find_moved(const std::string& real, bool force);
  Status check_loops(const std::string& path) const;
  Status commit_image(OverlayImage& image, const std::function<void(uint64_t left)>& show);
  Status remove_files();

  const std::string directory_;
  UniqueFd lock_;
  State state_ = State::open;
  std::vector<OverlayImage> images_;
};

}  // namespace volfs::engine
