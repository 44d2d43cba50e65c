// SPDX-License-Identifier: GPL-2.0-or-later
// raid1 and raid10: the same bytes at several places. A write goes to all of them in one batch,
// under the lock of its range, so that two writes at once leave the copies equal. A read takes one
// copy; when that fails, another, whose bytes are then written over what could not be read.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "slot_io.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint64_t balance_unit = 1 * MiB;  // consecutive bytes that are read from one mirror
constexpr uint64_t sync_unit = 64 * KiB;    // what a resync compares at a time, as md's

// The places of one raid1 offset: the same on every member.
struct Raid1Layout {
  uint64_t size_;
  uint32_t disks_;
  uint64_t size() const { return size_; }
  uint32_t copies() const { return disks_; }
  uint64_t used_member_size() const { return size_; }
  void map(uint64_t offset, Place* out) const {
    for (uint32_t i = 0; i < disks_; ++i) out[i] = {i, offset, size_ - offset};
  }
  std::optional<uint64_t> inverse(uint32_t, uint64_t offset) const { return offset; }
  uint64_t unit() const { return sync_unit; }
  // Which copy a read takes first.
  uint32_t turn(uint64_t offset) const {
    return static_cast<uint32_t>(offset / balance_unit % disks_);
  }
};

struct Raid10Places {
  Raid10Layout layout;
  uint64_t size() const { return layout.size(); }
  uint32_t copies() const { return layout.copies(); }
  uint64_t used_member_size() const { return layout.used_member_size(); }
  void map(uint64_t offset, Place* out) const { layout.map(offset, out); }
  std::optional<uint64_t> inverse(uint32_t slot, uint64_t offset) const {
    auto found = layout.array_offset(slot, offset);
    if (!found) return std::nullopt;
    return found->array_offset;
  }
  uint64_t unit() const { return std::min(sync_unit, layout.chunk()); }
  // The far copies are there for safety, the near ones to share the reading.
  uint32_t turn(uint64_t offset) const {
    return static_cast<uint32_t>(offset / balance_unit % layout.near_copies()) *
           layout.far_copies();
  }
};

using Places = InlineVector<Place, 8>;

template <class Layout>
class Mirror final : public Personality {
 public:
  Mirror(Members& members, Layout layout) : Personality(members), layout_(std::move(layout)) {}
  uint64_t size() const override { return layout_.size(); }
  bool mappable(uint64_t offset, uint64_t length) const override;
  void map(uint64_t offset, uint64_t length, Mapping& out) const override;
  Status read(uint64_t offset, IoSpan iov) override;
  Status write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Span sync_span(uint64_t offset, uint64_t length) const override {
    return {offset, offset + length};
  }
  uint64_t sync_size() const override { return layout_.size(); }
  Result<SyncStep> sync(SyncKind kind, uint64_t position, uint64_t length) override;

 private:
  // Bytes from OFFSET on that lie together in every copy, and where.
  uint64_t places(uint64_t offset, uint64_t length, Places& out) const;
  // Index of the copy to read, or that many as there are copies.
  uint32_t choose(const Places& places, uint64_t offset, uint64_t length, uint64_t tried) const;
  Status read_carefully(uint64_t offset, IoSpan iov, uint64_t at, uint64_t length);
  Status correct(uint64_t offset, uint64_t length, uint64_t failed, std::byte* memory);
  Result<uint64_t> compare(SyncKind kind, uint64_t offset, uint64_t& length);
  Status recover_piece(uint32_t slot, uint64_t offset, uint64_t length);
  Status recover_or_record(uint32_t slot, uint64_t offset, uint64_t length);
  Status recover(uint64_t position, uint64_t length);

  const Layout layout_;
};

template <class Layout>
uint64_t Mirror<Layout>::places(uint64_t offset, uint64_t length, Places& out) const {
  out.resize(layout_.copies());
  layout_.map(offset, out.data());
  length = std::min({length, out[0].length, balance_unit - offset % balance_unit});
  for (const Place& place : out) {
    const BadRanges& bad = m_.slots[place.slot].bad;
    if (bad.any()) length = bad.same_until(place.offset, place.offset + length) - place.offset;
  }
  return length;
}

