// SPDX-License-Identifier: GPL-2.0-or-later
// Blocks of a row: reading them, and computing those that are lost. Reads, and sync.
#include "raid456.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint64_t sync_band = 64 * KiB;
constexpr uint64_t read_band = 128 * KiB;
constexpr uint64_t mismatch_unit = 4 * KiB;  // in which md counts them

}  // namespace

bool Raid456::readable(uint32_t slot, const Band& band, const SlotSet& bad) const {
  return !bad[slot] && m_.slots[slot].readable(member_offset(band), band.length);
}

bool Raid456::kept(uint32_t slot, const Band& band) const {
  // Who replaces it takes its place as soon as it fails.
  for (const uint32_t index : {slot, m_.replacement_of(slot)}) {
    const Slot& s = m_.slots[index];
    if (s.present() && member_offset(band) < s.recovered.load()) return true;
  }
  return false;
}

void Raid456::mended(const Band& band) {
  if (m_.torn.any() && m_.torn.remove(member_offset(band), band.length) && !m_.torn.any())
    m_.host->torn_mended();
}

// ---- reading without work ------------------------------------------------------------------

bool Raid456::mappable(uint64_t offset, uint64_t length) const {
  bool whole = true;
  for (uint32_t i = 0; i < m_.disks(); ++i)
    whole = whole && m_.slots[i].in_sync() && !m_.slots[i].bad.any();
  while (!whole && length > 0) {
    const auto place = layout_.map(offset);
    const uint64_t piece = std::min(length, place.length);
    if (!m_.slots[place.slot].readable(place.offset, piece)) return false;
    offset += piece;
    length -= piece;
  }
  return true;
}

void Raid456::map(uint64_t offset, uint64_t length, Mapping& out) const {
  while (length > 0) {
    const auto place = layout_.map(offset);
    const uint64_t piece = std::min(length, place.length);
    const Slot& slot = m_.slots[place.slot];
    if (slot.device)
      out.add(*slot.device, slot.data_offset + place.offset, piece);
    else
      out.add_error(EIO, piece);
    offset += piece;
    length -= piece;
  }
}

Personality::Span Raid456::sync_span(uint64_t offset, uint64_t length) const {
  // Inside of one chunk only the same bytes of the row's other chunks are concerned.
  const auto place = layout_.map(offset);
  if (length <= place.length) return {place.offset, place.offset + length};
  const uint64_t first = offset / layout_.row_size(),
                 last = (offset + length - 1) / layout_.row_size();
  return {first * layout_.chunk(), (last + 1) * layout_.chunk()};
}

// ---- blocks --------------------------------------------------------------------------------

bool Raid456::read_blocks(const Band& band, const SlotSet& slots, SlotSet& bad, Blocks& blocks,
                          Scratch& scratch) {
  SlotIo io(m_);
  for (uint32_t i = 0; i < layout_.disks(); ++i) {
    if (!slots[i]) continue;
    if (!blocks[i]) blocks[i] = scratch.take(band.length);
    io.add(i, member_offset(band), blocks[i], band.length);
  }
  if (io.read()) return true;
  for (const auto& failure : io.failures()) bad[failure.slot] = true;
  return false;
}

// Data by syndrome index (null for holes), then P, then Q.
void Raid456::syndrome_order(const RowShape& shape, const Blocks& by_slot, Blocks& out) const {
  const uint32_t count = layout_.syndrome_count();
  out.clear();
  out.resize(count + 2);
  for (uint32_t i = 0; i < layout_.disks(); ++i) {
    if (i == shape.p)
      out[count] = by_slot[i];
    else if (i == shape.q)
      out[count + 1] = by_slot[i];
    else
      out[layout_.syndrome_index(shape, i)] = by_slot[i];
  }
}

