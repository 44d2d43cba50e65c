// SPDX-License-Identifier: GPL-2.0-or-later
// Writes of raid4, raid5 and raid6. For each band the cheapest way that what is readable allows:
//
//   whole        all data are new: nothing is read
//   modify       the old data and parity are read; the difference goes into the parity
//   reconstruct  the data that stay are read; the parity is computed anew
//   rebuild      lost data that stay are computed first, from all that can be read
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "raid456.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

constexpr uint64_t write_band = 128 * KiB;
constexpr size_t group_memory = 1 * MiB;  // what the bands of one batch may take together
constexpr size_t group_bands = 32;

}  // namespace

struct Raid456::WriteBand {
  Band band;
  RowShape shape;
  uint64_t at = 0;     // of the request's list: where the first new block begins
  uint32_t first = 0;  // index of the first new data chunk of the row
  uint32_t count = 0;  // how many are new; they are a chunk apart in the list
  uint64_t stride = 0;
  SlotSet bad;  // slots that turned out to be unreadable
  Way way = Way::whole;
  Blocks fresh;  // new content by slot: data and, once computed, parity
  Blocks old;    // what was read, by slot
  bool fresh_data(uint32_t index) const { return index >= first && index < first + count; }
  WriteBand() = default;
};

Raid456::Way Raid456::choose_way(WriteBand& w) const {
  const uint32_t data = layout_.data_disks();
  if (w.count == data) return Way::whole;
  // Parity that a resync has yet to make right must not be modified: the error would stay.
  bool can_modify = member_offset(w.band) + w.band.length <= m_.agreed.load() && !torn(w.band);
  bool can_reconstruct = true;
  for (uint32_t index = 0; index < data; ++index) {
    if (readable(layout_.data_slot(w.shape, index), w.band, w.bad)) continue;
    (w.fresh_data(index) ? can_modify : can_reconstruct) = false;
  }
  uint32_t parities = 0;
  for (uint32_t i : {w.shape.p, w.shape.q}) {
    if (i == no_slot || !kept(i, w.band)) continue;
    ++parities;
    if (!readable(i, w.band, w.bad)) can_modify = false;
  }
  if (parities == 0) return Way::whole;  // nothing to compute
  const uint32_t modify_reads = w.count + parities, reconstruct_reads = data - w.count;
  if (can_reconstruct && (!can_modify || reconstruct_reads <= modify_reads))
    return Way::reconstruct;
  return can_modify ? Way::modify : Way::rebuild;
}

// New data as one piece of memory a block: where it lies if it is contiguous, else copied.
void Raid456::gather(WriteBand& w, IoSpan iov, Scratch& scratch) const {
  for (uint32_t k = 0; k < w.count; ++k) {
    const uint64_t at = w.at + k * w.stride;
    SliceCursor cursor(iov);
    cursor.skip(at);
    const iovec piece = cursor.next(w.band.length);
    auto* memory = static_cast<std::byte*>(piece.iov_base);
    if (piece.iov_len < w.band.length) {
      memory = scratch.take(w.band.length);
      copy_from_slices(iov, at, {memory, w.band.length});
    }
    w.fresh[layout_.data_slot(w.shape, w.first + k)] = memory;
  }
}

void Raid456::plan_reads(WriteBand& w, SlotIo& io, Scratch& scratch) const {
  for (uint32_t i = 0; i < layout_.disks(); ++i) {
    const bool is_parity = i == w.shape.p || i == w.shape.q;
    const bool is_new = !is_parity && w.fresh_data(layout_.data_index(w.shape, i));
    bool wanted = false;
    if (w.way == Way::modify) wanted = is_new || (is_parity && kept(i, w.band));
    if (w.way == Way::reconstruct) wanted = !is_parity && !is_new;
    if (!wanted) continue;
    if (!w.old[i]) w.old[i] = scratch.take(w.band.length);
    io.add(i, member_offset(w.band), w.old[i], w.band.length);
  }
}

