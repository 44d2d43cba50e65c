// SPDX-License-Identifier: GPL-2.0-or-later
// Snapshots of logical volumes that are merged into their origin, as lvconvert --merge and
// lvmpolld: what is under way is in the metadata, so that any host, and any mount, goes on with it.
#include <fmt/format.h>

#include <cerrno>
#include <mutex>

#include "snapshot_parts.h"
#include "turn.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/engine/engine.h"
#include "volfs/engine/snapshots.h"
#include "volfs/engine/volume_group.h"
#include "volfs/log.h"

namespace volfs::engine {
namespace {

constexpr Nanos between_looks = std::chrono::milliseconds(100);

}  // namespace

VolumeGroup::~VolumeGroup() {
  close();
}

void VolumeGroup::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    closing_begun_.notify_all();
  }
  merger_.join();
}

Status VolumeGroup::merge(std::string_view volume) {
  const Turn turn(*this);
  const auto lv = model_.find_lv(volume);
  const auto link = lv ? model_.link_of_cow(*lv) : std::nullopt;
  if (!lv)
    return fail(
        Error::make(ENOENT, fmt::format("{}/{}: there is no such volume", setup_.name, volume)));
  if (!link)
    return fail(Error::make(ENOTTY, fmt::format("{}/{}: is no snapshot", setup_.name, volume)));
  const std::string origin = model_.lvs[*model_.lvs[*link].segments[0].origin].name;
  // A merge changes all that is read from the origin under whoever read it before.
  for (const std::string& each : {std::string(volume), origin})
    if (const std::string users = in_use_by(each); !users.empty())
      return fail(Error::make(EBUSY, fmt::format("{}/{}: in use by {}", setup_.name, each, users)));
  return edit_volume(
      volume, fmt::format("volfs lv merge {}/{}", setup_.name, volume),
      [](lvm::VolumeGroup& next, uint32_t snapshot) { return lvm::start_merge(next, snapshot); });
}

// The turn is taken.
VolumeGroup::MergeState VolumeGroup::look_at_merges() const {
  MergeState worst;
  for (const lvm::LogicalVolume& link : model_.lvs) {
    if (!link.is_snapshot_link() || !link.problem.empty() || !link.segments[0].merging) continue;
    const uint32_t snapshot = *link.segments[0].cow;
    const auto device = devices_.find(fmt::format("LVM-{}{}", model_.id.plain(),
                                                  model_.lvs[*link.segments[0].origin].id.plain()));
    if (device == devices_.end()) continue;  // it begins when the origin is activated
    const auto& map = dynamic_cast<const dm::MappedDevice&>(*device->second.node->device);
    SnapshotState state;
    read_status(map, state);
    // An overflowed snapshot is merged all the same, and says how far only when nothing is left.
    const bool failed = !state.state.empty() && state.state != "overflow";
    if (!failed && state.total != 0 && state.used == state.metadata) return {Merge::done, snapshot};
    if (!failed)
      worst = {Merge::under_way, snapshot};
    else if (worst.state == Merge::none)
      worst = {Merge::failed, snapshot};
  }
  return worst;
}

// The turn is taken, so no thread that follows is about to end.
Status VolumeGroup::watch_merges() {
  if (following_ || setup_.read_only || !setup_.unchangeable.empty()) return {};
  if (look_at_merges().state == Merge::none) return {};
  merger_.join();
  VOLFS_TRY_ASSIGN(merger_, Thread::start("merge-watch", [this] { follow_merges(); }));
  following_ = true;
  return {};
}

void VolumeGroup::follow_merges() {
  while (true) {
    {
      const Turn turn(*this);
      const MergeState found = look_at_merges();
      const std::string name = found.state == Merge::none ? "" : model_.lvs[found.snapshot].name;
      bool over = found.state == Merge::none || found.state == Merge::failed;
      if (found.state == Merge::failed)
        log_error("{}/{}: the merge into its origin failed", setup_.name, name);
      if (found.state == Merge::done) {
        auto finished = edit_volume(name, fmt::format("volfs lv merge {}/{}", setup_.name, name),
                                    [](lvm::VolumeGroup& next, uint32_t snapshot) {
                                      return lvm::finish_merge(next, snapshot);
                                    });
        over = !finished;
        if (over) log_error("{}/{}: {}", setup_.name, name, finished.error().text());
      }
      if (over) {
        following_ = false;
        return;
      }
    }
    const std::lock_guard lock(mutex_);
    if (closing_begun_.wait_until(mutex_, now() + between_looks, [this] { return closing_; }))
      return;
  }
}

}  // namespace volfs::engine
