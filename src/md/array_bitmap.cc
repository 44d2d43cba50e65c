// SPDX-License-Identifier: GPL-2.0-or-later
// The write-intent bitmap on the members: read at assembly, and written to all of them.
#include <algorithm>
#include <cerrno>

#include "array_core.h"
#include "volfs/io_batch.h"

namespace volfs::md {

WriteIntent::Outcome Array::Core::write_bitmap(uint64_t offset, std::span<const std::byte> bytes) {
  IoBatch batch;
  std::vector<uint32_t> slots;
  const OneSlice slice(bytes);
  {
    const std::lock_guard lock(mutex);
    if (failed.load()) return {};
    for (const auto& member : members) {
      if (member->faulty || member->slot == no_slot) continue;
      batch.write(*member->metadata, member->sb.bitmap_position() + offset, slice, Fua::yes);
      slots.push_back(member->slot);
    }
  }
  WriteIntent::Outcome outcome;
  if (batch.run()) return outcome;
  for (size_t op = 0; op < batch.size(); ++op) {
    if (no_room(batch.error(op)))
      outcome.no_room = batch.error(op);
    else if (batch.error(op) != 0)
      outcome.failed.push_back(slots[op]);
  }
  return outcome;
}

Result<Array::Core::OwnBitmap> Array::Core::read_bitmap(const Member& member) const {
  OwnBitmap own;
  std::vector<std::byte>& bytes = own.image;
  bytes.resize(bitmap_superblock_size * 2);
  const uint64_t position = member.sb.bitmap_position();
  VOLFS_TRY(member.metadata->read(position, bytes));
  VOLFS_TRY_ASSIGN(own.super, in(member.device->name(), decode_bitmap_superblock(bytes)));
  own.super.sync_size = personality->sync_size();  // as md, whatever it says
  const BitmapGeometry geometry(own.super);
  if (geometry.disk_size() > member.sb.bitmap_room() || own.super.uuid != array.bitmap_uuid())
    return fail_invalid(member.device->name() + ": the bitmap does not belong to the array");
  bytes.resize(round_up(geometry.disk_size(), sector_size));
  VOLFS_TRY(member.metadata->read(position, bytes));
  return own;
}

// Reads the bitmap of all members in sync; a bit that is set on one of them counts.
Status Array::Core::open_bitmap() {
  if (!array.has_bitmap || !redundant) return {};
  std::optional<BitmapSuperblock> super;
  std::vector<std::byte> image;
  uint64_t room = UINT64_MAX;
  bool trusted = true;
  Error last = Error::make(EIO, "no member in sync");
  for (const auto& m : members) {
    room = std::min(room, m->sb.bitmap_room());
    if (m->slot == no_slot || m->faulty || !shared.slots[m->slot].in_sync()) continue;
    auto own = read_bitmap(*m);
    if (!own) {
      last = std::move(own.error());
      continue;
    }
    const BitmapSuperblock& found = own->super;
    trusted = trusted && !found.stale && found.events >= array.events;
    if (!super) {
      super = found;
      image = std::move(own->image);
    } else if (own->image.size() == image.size() && found.chunk == super->chunk) {
      for (size_t i = bitmap_superblock_size; i < image.size(); ++i) image[i] |= own->image[i];
    }
  }
  if (!super) {
    if (read_only) return {};
    return volfs::fail(std::move(last).in("bitmap"));
  }
  super->stale = false;
  auto fail_slots = [this](const std::vector<uint32_t>& slots) {
    bool survived = true;
    for (const uint32_t slot : slots)
      survived = fail_member(slot, Error::make(EIO, "bitmap write")) && survived;
    return survived;
  };
  bitmap = std::make_unique<WriteIntent>(
      *super, room, std::move(image),
      [this](uint64_t offset, std::span<const std::byte> bytes) {
        return write_bitmap(offset, bytes);
      },
      fail_slots);
  const bool dirty = resync_position != all_in_sync;
  const bool keep = degraded_now() && super->events_cleared != array.events;
  if ((dirty || keep) && !trusted)
    bitmap->need_everything();
  else if (dirty || keep)
    bitmap->need_all_set();
  return {};
}

}  // namespace volfs::md
