// SPDX-License-Identifier: GPL-2.0-or-later
// Whose turn it is to change a volume group.
#pragma once

#include <mutex>

#include "volfs/engine/volume_group.h"

namespace volfs::engine {

// One that takes long; a Mutex is for short waits.
class VolumeGroup::Turn {
 public:
  explicit Turn(VolumeGroup& group) : group_(group) {
    const std::lock_guard lock(group_.mutex_);
    group_.turn_over_.wait(group_.mutex_, [this] { return !group_.turn_taken_; });
    group_.turn_taken_ = true;
  }
  ~Turn() {
    const std::lock_guard lock(group_.mutex_);
    group_.turn_taken_ = false;
    group_.turn_over_.notify_one();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  VolumeGroup& group_;
};

}  // namespace volfs::engine