// TRIED: bits of copies that failed already (those beyond 64 are then not used any more).
template <class Layout>
uint32_t Mirror<Layout>::choose(const Places& places, uint64_t offset, uint64_t length,
                                uint64_t tried) const {
  const auto count = static_cast<uint32_t>(places.size());
  // Where a resync has not been, copies may differ: all must read the same one.
  const bool agreed = offset + length <= m_.agreed.load(std::memory_order_acquire);
  const uint32_t first = agreed ? layout_.turn(offset) : 0;
  const bool only_first = !agreed && m_.led && m_.host->may_differ(offset, offset + length);
  uint32_t last_resort = count;
  for (uint32_t i = 0; i < (only_first ? 1 : count); ++i) {
    const uint32_t copy = (first + i) % count;
    if (tried != 0 && (copy >= 64 || (tried >> copy & 1) != 0)) continue;
    const Slot& slot = m_.slots[places[copy].slot];
    if (!slot.readable(places[copy].offset, length)) continue;
    if (!slot.write_mostly) return copy;
    if (last_resort == count) last_resort = copy;
  }
  return last_resort;
}

template <class Layout>
bool Mirror<Layout>::mappable(uint64_t offset, uint64_t length) const {
  Places found;
  while (length > 0) {
    const uint64_t piece = places(offset, length, found);
    if (choose(found, offset, piece, 0) == found.size()) return false;
    offset += piece;
    length -= piece;
  }
  return true;
}

template <class Layout>
void Mirror<Layout>::map(uint64_t offset, uint64_t length, Mapping& out) const {
  Places found;
  while (length > 0) {
    const uint64_t piece = places(offset, length, found);
    const uint32_t copy = choose(found, offset, piece, 0);
    if (copy < found.size()) {
      const Slot& slot = m_.slots[found[copy].slot];
      out.add(*slot.device, slot.data_offset + found[copy].offset, piece);
    } else {
      out.add_error(EIO, piece);  // a member failed just now; the read is tried again with care
    }
    offset += piece;
    length -= piece;
  }
}

template <class Layout>
Status Mirror<Layout>::read(uint64_t offset, IoSpan iov) {
  const uint64_t length = total_length(iov);
  Places found;
  SlotIo io(m_);
  bool all = true;
  for (uint64_t done = 0; done < length && all;) {
    const uint64_t piece = places(offset + done, length - done, found);
    const uint32_t copy = choose(found, offset + done, piece, 0);
    all = copy < found.size();
    uint64_t at = all ? found[copy].offset : 0;
    if (all)
      for_each_slice(iov, done, piece, [&](iovec slice) {
        io.add(found[copy].slot, at, slice.iov_base, slice.iov_len);
        at += slice.iov_len;
      });
    done += piece;
  }
  if (all && io.read()) return {};
  for (uint64_t done = 0; done < length;) {
    const uint64_t piece =
        std::min(length - done, correction_unit - (offset + done) % correction_unit);
    VOLFS_TRY(read_carefully(offset, iov, done, piece));
    done += piece;
  }
  return {};
}

// Reads LENGTH bytes at OFFSET+AT, trying every copy, and corrects those that failed.
template <class Layout>
Status Mirror<Layout>::read_carefully(uint64_t offset, IoSpan iov, uint64_t at, uint64_t length) {
  Places found;
  Scratch scratch;
  std::byte* memory = scratch.take(length);
  uint64_t failed = 0;
  for (uint64_t done = 0; done < length;) {
    const uint64_t position = offset + at + done;
    const uint64_t piece = places(position, length - done, found);
    const uint32_t copy = choose(found, position, piece, failed);
    if (copy == found.size()) return fail_sys(EIO, "");
    Slot& slot = m_.slots[found[copy].slot];
    if (slot.device->read(slot.data_offset + found[copy].offset, {memory + done, piece})) {
      if (failed != 0) VOLFS_TRY(correct(position, piece, failed, memory + done));
      done += piece;
      failed = 0;
    } else {
      if (copy >= 64) return fail_sys(EIO, "");
      failed |= uint64_t{1} << copy;
    }
  }
  copy_to_slices(iov, at, {memory, length});
  return {};
}