Status Raid456::load(const Band& band, const SlotSet& wanted, SlotSet& bad, Blocks& blocks,
                     Scratch& scratch) {
  const uint32_t disks = layout_.disks();
  const RowShape shape = layout_.shape(band.row);
  blocks.resize(disks);
  for (;;) {
    SlotSet lost, need;
    size_t lost_count = 0, wanted_lost = 0;
    for (uint32_t i = 0; i < disks; ++i) {
      if (readable(i, band, bad)) continue;
      lost[i] = true;
      ++lost_count;
      wanted_lost += wanted[i];
    }
    if (wanted_lost > 0 && (lost_count > layout_.parity_disks() || torn(band)))
      return fail_sys(EIO, "");
    for (uint32_t i = 0; i < disks; ++i) {
      if (lost[i]) {
        if (!blocks[i] && wanted_lost > 0) blocks[i] = scratch.take(band.length);
      } else {
        // Q is not needed to bring back one block that is data, nor to bring back P.
        const bool spared = i == shape.q && lost_count <= 1;
        need[i] = wanted[i] || (wanted_lost > 0 && !spared);
      }
    }
    if (!read_blocks(band, need, bad, blocks, scratch)) continue;
    if (wanted_lost > 0) rebuild(band, lost, blocks);
    return {};
  }
}

// All blocks that are not lost are there (but Q if it is not needed).
void Raid456::rebuild(const Band& band, const SlotSet& lost, Blocks& blocks) const {
  const RowShape shape = layout_.shape(band.row);
  if (layout_.parity_disks() == 1) {
    InlineVector<const std::byte*, 16> sources;
    std::byte* target = nullptr;
    for (uint32_t i = 0; i < layout_.disks(); ++i) {
      if (lost[i])
        target = blocks[i];
      else
        sources.push_back(blocks[i]);
    }
    xor_blocks(sources, target, band.length);
    return;
  }
  Blocks ordered;
  syndrome_order(shape, blocks, ordered);
  const uint32_t count = layout_.syndrome_count();
  size_t found = 0, at[2] = {};
  for (uint32_t i = 0; i < layout_.disks(); ++i) {
    if (!lost[i] || found == 2) continue;
    at[found++] = i == shape.p   ? count
                  : i == shape.q ? count + 1
                                 : layout_.syndrome_index(shape, i);
  }
  if (found == 1) at[1] = at[0];
  recover_pq({ordered.data(), ordered.size()}, std::min(at[0], at[1]), std::max(at[0], at[1]),
             band.length);
}

// P and Q of all data blocks, into those of the blocks that are not null.
void Raid456::make_parity(const Band& band, const Blocks& blocks) const {
  const RowShape shape = layout_.shape(band.row);
  Blocks ordered;
  syndrome_order(shape, blocks, ordered);
  const uint32_t count = layout_.syndrome_count();
  InlineVector<const std::byte*, 16> data;
  for (uint32_t i = 0; i < count; ++i) data.push_back(ordered[i]);
  std::byte* q = layout_.parity_disks() == 2 ? ordered[count + 1] : nullptr;
  if (q) {
    generate_pq(data, ordered[count], q, band.length);
  } else if (ordered[count]) {
    xor_blocks(data, ordered[count], band.length);
  }
}

// ---- reads ---------------------------------------------------------------------------------

Status Raid456::read(uint64_t offset, IoSpan iov) {
  const uint64_t length = total_length(iov);
  const Span span = sync_span(offset, length);
  {
    // No writer may be half way through a row whose blocks are computed from each other.
    RangeLock::Guard guard(m_.lock, span.begin, span.end, RangeLock::Mode::shared);
    SlotIo io(m_);
    bool ok = true;
    for (uint64_t done = 0; done < length && ok;) {
      const auto place = layout_.map(offset + done);
      const uint64_t piece =
          m_.same_run(place.offset, std::min({length - done, place.length, read_band}));
      if (m_.slots[place.slot].readable(place.offset, piece)) {
        uint64_t at = place.offset;
        for_each_slice(iov, done, piece, [&](iovec slice) {
          io.add(place.slot, at, slice.iov_base, slice.iov_len);
          at += slice.iov_len;
        });
      } else {
        ok = read_piece(offset, iov, done, piece, false).has_value();
      }
      done += piece;
    }
    if (ok && io.read()) return {};
  }
  for (uint64_t done = 0; done < length;) {
    const uint64_t at = offset + done;
    const uint64_t piece = m_.same_run(
        layout_.map(at).offset, std::min(length - done, correction_unit - at % correction_unit));
    VOLFS_TRY(read_piece(offset, iov, done, piece, true));
    done += piece;
  }
  return {};
}

