// SPDX-License-Identifier: GPL-2.0-or-later
// raid4, raid5 and raid6. All work is done in bands: the same byte range of the chunks of one row,
// so that in a band each chunk is either written whole or not at all. Bands are short enough to
// stay in cache, and many of them go out as one batch.
#pragma once

#include <memory>
#include <span>

#include "partial_parity.h"
#include "slot_io.h"
#include "volfs/md/parity.h"

namespace volfs::md {

// The chunks' byte range [x, x + length) of one row.
struct Band {
  uint64_t row = 0, x = 0, length = 0;
};

// The blocks of one band, by slot; null where none was wanted.
using Blocks = InlineVector<std::byte*, 16>;

class Raid456 final : public Personality {
 public:
  Raid456(Members& members, const ParityLayout& layout) : Personality(members), layout_(layout) {
    if (members.ppl_signature)
      log_ = std::make_unique<PartialParityLog>(members, layout, *members.ppl_signature);
  }
  uint64_t size() const override { return layout_.array_size(m_.member_size); }
  bool mappable(uint64_t offset, uint64_t length) const override;
  void map(uint64_t offset, uint64_t length, Mapping& out) const override;
  Result<LogRecovery> recover_log(bool dirty) override {
    if (!log_) return LogRecovery();
    return log_->recover(dirty);
  }
  Status read(uint64_t offset, IoSpan iov) override;
  Status write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;
  Span sync_span(uint64_t offset, uint64_t length) const override;
  uint64_t sync_size() const override { return round_to_chunk(m_.member_size); }
  Result<SyncStep> sync(SyncKind kind, uint64_t position, uint64_t length) override;

 private:
  struct WriteBand;
  enum class Way : uint8_t { whole, modify, reconstruct, rebuild };

  uint64_t round_to_chunk(uint64_t size) const { return size & ~(layout_.chunk() - 1); }
  uint64_t member_offset(const Band& b) const { return b.row * layout_.chunk() + b.x; }
  bool readable(uint32_t slot, const Band& band, const SlotSet& bad) const;
  bool torn(const Band& band) const {
    return m_.torn.any() && m_.torn.overlap(member_offset(band), band.length);
  }
  // Its parity is right, or recorded as bad.
  void mended(const Band& band);
  // Whether a write must keep the slot's content right in this band.
  bool kept(uint32_t slot, const Band& band) const;

  // Reads what is needed to know all blocks named in WANTED and computes those that cannot be
  // read. BAD gains the slots that fail. EIO when too much is missing, or anything where parity is
  // torn.
  Status load(const Band& band, const SlotSet& wanted, SlotSet& bad, Blocks& blocks,
              Scratch& scratch);
  bool read_blocks(const Band& band, const SlotSet& slots, SlotSet& bad, Blocks& blocks,
                   Scratch& scratch);
  void rebuild(const Band& band, const SlotSet& lost, Blocks& blocks) const;
  void syndrome_order(const RowShape& shape, const Blocks& by_slot, Blocks& out) const;
  void make_parity(const Band& band, const Blocks& blocks) const;

  Status read_piece(uint64_t offset, IoSpan iov, uint64_t at, uint64_t length, bool correct);
  Status correct(const Band& band, uint32_t slot);

  Status write_group(std::span<WriteBand> bands, IoSpan iov, Fua fua, Scratch& scratch);
  Status ended(std::span<const WriteBand> bands, Status status) const;
  Way choose_way(WriteBand& band) const;
  void plan_reads(WriteBand& band, SlotIo& io, Scratch& scratch) const;
  void compute(WriteBand& band, Scratch& scratch) const;
  void gather(WriteBand& band, IoSpan iov, Scratch& scratch) const;
  void add_writes(const WriteBand& band, SlotIo& io) const;
  Result<PartialParityLog::Hold> log_parity(std::span<const WriteBand> bands, Scratch& scratch);

  Result<uint64_t> check_band(SyncKind kind, const Band& band);
  // Whether recovery has yet to give the member of that index (of a slot or a replacement) the
  // band.
  bool lacks(uint32_t index, const Band& band) const;
  bool copied(const Band& band) const;
  Status recover_band(const Band& band);
  Status recover_or_record(const Band& band);

  const ParityLayout layout_;
  std::unique_ptr<PartialParityLog> log_;  // of raid5 only
};

}  // namespace volfs::md
