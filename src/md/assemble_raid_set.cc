// SPDX-License-Identifier: GPL-2.0-or-later
// The rules are those of super_load, super_init_validation and super_validate in Linux's
// drivers/md/dm-raid.c: the superblock with most events says who has failed, and who is back is
// recovered. In two points there is more: a member that was written to while the others were away
// is not overwritten, and bits that are set in the bitmap of a whole set, which Linux ignores, tell
// that it was not stopped cleanly.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "array_core.h"
#include "volfs/log.h"
#include "volfs/md/agreement.h"
#include "volfs/md/raid_set.h"

namespace volfs::md {
namespace {

constexpr uint64_t most_regions = 1 << 21, default_region_size = 4 * MiB;

}  // namespace

class RaidSetAssembler {
 public:
  RaidSetAssembler(const RaidSet& set, const ArrayOptions& options) : set_(set), o_(options) {}

  Result<std::unique_ptr<Array>> run() {
    VOLFS_TRY(check_set());
    VOLFS_TRY(read_all());
    VOLFS_TRY(check_all());
    make_core();
    Array::Core& c = *core_;
    VOLFS_TRY(place());
    VOLFS_TRY_ASSIGN(c.personality, make_personality(c.shared));
    if (c.personality->size() < set_.size)
      return fail_invalid(fmt::format("the members hold {} bytes, and the set has {}",
                                      c.personality->size(), set_.size));
    VOLFS_TRY(find_resync_position());
    if (c.redundant) c.sync = std::make_unique<SyncEngine>(c);
    if (c.redundant && keeps_state_) VOLFS_TRY(prepare_bitmap());
    std::vector<BlockDevice*> devices;
    for (const auto& member : c.members) devices.push_back(member->device);
    const uint64_t size = c.personality->size();
    auto result = std::unique_ptr<Array>(
        new Array(o_, std::move(core_), size, array_limits(set_.geometry, devices)));
    VOLFS_TRY(result->start());
    return result;
  }

 private:
  struct Found {
    bool missing = false;  // no device, or no superblock can be read
    bool marked = false;   // it is shown as faulty, and used
    std::optional<MemberMetadata> superblock;
  };
  Status check_set();
  Status read_all();
  Status check_all() const;
  Status check(const MemberMetadata& sb, size_t slot) const;
  void make_core();
  bool failed(const Found& found) const;
  Status place();
  bool left_out(uint32_t slot) const;
  Status put_into(uint32_t slot);
  uint64_t recovered(uint32_t slot) const;
  Status find_resync_position();
  Status prepare_bitmap();
  Status make_bitmap();
  Status follow_bitmap();
  bool fresh_set() const { return fresh_ == nullptr; }