// Within one chunk. CORRECT: nothing is locked yet, and what cannot be read is to be written anew.
Status Raid456::read_piece(uint64_t offset, IoSpan iov, uint64_t at, uint64_t length,
                           bool correcting) {
  const auto place = layout_.map(offset + at);
  const Band band{place.row, place.offset - place.row * layout_.chunk(), length};
  SlotSet wanted, bad;
  wanted[place.slot] = true;
  Scratch scratch;
  Blocks blocks;
  if (!correcting) {
    VOLFS_TRY(load(band, wanted, bad, blocks, scratch));
  } else {
    const Span span = sync_span(offset + at, length);
    RangeLock::Guard guard(m_.lock, span.begin, span.end);
    VOLFS_TRY(load(band, wanted, bad, blocks, scratch));
    const bool corrects = bad.any() && m_.host->corrects();
    for (uint32_t i = 0; i < layout_.disks() && corrects; ++i) {
      if (!bad[i] || !m_.slots[i].present()) continue;
      // What else could not be read is computed from what is right, too.
      SlotSet this_one, unreadable = bad;
      this_one[i] = true;
      if (!blocks[i] || i != place.slot) {
        Blocks more;
        if (!load(band, this_one, unreadable, more, scratch)) continue;
        blocks[i] = more[i];
      }
      Slot& slot = m_.slots[i];
      const uint64_t position = slot.data_offset + member_offset(band);
      std::byte* again = scratch.take(length);
      Status status = slot.device->write(position, std::span<const std::byte>(blocks[i], length));
      if (status) status = slot.device->read(position, {again, length});
      if (status)
        m_.host->corrected_read(i, length);
      else if (!no_room(status.error().code()))
        m_.host->write_failed(i, member_offset(band), length, status.error());
    }
  }
  copy_to_slices(iov, at, {blocks[place.slot], length});
  return {};
}

// ---- sync ----------------------------------------------------------------------------------

// Whether the parity of a band agrees with its data; counts what does not and writes it right.
Result<uint64_t> Raid456::check_band(SyncKind kind, const Band& band) {
  const RowShape shape = layout_.shape(band.row);
  const uint32_t disks = layout_.disks();
  Scratch scratch;
  SlotSet data, bad;
  Blocks blocks;
  size_t unreadable = 0;
  for (uint32_t i = 0; i < disks; ++i) {
    data[i] = i != shape.p && i != shape.q;
    unreadable += !readable(i, band, bad);
  }
  // Without all of one parity to spare there is nothing to compare with.
  if (unreadable >= layout_.parity_disks()) return 0;
  if (Status status = load(band, data, bad, blocks, scratch); !status) {
    if (torn(band)) return 0;  // stays so
    return fail(std::move(status.error()));
  }
  SlotSet parity;
  if (readable(shape.p, band, bad)) parity[shape.p] = true;
  if (shape.q != no_slot && readable(shape.q, band, bad)) parity[shape.q] = true;
  for (uint32_t i : {shape.p, shape.q})
    if (i != no_slot) blocks[i] = nullptr;
  read_blocks(band, parity, bad, blocks, scratch);  // what fails is in BAD, and written anew
  Blocks computed;
  computed.resize(disks);
  for (uint32_t i = 0; i < disks; ++i)
    computed[i] = data[i] ? blocks[i] : parity[i] ? scratch.take(band.length) : nullptr;
  make_parity(band, computed);
  uint64_t mismatches = 0;
  SlotSet wrong;
  for (uint64_t x = 0; x < band.length; x += mismatch_unit) {
    const uint64_t piece = std::min(mismatch_unit, band.length - x);
    bool differs = false;
    for (uint32_t i : {shape.p, shape.q}) {
      if (i == no_slot || !parity[i] || bad[i]) continue;
      if (std::memcmp(computed[i] + x, blocks[i] + x, piece) == 0) continue;
      differs = wrong[i] = true;
    }
    if (differs) mismatches += piece;
  }
  SlotIo io(m_);
  for (uint32_t i = 0; i < disks; ++i) {
    bad[i] = bad[i] && m_.slots[i].present() && (data[i] || parity[i]);
    if (bad[i] || (wrong[i] && kind != SyncKind::check))
      io.add(i, member_offset(band), data[i] ? blocks[i] : computed[i], band.length);
  }
  if (!io.empty() && !io.write(Fua::no)) VOLFS_TRY(io.settle_failures());
  for (uint32_t i = 0; i < disks; ++i)
    if (bad[i]) m_.host->corrected_read(i, band.length);
  if (kind != SyncKind::check) mended(band);
  return mismatches;
}

