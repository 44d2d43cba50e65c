// SPDX-License-Identifier: GPL-2.0-or-later
// The bad-block logs of the members: what cannot be written is recorded there instead of failing
// its member, and is good again when it was written.
#include <algorithm>
#include <utility>

#include "array_core.h"
#include "volfs/log.h"

namespace volfs::md {

Status Array::Core::read_bad_blocks(Member& member) {
  const MemberMetadata& sb = member.sb;
  member.bad.clear();
  if (!sb.bad_blocks) return {};
  std::vector<std::byte> bytes(sb.bad_block_log_size);
  VOLFS_TRY(member.metadata->read(sb.bad_block_log_position(), bytes));
  VOLFS_TRY_ASSIGN(auto ranges, in(member.device->name(), decode_bad_blocks(sb, bytes)));
  for (BadBlockRange range : ranges) {
    const uint64_t end = range.offset + range.length;
    if (end <= sb.data_offset) continue;
    range.offset = std::max(range.offset, sb.data_offset) - sb.data_offset;
    range.length = end - sb.data_offset - range.offset;
    member.bad.push_back(range);
  }
  return {};
}

std::vector<BadBlockRange> Array::Core::bad_ranges(const Member& member) const {
  auto ranges = member.slot == no_slot ? member.bad : shared.slots[member.slot].bad.list();
  for (BadBlockRange& range : ranges) range.offset += member.sb.data_offset;
  return ranges;
}

// The log of units of more than a sector is left as it is, and its member fails instead.
bool Array::Core::has_log(uint32_t slot) {
  const std::lock_guard lock(mutex);
  const Member* member = member_of(slot);
  return member && !member->faulty && member->sb.bad_block_log_size != 0 &&
         member->sb.bad_block_shift == 0;
}

// False if the log has no room for it.
bool Array::Core::log_bad(Member& member, uint64_t offset, uint64_t length) {
  if (!shared.slots[member.slot].bad.add(offset, length)) return true;
  MemberMetadata sb = member.sb;
  sb.bad_blocks = true;
  if (!encode_bad_blocks(sb, bad_ranges(member))) return false;
  log_warning("{}: {}: {} bytes at {} of its data are bad", options.name, member.device->name(),
              length, offset);
  member.log_changed = true;
  unrecorded.store(true);
  note(true);
  return true;
}

bool Array::Core::write_failed(uint32_t slot, uint64_t offset, uint64_t length, const Error& why) {
  if (!has_log(slot)) return fail_member(slot, why);
  std::unique_lock lock(mutex);
  if (failed.load()) return false;
  Member* member = member_of(slot);
  if (!member || member->faulty) return true;
  // As in md, a spare is to take over from who cannot write everything any more.
  if (!shared.is_replacement(slot) && !std::exchange(member->to_replace, true) && sync)
    sync->wake();
  if (log_bad(*member, offset, length)) {
    (void)commit(lock);  // where there is no room for that the write will not count
    return !failed.load();
  }
  lock.unlock();
  return fail_member(slot, why);
}

bool Array::Core::record_bad(uint32_t slot, uint64_t offset, uint64_t length) {
  if (!has_log(slot)) return false;
  std::unique_lock lock(mutex);
  Member* member = member_of(slot);
  if (!member || member->faulty || !log_bad(*member, offset, length)) return false;
  (void)commit(lock);  // at the latest when recovery records how far it has come
  return !failed.load();
}

// The log follows some time after: until then a restart takes for bad what is good, which only
// costs a reconstruction.
void Array::Core::made_good(uint32_t slot, uint64_t offset, uint64_t length) {
  if (!shared.slots[slot].bad.any() || !has_log(slot)) return;
  const std::lock_guard lock(mutex);
  Member* member = member_of(slot);
  if (!member || !shared.slots[slot].bad.remove(offset, length)) return;
  member->log_changed = true;
  note(true);
  changed.notify_all();
}

// The bad-block log of a member where it has changed. What was bad and was written must be on disk
// before the log says that it is good. Called without the lock.
Status Array::Core::write_log(const LogImage& log) {
  VOLFS_TRY(log.member->device->flush());
  return log.member->metadata->write(log.member->sb.bad_block_log_position(), log.bytes, Fua::yes);
}

}  // namespace volfs::md
