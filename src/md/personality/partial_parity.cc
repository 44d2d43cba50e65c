// SPDX-License-Identifier: GPL-2.0-or-later
#include "partial_parity.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "../ppl_format.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"
#include "volfs/md/parity.h"
#include "volfs/units.h"

namespace volfs::md {
namespace {

// An entry that cannot be carried out, whoever assembles: a log with it is no reason to take the
// array for in sync. A resync was due for more than what is logged.
constexpr PplEntry more_to_mend{.checksum = 1};

}  // namespace

Status empty_ppl(BlockDevice& device, uint64_t position, uint64_t size, uint32_t signature) {
  VOLFS_TRY(device.write_zeroes(position, size));
  PplHeaderBytes header;
  encode_ppl_header(signature, 0, {}, header);
  return device.write(position, header, Fua::yes);
}

uint64_t PartialParityLog::room() const {
  uint64_t least = UINT64_MAX;
  for (uint32_t i = 0; i < m_.disks(); ++i)
    if (m_.slots[i].device) least = std::min(least, m_.slots[i].log_size - ppl_header_size);
  return least;
}

void PartialParityLog::release(const SlotSet& slots) {
  const std::lock_guard lock(mutex_);
  busy_ &= ~slots;
  unsettled_ |= slots;
  changed_.notify_all();
}

Result<PartialParityLog::Hold> PartialParityLog::write(std::span<const Entry> entries,
                                                       Scratch& scratch) {
  SlotSet slots;
  for (const Entry& entry : entries) slots[entry.parity_slot] = true;
  bool settle = false;
  {
    const std::lock_guard lock(mutex_);
    changed_.wait(mutex_, [&] { return (busy_ & slots).none(); });
    busy_ |= slots;
    settle = (unsettled_ & slots).any();
    unsettled_ &= ~slots;
  }
  Hold hold(*this, slots);
  if (settle) VOLFS_TRY(m_.host->settle_writes());
  VOLFS_TRY(m_.host->record_losses());
  IoBatch batch;
  std::vector<iovec> list;
  list.reserve(entries.size() + slots.count());
  std::vector<uint32_t> written;
  for (uint32_t slot = 0; slot < m_.disks(); ++slot) {
    if (!slots[slot] || !m_.slots[slot].present()) continue;
    VOLFS_TRY(write_log(slot, entries, batch, list, scratch));
    written.push_back(slot);
  }
  if (batch.run()) return hold;
  Status room;
  for (size_t op = 0; op < batch.size(); ++op) {
    const int error = batch.error(op);
    if (error == 0) continue;
    const Error why = Error::sys(error, "partial parity log");
    if (no_room(error))
      room = fail(why);
    else if (!m_.host->fail_member(written[op], why))
      return fail_sys(EIO, "");
  }
  VOLFS_TRY(std::move(room));
  return hold;
}

Status PartialParityLog::write_log(uint32_t slot, std::span<const Entry> entries, IoBatch& batch,
                                   std::vector<iovec>& list, Scratch& scratch) {
  std::byte* header = scratch.take(ppl_header_size);
  const size_t first = list.size();
  list.push_back({header, ppl_header_size});
  std::vector<PplEntry> described;
  for (const Entry& entry : entries) {
    if (entry.parity_slot != slot) continue;
    described.push_back({entry.data_offset, static_cast<uint32_t>(entry.data_size),
                         static_cast<uint32_t>(entry.partial.size()), slot,
                         ~ppl_checksum(~0u, entry.partial)});
    if (!entry.partial.empty())
      list.push_back({const_cast<std::byte*>(entry.partial.data()), entry.partial.size()});
  }
  if (m_.agreed.load() != all_in_sync) described.push_back(more_to_mend);
  uint64_t generation;
  {
    const std::lock_guard lock(mutex_);
    generation = ++generation_;
  }
  encode_ppl_header(signature_, generation, described,
                    std::span<std::byte, ppl_header_size>(header, ppl_header_size));
  batch.write(*m_.slots[slot].device, m_.slots[slot].log_position,
              IoSpan(list.data() + first, list.size() - first), Fua::yes);
  return {};
}

// ---- after a crash -------------------------------------------------------------------------

Result<LogRecovery> PartialParityLog::recover(bool dirty) {
  LogRecovery all;
  for (uint32_t i = 0; i < m_.disks(); ++i) {
    if (!m_.slots[i].present()) continue;
    if (dirty) {
      VOLFS_TRY_ASSIGN(const LogRecovery one, recover_log(i));
      all.done += one.done;
      all.unusable += one.unusable;
    }
  }
  if (all.done > 0) VOLFS_TRY(m_.host->settle_writes());
  for (uint32_t i = 0; i < m_.disks(); ++i)
    if (m_.slots[i].present()) VOLFS_TRY(empty(i));
  return all;
}

Status PartialParityLog::empty(uint32_t slot) {
  const Slot& s = m_.slots[slot];
  return in(s.device->name(), empty_ppl(*s.device, s.log_position, s.log_size, signature_));
}

// Linux may have written one log after the other: the youngest counts.
Result<LogRecovery> PartialParityLog::recover_log(uint32_t slot) {
  const Slot& s = m_.slots[slot];
  std::optional<PplHeader> youngest;
  uint64_t partial_at = 0;
  for (uint64_t at = 0; at + ppl_header_size <= s.log_size;) {
    PplHeaderBytes bytes;
    if (!s.device->read(s.log_position + at, bytes)) break;
    auto header = decode_ppl_header(signature_, bytes);
    if (!header || (youngest && youngest->generation > header->generation)) break;
    at += ppl_header_size;
    partial_at = at;
    at += header->partial_size();
    youngest = std::move(header);
  }
  LogRecovery result;
  if (!youngest) {
    log_warning("{}: no partial parity log", s.device->name());
    result.unusable = 1;
    return result;
  }
  for (const PplEntry& entry : youngest->entries) {
    std::vector<std::byte> partial;
    bool ok = range_within(partial_at, entry.partial_size, s.log_size);
    if (ok) {
      partial.resize(entry.partial_size);
      ok = partial.empty() || s.device->read(s.log_position + partial_at, partial).has_value();
    }
    if (ok && ~ppl_checksum(~0u, partial) == entry.checksum) {
      VOLFS_TRY_ASSIGN(ok, recover_entry(slot, entry, partial));
    } else {
      ok = false;
    }
    ++(ok ? result.done : result.unusable);
    partial_at += entry.partial_size;
  }
  return result;
}

Result<bool> PartialParityLog::recover_entry(uint32_t slot, const PplEntry& entry,
                                             std::span<const std::byte> partial) {
  const uint64_t chunk = layout_.chunk(), first = entry.data_offset;
  uint64_t strip = chunk, last = first + entry.data_size, disks = layout_.data_disks();
  if (entry.partial_size < chunk) {
    if (entry.partial_size > 0) disks = entry.data_size / entry.partial_size;
    strip = entry.partial_size > 0 ? entry.partial_size : entry.data_size / disks;
    if (disks == 0) return false;
    last = first + (disks - 1) * chunk + strip;
  }
  const uint64_t row = first / layout_.row_size();
  if (entry.parity_slot != slot || layout_.shape(row).p != slot || disks > layout_.data_disks() ||
      (last == first) || (last - 1) / layout_.row_size() != row ||
      last > layout_.array_size(m_.member_size) || (!partial.empty() && partial.size() < strip))
    return false;
  const uint64_t unit = first % 4096 == 0 && last % 4096 == 0 ? 4096 : sector_size;
  alignas(4096) std::byte sum[4096], data[4096];
  for (uint64_t i = 0; i < strip; i += unit) {
    std::memset(sum, 0, unit);
    bool known = false;
    for (uint64_t disk = 0; disk < disks; ++disk) {
      const uint64_t at = first + i + disk * chunk;
      if (at >= last) continue;
      const auto place = layout_.map(at);
      const Slot& source = m_.slots[place.slot];
      known = source.readable(place.offset, unit);
      if (!known) break;  // what is lost with it is lost; the others need no parity for theirs
      if (!source.device->read(source.data_offset + place.offset, {data, unit})) return false;
      xor_into(sum, data, unit);
    }
    if (!known) continue;
    if (!partial.empty()) xor_into(sum, partial.data() + i, unit);
    const Slot& parity = m_.slots[slot];
    const uint64_t at = row * chunk + (first + i) % chunk;
    VOLFS_TRY(parity.device->write(parity.data_offset + at, std::span<const std::byte>(sum, unit)));
  }
  return true;
}

}  // namespace volfs::md