void Raid456::compute(WriteBand& w, Scratch& scratch) const {
  const size_t length = w.band.length;
  const bool p_kept = kept(w.shape.p, w.band);
  const bool q_kept = w.shape.q != no_slot && kept(w.shape.q, w.band);
  if (w.way == Way::modify) {
    // The old data become the difference in place.
    for (uint32_t k = 0; k < w.count; ++k) {
      const uint32_t slot = layout_.data_slot(w.shape, w.first + k);
      xor_into(w.old[slot], w.fresh[slot], length);
      if (p_kept) xor_into(w.old[w.shape.p], w.old[slot], length);
      if (q_kept)
        update_q(w.old[w.shape.q], layout_.syndrome_index(w.shape, slot), w.old[slot], length);
    }
    if (p_kept) w.fresh[w.shape.p] = w.old[w.shape.p];
    if (q_kept) w.fresh[w.shape.q] = w.old[w.shape.q];
    return;
  }
  if (!p_kept && !q_kept) return;
  Blocks all;
  all.resize(layout_.disks());
  for (uint32_t i = 0; i < layout_.disks(); ++i) all[i] = w.fresh[i] ? w.fresh[i] : w.old[i];
  all[w.shape.p] = p_kept ? scratch.take(length) : nullptr;
  if (w.shape.q != no_slot) all[w.shape.q] = q_kept ? scratch.take(length) : nullptr;
  make_parity(w.band, all);
  w.fresh[w.shape.p] = all[w.shape.p];
  if (w.shape.q != no_slot) w.fresh[w.shape.q] = all[w.shape.q];
}

// Data are right on a member that is being recovered wherever they lie.
void Raid456::add_writes(const WriteBand& w, SlotIo& io) const {
  for (uint32_t i = 0; i < m_.slots.size(); ++i)
    if (w.fresh[i % m_.disks()] && m_.slots[i].present())
      io.add(i, member_offset(w.band), w.fresh[i % m_.disks()], w.band.length);
}

// What stays sums up to the new parity without the new data, however that was computed.
Result<PartialParityLog::Hold> Raid456::log_parity(std::span<const WriteBand> bands,
                                                   Scratch& scratch) {
  std::vector<PartialParityLog::Entry> entries;
  for (const WriteBand& w : bands) {
    const std::byte* parity = w.fresh[w.shape.p];
    if (!parity || !m_.slots[w.shape.p].present()) continue;
    std::byte* partial = nullptr;
    if (w.count < layout_.data_disks()) {
      partial = scratch.take(w.band.length);
      std::memcpy(partial, parity, w.band.length);
      for (uint32_t k = 0; k < w.count; ++k)
        xor_into(partial, w.fresh[layout_.data_slot(w.shape, w.first + k)], w.band.length);
    }
    const uint64_t at = w.band.row * layout_.row_size() + w.first * layout_.chunk() + w.band.x;
    entries.push_back({w.shape.p, at, w.count * w.band.length,
                       std::span<const std::byte>(partial, partial ? w.band.length : 0)});
  }
  return log_->write(entries, scratch);
}

// Passes STATUS on, of writes to the bands.
Status Raid456::ended(std::span<const WriteBand> bands, Status status) const {
  if (!status && no_room(status.error().code()))
    for (const WriteBand& w : bands)
      m_.host->left_torn(member_offset(w.band), member_offset(w.band) + w.band.length);
  return status;
}

// The rows are locked.
Status Raid456::write_group(std::span<WriteBand> bands, IoSpan iov, Fua fua, Scratch& scratch) {
  for (WriteBand& w : bands) {
    w.fresh.resize(layout_.disks());
    w.old.resize(layout_.disks());
    gather(w, iov, scratch);
  }
  SlotIo io(m_);
  for (;;) {
    io.clear();
    for (WriteBand& w : bands) {
      w.way = choose_way(w);
      plan_reads(w, io, scratch);
    }
    if (io.empty() || io.read()) break;
    // Another way must do without what could not be read.
    for (const auto& failure : io.failures())
      for (WriteBand& w : bands) {
        const uint64_t at = member_offset(w.band);
        if (at < failure.offset + failure.length && failure.offset < at + w.band.length)
          w.bad[failure.slot] = true;
      }
  }
  for (WriteBand& w : bands) {
    if (w.way == Way::rebuild) {
      SlotSet stay;
      for (uint32_t index = 0; index < layout_.data_disks(); ++index)
        stay[layout_.data_slot(w.shape, index)] = !w.fresh_data(index);
      VOLFS_TRY(load(w.band, stay, w.bad, w.old, scratch));
      // Only what stays is wanted of it; the rest was read to compute that.
      for (uint32_t i = 0; i < layout_.disks(); ++i)
        if (!stay[i]) w.old[i] = nullptr;
    }
    compute(w, scratch);
  }
  std::optional<PartialParityLog::Hold> logged;
  if (log_) {
    VOLFS_TRY_ASSIGN(auto hold, log_parity(bands, scratch));
    logged.emplace(std::move(hold));
  }
  io.clear();
  for (const WriteBand& w : bands) add_writes(w, io);
  const bool written = io.empty() || io.write(fua);
  if (!written) VOLFS_TRY(ended(bands, io.settle_failures()));
  for (const WriteBand& w : bands)
    if (w.way != Way::modify) mended(w.band);
  if (written) return {};
  // Bad blocks may have come together.
  for (const WriteBand& w : bands) {
    uint32_t lost = 0;
    for (uint32_t i = 0; i < layout_.disks(); ++i) lost += !readable(i, w.band, {});
    if (lost > layout_.parity_disks()) return fail_sys(EIO, "");
  }
  return {};
}