// Writes what another copy holds over what could not be read. FAILED: bits of copies.
template <class Layout>
Status Mirror<Layout>::correct(uint64_t offset, uint64_t length, uint64_t failed,
                               std::byte* memory) {
  if (!m_.host->corrects()) return {};
  RangeLock::Guard guard(m_.lock, offset, offset + length);
  Places found;
  places(offset, length, found);
  // It may have been written since it was read.
  const uint32_t good = choose(found, offset, length, failed);
  if (good == found.size()) return fail_sys(EIO, "");
  Slot& source = m_.slots[found[good].slot];
  VOLFS_TRY(source.device->read(source.data_offset + found[good].offset, {memory, length}));
  Scratch scratch;
  std::byte* again = scratch.take(length);
  for (uint32_t copy = 0; copy < found.size() && copy < 64; ++copy) {
    if ((failed >> copy & 1) == 0) continue;
    Slot& slot = m_.slots[found[copy].slot];
    if (!slot.present()) continue;
    const uint64_t at = slot.data_offset + found[copy].offset;
    Status status = slot.device->write(at, std::span<const std::byte>(memory, length));
    if (status) status = slot.device->read(at, {again, length});
    if (status)
      m_.host->corrected_read(found[copy].slot, length);
    else if (!no_room(status.error().code()))
      m_.host->write_failed(found[copy].slot, found[copy].offset, length, status.error());
  }
  return {};
}

template <class Layout>
Status Mirror<Layout>::write(uint64_t offset, IoSpan iov, Fua fua) {
  const uint64_t length = total_length(iov);
  RangeLock::Guard guard(m_.lock, offset, offset + length);
  Places found;
  SlotIo io(m_);
  for (uint64_t done = 0; done < length;) {
    const uint64_t piece = places(offset + done, length - done, found);
    for (const Place& place : found)
      for (const uint32_t target : {place.slot, m_.replacement_of(place.slot)}) {
        if (!m_.slots[target].present()) continue;
        uint64_t at = place.offset;
        for_each_slice(iov, done, piece, [&](iovec slice) {
          io.add(target, at, slice.iov_base, slice.iov_len);
          at += slice.iov_len;
        });
      }
    done += piece;
  }
  if (io.write(fua)) return {};
  VOLFS_TRY(ended(offset, offset + length, io.settle_failures()));
  // Bad blocks may have come together: each byte must be somewhere.
  for (uint64_t done = 0; done < length;) {
    const uint64_t piece = places(offset + done, length - done, found);
    if (choose(found, offset + done, piece, 0) == found.size()) return fail_sys(EIO, "");
    done += piece;
  }
  return {};
}

template <class Layout>
Status Mirror<Layout>::write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  RangeLock::Guard guard(m_.lock, offset, offset + length);
  Places found;
  while (length > 0) {
    const uint64_t piece = places(offset, length, found);
    for (const Place& place : found)
      for (const uint32_t target : {place.slot, m_.replacement_of(place.slot)})
        VOLFS_TRY(ended(offset, offset + piece, zero_member(target, place.offset, piece, unmap)));
    offset += piece;
    length -= piece;
  }
  return {};
}

// Reads every copy of a piece, or of its begin, which LENGTH then is cut to; the first readable one
// is taken for right.
template <class Layout>
Result<uint64_t> Mirror<Layout>::compare(SyncKind kind, uint64_t offset, uint64_t& length) {
  RangeLock::Guard guard(m_.lock, offset, offset + length);
  if (kind == SyncKind::resync && !m_.host->sync_needed(offset, offset + length, false)) return 0;
  Places found;
  length = places(offset, length, found);
  Scratch scratch;
  SlotIo io(m_);
  InlineVector<std::byte*, 8> content;
  content.resize(found.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (!m_.slots[found[i].slot].readable(found[i].offset, length)) continue;
    content[i] = scratch.take(length);
    io.add(found[i].slot, found[i].offset, content[i], length);
  }
  SlotSet unread;
  if (!io.read())
    for (const auto& failure : io.failures()) unread[failure.slot] = true;
  // What readers have been given, if it can be read, else any.
  size_t first = choose(found, offset, length, 0);
  if (m_.led && unread[found[0].slot] && m_.host->may_differ(offset, offset + length))
    return fail_sys(EIO, "the first copy cannot be read");
  if (first == found.size() || unread[found[first].slot]) first = 0;
  while (first < found.size() && (!content[first] || unread[found[first].slot])) ++first;
  if (first == found.size()) return fail_sys(EIO, "no copy can be read");
  io.clear();
  uint64_t mismatches = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (!content[i] || i == first) continue;
    const bool lost = unread[found[i].slot];
    if (!lost && std::memcmp(content[i], content[first], length) == 0) continue;
    if (!lost) mismatches += length;
    if (lost || kind != SyncKind::check)
      io.add(found[i].slot, found[i].offset, content[first], length);
  }
  if (!io.empty() && !io.write(Fua::no)) VOLFS_TRY(io.settle_failures());
  for (const Place& place : found)
    if (unread[place.slot]) m_.host->corrected_read(place.slot, length);
  return mismatches;
}