bool Raid456::lacks(uint32_t index, const Band& band) const {
  const Slot& slot = m_.slots[index];
  return slot.present() && slot.recovered.load() < member_offset(band) + band.length;
}

// Whether all that lack it had it before a crash.
bool Raid456::copied(const Band& band) const {
  for (uint32_t i = 0; i < m_.slots.size(); ++i)
    if (lacks(i, band) && m_.slots[i].copied.load() < member_offset(band) + band.length)
      return false;
  return true;
}

// Computes and writes the band of every member that is being recovered. What a replacement needs is
// read of whom it replaces, if it can be.
Status Raid456::recover_band(const Band& band) {
  SlotSet wanted, bad;
  for (uint32_t i = 0; i < m_.slots.size(); ++i)
    if (lacks(i, band)) wanted[i % m_.disks()] = true;
  if (wanted.none()) return {};
  Scratch scratch;
  Blocks blocks;
  VOLFS_TRY(load(band, wanted, bad, blocks, scratch));
  SlotIo io(m_);
  for (uint32_t i = 0; i < m_.slots.size(); ++i)
    if (lacks(i, band)) io.add(i, member_offset(band), blocks[i % m_.disks()], band.length);
  return io.write(Fua::no) ? Status() : io.settle_failures();
}

// What cannot be computed any more is recorded as bad on the members that should get it.
Status Raid456::recover_or_record(const Band& band) {
  Status status = recover_band(band);
  if (status || no_room(status.error().code())) return status;
  for (uint64_t done = 0; done < band.length; done += correction_unit) {
    const Band part{band.row, band.x + done, std::min(correction_unit, band.length - done)};
    Status again = recover_band(part);
    if (again) continue;
    if (no_room(again.error().code())) return again;
    for (uint32_t i = 0; i < m_.slots.size(); ++i) {
      if (!lacks(i, part)) continue;
      if (!m_.host->record_bad(i, member_offset(part), part.length)) return status;
    }
    // Nor may it be computed from parity later on.
    if (!torn(part)) continue;
    const RowShape shape = layout_.shape(band.row);
    for (uint32_t i : {shape.p, shape.q}) {
      if (i == no_slot || !m_.slots[i].present()) continue;
      if (!m_.host->record_bad(i, member_offset(part), part.length)) return status;
    }
    mended(part);
  }
  return {};
}

Result<SyncStep> Raid456::sync(SyncKind kind, uint64_t position, uint64_t length) {
  SyncStep step;
  if (position >= sync_size()) {
    // Less than a chunk at the end of the members, which holds nothing.
    for (Slot& slot : m_.slots)
      if (kind == SyncKind::recover && slot.joins(position, position + length))
        slot.recovered.store(position + length);
    return SyncStep{length, 0};
  }
  length = std::min(length, sync_size() - position);
  while (step.done < length) {
    const uint64_t at = position + step.done, row = at / layout_.chunk();
    const uint64_t row_start = row * layout_.chunk();
    const uint64_t row_end = row_start + layout_.chunk();
    const uint64_t end = std::min(position + length, row_end);
    RangeLock::Guard guard(m_.lock, row_start, row_end);
    const bool always = kind == SyncKind::check || kind == SyncKind::repair;
    uint64_t piece = 0;
    for (uint64_t x = at; x < end; x += piece) {
      piece = m_.same_run(x, std::min(sync_band, end - x));
      const Band band{row, x - row_start, piece};
      if (!always && !m_.host->sync_needed(x, x + band.length, copied(band))) continue;
      if (kind == SyncKind::recover) {
        VOLFS_TRY(recover_or_record(band));
      } else {
        VOLFS_TRY_ASSIGN(const uint64_t mismatches, check_band(kind, band));
        step.mismatches += mismatches;
      }
    }
    if (kind == SyncKind::recover)
      for (Slot& slot : m_.slots)
        if (slot.joins(at, end)) slot.recovered.store(end);
    step.done = end - position;
  }
  return step;
}

Result<std::unique_ptr<Personality>> make_raid456(Members& m) {
  VOLFS_TRY_ASSIGN(auto layout, ParityLayout::make(m.geometry));
  return std::make_unique<Raid456>(m, layout);
}

}  // namespace volfs::md
