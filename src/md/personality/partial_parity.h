// SPDX-License-Identifier: GPL-2.0-or-later
// The partial parity log of a raid5: before a row is written, the member of its parity has a record
// of what the data that stay sum up to. After a crash the parity is made right from that and from
// the data, torn or not, so that what stays can be computed when a member is lost: no write hole.
//
// Each member logs the rows whose parity it holds, in its own log. A log holds what one request
// writes; it may hold another's only when all that was written is durable. Any thread.
#pragma once

#include <mutex>
#include <span>

#include "personality.h"
#include "slot_io.h"

namespace volfs::md {

class PartialParityLog {
 public:
  PartialParityLog(Members& members, const ParityLayout& layout, uint32_t signature)
      : m_(members), layout_(layout), signature_(signature) {}

  // What will be written to one row, as in PplEntry. PARTIAL is empty if all its data are new.
  struct Entry {
    uint32_t parity_slot = 0;
    uint64_t data_offset = 0, data_size = 0;
    std::span<const std::byte> partial;
  };
  // The logs that a request has written in, until its data are written.
  class Hold {
   public:
    Hold(Hold&& other) noexcept : log_(std::exchange(other.log_, nullptr)), slots_(other.slots_) {}
    Hold& operator=(Hold&&) = delete;
    ~Hold() {
      if (log_) log_->release(slots_);
    }

   private:
    friend class PartialParityLog;
    Hold(PartialParityLog& log, const SlotSet& slots) : log_(&log), slots_(slots) {}
    PartialParityLog* log_;
    SlotSet slots_;
  };
  // At return the entries are durable. The rows are locked. An error: the array has failed.
  Result<Hold> write(std::span<const Entry> entries, Scratch& scratch);
  // How many bytes of partial parity every log can take.
  uint64_t room() const;

  // Before anything else is written: carries out what the logs hold if the array is DIRTY, and
  // empties them.
  Result<LogRecovery> recover(bool dirty);

 private:
  struct Found;
  void release(const SlotSet& slots);
  Status write_log(uint32_t slot, std::span<const Entry> entries, IoBatch& batch,
                   std::vector<iovec>& list, Scratch& scratch);
  Result<LogRecovery> recover_log(uint32_t slot);
  Status empty(uint32_t slot);
  // False: it is not as it should be.
  Result<bool> recover_entry(uint32_t slot, const struct PplEntry& entry,
                             std::span<const std::byte> partial);

  Members& m_;
  const ParityLayout layout_;
  const uint32_t signature_;
  Mutex mutex_;  // guards all below
  CondVar changed_;
  SlotSet busy_;       // a request is between its log and the end of its writes
  SlotSet unsettled_;  // what was written since may not be durable
  uint64_t generation_ = 0;
};

// The log of a member that was in no array before, or that holds nothing more that counts.
Status empty_ppl(BlockDevice& device, uint64_t position, uint64_t size, uint32_t signature);

}  // namespace volfs::md