  const RaidSet& set_;
  const ArrayOptions& o_;
  uint64_t member_size_ = 0;
  bool keeps_state_ = true;
  bool grown_ = false;
  std::vector<Found> found_;
  const MemberMetadata* fresh_ = nullptr;
  std::unique_ptr<Array::Core> core_;
};

Status RaidSetAssembler::check_set() {
  VOLFS_TRY(check_geometry(set_.geometry));
  VOLFS_TRY_ASSIGN(member_size_, raid_set_member_size(set_));
  for (const RaidSetMember& member : set_.members)
    keeps_state_ = keeps_state_ && (member.metadata || !member.data);
  if (!keeps_state_ && set_.geometry.level != 0 && !o_.read_only)
    return fail(Error::make(ENOTSUP, "without metadata devices it can only be read"));
  return {};
}

Status RaidSetAssembler::read_all() {
  for (const RaidSetMember& member : set_.members) {
    Found& found = found_.emplace_back();
    found.missing = member.data == nullptr;
    if (found.missing || !member.metadata || set_.sync) continue;
    SuperblockBytes bytes;
    Status read = superblock_offset(SuperblockVersion::dm_raid, member.metadata->size())
                      ? member.metadata->read(0, bytes)
                      : fail_invalid("too small for a superblock");
    if (set_.geometry.level == 0) {
      // Linux writes no superblocks for raid0, but marks who has no place for one.
      found.marked = !read;
    } else if (!read) {
      if (!member.hole)
        log_warning("{}: {} counts as missing: {}", o_.name, member.data->name(),
                    std::move(read.error()).in(member.metadata->name()).text());
      found.missing = true;
    } else if (looks_like_superblock(SuperblockVersion::dm_raid, bytes) && !member.rebuild) {
      VOLFS_TRY_ASSIGN(found.superblock, in(member.metadata->name(),
                                            decode_superblock(SuperblockVersion::dm_raid, bytes,
                                                              member.metadata->size())));
    }
  }
  for (const Found& found : found_)
    if (found.superblock && (!fresh_ || found.superblock->array.events > fresh_->array.events))
      fresh_ = &*found.superblock;
  return {};
}

Status RaidSetAssembler::check_all() const {
  for (size_t i = 0; i < found_.size(); ++i) {
    const RaidSetMember& member = set_.members[i];
    if (found_[i].missing || !member.metadata || set_.geometry.level == 0) continue;
    if (fresh_set() && member.rebuild)
      return fail_invalid(
          fmt::format("device {} is to be rebuilt, and none bears a superblock", i));
    if (fresh_set() || member.rebuild) continue;
    if (!found_[i].superblock)
      return fail_invalid(
          fmt::format("{} bears no superblock, and others do: a new device needs the parameter "
                      "rebuild",
                      member.metadata->name()));
    VOLFS_TRY(in(member.metadata->name(), check(*found_[i].superblock, i)));
  }
  return {};
}

Status RaidSetAssembler::check(const MemberMetadata& sb, size_t slot) const {
  if (sb.array.reshape)
    return fail(Error::make(ENOTSUP, "a reshape was begun and has not ended: not supported"));
  const Geometry &g = sb.array.geometry, &h = set_.geometry;
  if (g.level != h.level || g.raid_disks != h.raid_disks || g.chunk != h.chunk ||
      (g.level != 1 && g.layout != h.layout))
    return fail_invalid(fmt::format(
        "the superblock says level {}, layout {}, {} devices and chunks of {} bytes, and the "
        "table level {}, layout {}, {} devices and {} bytes",
        g.level, g.layout, g.raid_disks, g.chunk, h.level, h.layout, h.raid_disks, h.chunk));
  if (sb.dev_number != slot && g.level != 1)
    return fail_invalid(
        fmt::format("it is device {} of the set, and stands in place {}", sb.dev_number, slot));
  return {};
}

// By the freshest superblock, or because it missed updates.
bool RaidSetAssembler::failed(const Found& found) const {
  const Standing found_to_be = standing(*found.superblock, *fresh_);
  return found_to_be.role >= max_role || found_to_be.stale;
}

void RaidSetAssembler::make_core() {
  ArrayMetadata array;
  array.version = SuperblockVersion::dm_raid;
  array.geometry = set_.geometry;
  if (set_.geometry.level == 0) array.geometry.layout = raid0_layout::original;
  array.member_size = member_size_;
  array.has_bitmap = keeps_state_ && set_.geometry.level != 0;
  array.events = fresh_set() || fresh_->array.events == 0 ? 1 : fresh_->array.events;
  for (uint32_t slot = 0; slot < found_.size(); ++slot) {
    const bool known = found_[slot].superblock.has_value();
    const bool lost = fresh_set() ? found_[slot].missing
                      : known     ? failed(found_[slot])
                                  : fresh_->array.roles[slot] == role_faulty;
    array.roles.push_back(lost ? role_faulty : static_cast<uint16_t>(slot));
  }
  core_ = std::make_unique<Array::Core>(o_, array);
  Array::Core& c = *core_;
  c.read_only = o_.read_only;
  c.redundant = array.geometry.level != 0;
  c.format = std::make_unique<DmRaidSuperblockFormat>();
  c.shared.member_size = member_size_;
  c.shared.led = set_.led;
  // Members that are new or back are told so.
  if (fresh_set()) c.note(true);
}

// It was failed by the others and failed them: each was used without the other.
bool RaidSetAssembler::left_out(uint32_t slot) const {
  const Found& found = found_[slot];
  if (!found.superblock || !standing(*found.superblock, *fresh_).apart) return false;
  log_warning("{}: {} is left out: it was written without the others, and they without it", o_.name,
              set_.members[slot].data->name());
  return true;
}

// How far the content of a member is right.
uint64_t RaidSetAssembler::recovered(uint32_t slot) const {
  const Found& found = found_[slot];
  if (set_.members[slot].rebuild) return 0;
  if (fresh_set() || !found.superblock) return all_in_sync;
  if (failed(found)) return 0;
  const uint64_t right = found.superblock->recovery_offset.value_or(all_in_sync);
  return right >= member_size_ ? all_in_sync : right;
}

Status RaidSetAssembler::put_into(uint32_t slot) {
  Array::Core& c = *core_;
  const RaidSetMember& from = set_.members[slot];
  const Found& found = found_[slot];
  auto member = std::make_unique<Array::Member>();
  member->device = from.data;
  member->metadata = from.metadata ? from.metadata : from.data;
  if (found.superblock) {
    member->sb = *found.superblock;
    member->written_events = member->sb.array.events;
  } else {
    member->sb.data_offset = set_.data_offset;
    member->sb.bitmap_offset = superblock_size;
    member->sb.metadata_size = member->metadata->size();
    member->sb.array.version = SuperblockVersion::dm_raid;
  }
  member->sb.dev_number = slot;
  member->sb.write_mostly = from.write_mostly;
  member->faulty = found.marked;
  member->sb.data_size = from.data->size() - std::min(from.data->size(), member->sb.data_offset);
  if (member->sb.data_size < member_size_)
    return fail_invalid(fmt::format("{} is too small: {} bytes, of which {} are needed",
                                    from.data->name(), from.data->size(),
                                    member->sb.data_offset + member_size_));
  // md lists who came last first.
  member->arrival = found_.size() - slot;
  const uint64_t right = recovered(slot);
  c.attach(*member, slot, right);
  if (right == 0 || (found.superblock && found.superblock->dev_number != slot)) c.note(true);
  c.members.push_back(std::move(member));
  return {};
}

Status RaidSetAssembler::place() {
  Array::Core& c = *core_;
  for (uint32_t slot = 0; slot < found_.size(); ++slot) {
    if (set_.geometry.level == 0) c.shared.sizes.push_back(member_size_);
    if (found_[slot].missing || left_out(slot)) continue;
    if (!o_.read_only)
      for (const BlockDevice* device : {set_.members[slot].data, set_.members[slot].metadata})
        if (device && device->read_only())
          return fail(Error::make(EROFS, fmt::format("{} is read-only", device->name())));
    VOLFS_TRY(put_into(slot));
  }
  c.arrivals = found_.size();
  const SlotSet missing = c.shared.missing();
  if (survives(set_.geometry, missing)) return {};
  return fail(Error::make(EIO, fmt::format("too few members: {} of {} are missing or not in sync",
                                           missing.count(), set_.geometry.raid_disks)));
}

// What a table made larger has never been synced.
Status RaidSetAssembler::find_resync_position() {
  Array::Core& c = *core_;
  const uint64_t end = c.personality->sync_size();
  uint64_t position = all_in_sync;
  if (c.redundant && !set_.nosync) position = fresh_set() ? 0 : fresh_->array.resync_offset;
  const uint64_t before = fresh_set() ? 0 : fresh_->array.member_size;
  if (before != 0 && before < member_size_ && c.redundant) {
    const uint64_t old_end = set_.geometry.level == 10 ? array_size(set_.geometry, before) : before;
    position = std::min(position, old_end);
    grown_ = true;
    c.note(true);
  }
  c.resync_position = position < end ? position : all_in_sync;
  c.shared.agreed.store(c.resync_position);
  const int32_t level = set_.geometry.level;
  if (level < 4 || level > 6 || c.resync_position == all_in_sync || !c.degraded_now()) return {};
  if (!o_.force)
    return fail(Error::make(EIO,
                            "parity is not in sync, and members are missing or not in sync: what "
                            "would be computed for them may be wrong"));
  log_warning("{}: forced: its parity is taken for right", o_.name);
  c.resync_position = all_in_sync;
  return {};
}

Status RaidSetAssembler::prepare_bitmap() {
  Array::Core& c = *core_;
  if (fresh_set() && !o_.read_only) VOLFS_TRY(make_bitmap());
  if (!fresh_set() || !o_.read_only) VOLFS_TRY(c.open_bitmap());
  return follow_bitmap();
}

Status RaidSetAssembler::make_bitmap() {
  Array::Core& c = *core_;
  BitmapSuperblock bitmap;
  bitmap.uuid = c.array.bitmap_uuid();
  bitmap.events = bitmap.events_cleared = c.array.events;
  bitmap.sync_size = c.personality->sync_size();
  bitmap.chunk = set_.region_size != 0 ? set_.region_size : default_region_size;
  while (set_.region_size == 0 && bitmap.sync_size / bitmap.chunk > most_regions) bitmap.chunk *= 2;
  const uint64_t size = round_up(BitmapGeometry(bitmap).disk_size(), sector_size);
  for (const auto& member : c.members) {
    if (size > member->sb.bitmap_room())
      return fail(Error::make(
          ENOSPC,
          fmt::format("{}: {} bytes have no room for a bitmap of {} with regions of {} "
                      "bytes",
                      member->metadata->name(), member->sb.metadata_size, size, bitmap.chunk)));
    VOLFS_TRY(write_new_bitmap(bitmap, c.resync_position != all_in_sync, size, member->sb,
                               *member->metadata));
  }
  return {};
}

Status RaidSetAssembler::follow_bitmap() {
  Array::Core& c = *core_;
  if (!c.bitmap) {
    // Nobody knows how it was stopped: of copies, always the same is read.
    c.shared.agreed.store(0);
    return {};
  }
  if (grown_) c.bitmap->need_everything();
  if (!c.degraded_now() && c.resync_position == all_in_sync && c.bitmap->usage().dirty_bits > 0) {
    c.resync_position = 0;
    c.shared.agreed.store(0);
    c.bitmap->need_all_set();
  }
  if (o_.read_only) return {};
  for (const auto& member : c.members) {
    const Found& found = found_[member->slot];
    if (fresh_set() || (found.superblock && !failed(found))) continue;
    member->by_bitmap = found.superblock && !found.superblock->recovery_offset &&
                        found.superblock->array.events >= c.bitmap->events_cleared();
    const auto image = c.bitmap->image();
    if (image.size() > member->sb.bitmap_room())
      return fail(Error::make(ENOSPC, fmt::format("{}: no room for a bitmap of {} bytes",
                                                  member->metadata->name(), image.size())));
    // The others' bits, before its superblock counts.
    VOLFS_TRY(member->metadata->write(member->sb.bitmap_position(), image, Fua::yes));
  }
  return {};
}

Result<uint64_t> raid_set_member_size(const RaidSet& set) {
  const Geometry& g = set.geometry;
  uint64_t parts = g.raid_disks, copies = 1;
  if (g.level == 1) parts = 1;
  if (g.level == 4 || g.level == 5) parts = g.raid_disks - 1;
  if (g.level == 6) parts = g.raid_disks - 2;
  if (g.level == 10) copies = (g.layout & 255) * std::max<uint64_t>(g.layout >> 8 & 255, 1);
  const auto total = checked_mul(set.size / sector_size, copies);
  if (!total || parts == 0 || *total % parts != 0)
    return fail_invalid(
        fmt::format("{} sectors cannot be divided by {} devices", set.size / sector_size, parts));
  return *total / parts * sector_size;
}

Result<std::unique_ptr<Array>> assemble_raid_set(const RaidSet& set, const ArrayOptions& options) {
  return RaidSetAssembler(set, options).run();
}

}  // namespace volfs::md