Status Raid456::write(uint64_t offset, IoSpan iov, Fua fua) {
  const uint64_t length = total_length(iov), chunk = layout_.chunk(), row_size = layout_.row_size();
  const Span span = sync_span(offset, length);
  RangeLock::Guard guard(m_.lock, span.begin, span.end);
  // What goes out together must fit into each log, in whichever of them it comes to lie.
  const uint64_t room = log_ ? log_->room() : UINT64_MAX;
  const uint64_t longest = std::min(write_band, round_down(room / 2, sector_size));
  Scratch scratch;
  std::vector<WriteBand> bands(std::min<size_t>(
      group_bands, 4 + 4 * (length / std::min(chunk, longest) / layout_.data_disks())));
  size_t used = 0;
  const auto send = [&]() -> Status {
    const Status status =
        used == 0 ? Status() : write_group({bands.data(), used}, iov, fua, scratch);
    for (size_t i = 0; i < used; ++i) {
      bands[i].bad.reset();
      bands[i].fresh.clear();
      bands[i].old.clear();
    }
    used = 0;
    scratch.clear();
    return status;
  };
  const uint64_t end = offset + length;
  size_t memory = 0;
  for (uint64_t row = offset / row_size; row * row_size < end; ++row) {
    const uint64_t row_start = row * row_size;
    const uint64_t from = std::max(offset, row_start) - row_start;
    const uint64_t to = std::min(end, row_start + row_size) - row_start;
    // Within a chunk, what is new changes at most where the request begins and ends.
    uint64_t cuts[4] = {0, from % chunk, to % chunk, chunk};
    std::sort(std::begin(cuts), std::end(cuts));
    for (int c = 0; c < 3; ++c) {
      for (uint64_t x = cuts[c]; x < cuts[c + 1];) {
        const uint64_t piece = m_.same_run(row * chunk + x, std::min(cuts[c + 1] - x, longest));
        // Chunk i is new here if [i * chunk + x, + piece) lies in [from, to).
        const uint64_t first = from <= x ? 0 : div_round_up(from - x, chunk);
        const uint64_t last = to < x + piece ? 0 : (to - x - piece) / chunk + 1;
        if (first < last) {
          WriteBand& w = bands[used++];
          w.band = {row, x, piece};
          w.shape = layout_.shape(row);
          w.first = static_cast<uint32_t>(first);
          w.count = static_cast<uint32_t>(last - first);
          w.stride = chunk;
          w.at = row_start + first * chunk + x - offset;
          memory += piece * layout_.disks();
          if (used == bands.size() || memory >= std::min<uint64_t>(group_memory, room)) {
            VOLFS_TRY(send());
            memory = 0;
          }
        }
        x += piece;
      }
    }
  }
  return send();
}

// Whole rows of zeros have parity of zeros; the rest is written.
Status Raid456::write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  const uint64_t row_size = layout_.row_size(), end = offset + length;
  alignas(4096) static const std::byte zeros[64 * KiB] = {};
  if (log_) {  // which each write goes through
    for (uint64_t at = offset, piece = 0; at < end; at += piece) {
      piece = std::min<uint64_t>(sizeof zeros, end - at);
      VOLFS_TRY(write(at, OneSlice(std::span<const std::byte>(zeros, piece)), Fua::no));
    }
    return {};
  }
  while (offset < end) {
    const uint64_t row = offset / row_size;
    if (offset % row_size == 0 && end - offset >= row_size) {
      const uint64_t rows = std::min((end - offset) / row_size, 256 * MiB / row_size + 1);
      const uint64_t at = row * layout_.chunk(), size = rows * layout_.chunk();
      RangeLock::Guard guard(m_.lock, at, at + size);
      // Zeros are right on a member that is being recovered too, since the whole row is.
      for (uint32_t i = 0; i < m_.slots.size(); ++i)
        VOLFS_TRY(Personality::ended(at, at + size, zero_member(i, at, size, unmap)));
      for (uint64_t k = 0; k < rows && m_.torn.any(); ++k) mended({row + k, 0, layout_.chunk()});
      offset += rows * row_size;
      continue;
    }
    const uint64_t piece =
        std::min<uint64_t>({sizeof zeros, end - offset, (row + 1) * row_size - offset});
    VOLFS_TRY(write(offset, OneSlice(std::span<const std::byte>(zeros, piece)), Fua::no));
    offset += piece;
  }
  return {};
}

}  // namespace volfs::md