template <class Layout>
Status Mirror<Layout>::recover_piece(uint32_t target, uint64_t offset, uint64_t length) {
  const auto inverse = layout_.inverse(target % m_.disks(), offset);
  if (!inverse) return {};  // holds nothing
  RangeLock::Guard guard(m_.lock, *inverse, *inverse + length);
  const bool copied = offset + length <= m_.slots[target].copied.load();
  if (!m_.host->sync_needed(*inverse, *inverse + length, copied)) return {};
  Places found;
  places(*inverse, length, found);
  Scratch scratch;
  std::byte* memory = scratch.take(length);
  uint64_t tried = 0;
  for (;;) {
    const uint32_t copy = choose(found, *inverse, length, tried);
    if (copy == found.size() || copy >= 64) return fail_sys(EIO, "no copy can be read");
    Slot& source = m_.slots[found[copy].slot];
    if (source.device->read(source.data_offset + found[copy].offset, {memory, length})) break;
    tried |= uint64_t{1} << copy;
  }
  SlotIo io(m_);
  io.add(target, offset, memory, length);
  return io.write(Fua::no) ? Status() : io.settle_failures();
}

// What no copy holds any more is recorded as bad on the member that should get it.
template <class Layout>
Status Mirror<Layout>::recover_or_record(uint32_t target, uint64_t offset, uint64_t length) {
  Status status = recover_piece(target, offset, length);
  if (status || no_room(status.error().code())) return status;
  for (uint64_t done = 0; done < length; done += correction_unit) {
    const uint64_t part = std::min(correction_unit, length - done);
    Status again = recover_piece(target, offset + done, part);
    if (again) continue;
    if (no_room(again.error().code())) return again;
    if (!m_.host->record_bad(target, offset + done, part)) return status;
  }
  return {};
}

template <class Layout>
Status Mirror<Layout>::recover(uint64_t position, uint64_t length) {
  for (uint32_t i = 0; i < m_.slots.size(); ++i) {
    Slot& slot = m_.slots[i];
    if (!slot.joins(position, position + length)) continue;
    VOLFS_TRY(recover_or_record(i, position, length));
    slot.recovered.store(position + length);
  }
  return {};
}

template <class Layout>
Result<SyncStep> Mirror<Layout>::sync(SyncKind kind, uint64_t position, uint64_t length) {
  SyncStep step;
  const uint64_t end = kind == SyncKind::recover ? layout_.used_member_size() : layout_.size();
  if (position >= end) {
    // The rest of the members holds nothing.
    for (Slot& slot : m_.slots)
      if (kind == SyncKind::recover && slot.joins(position, position + length))
        slot.recovered.store(position + length);
    return SyncStep{length, 0};
  }
  length = std::min(length, end - position);
  while (step.done < length) {
    const uint64_t at = position + step.done;
    uint64_t piece = std::min(length - step.done, layout_.unit() - at % layout_.unit());
    if (kind == SyncKind::recover) {
      VOLFS_TRY(recover(at, piece));
    } else {
      VOLFS_TRY_ASSIGN(const uint64_t mismatches, compare(kind, at, piece));
      step.mismatches += mismatches;
    }
    step.done += piece;
  }
  return step;
}

}  // namespace

Result<std::unique_ptr<Personality>> make_raid1(Members& m) {
  return std::make_unique<Mirror<Raid1Layout>>(m,
                                               Raid1Layout{m.member_size, m.geometry.raid_disks});
}

Result<std::unique_ptr<Personality>> make_raid10(Members& m) {
  VOLFS_TRY_ASSIGN(auto layout, Raid10Layout::make(m.geometry, m.member_size));
  return std::make_unique<Mirror<Raid10Places>>(m, Raid10Places{layout});
}

}  // namespace volfs::md
