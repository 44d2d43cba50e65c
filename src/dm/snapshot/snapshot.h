// SPDX-License-Identifier: GPL-2.0-or-later
// One snapshot: the exception table, the store behind it, and the reads that still need the
// origin's old data. Shared by the targets that show it; found through the OriginRegistry.
//
// What holds the data right. An unmapped chunk is read from the origin under a lease. Whoever is
// about to overwrite a chunk of the origin first gets it mapped here, and then waits for the
// leases that are older than the mapping (Origin::make_writable). A chunk is copied under
// Origin::lock(), so only once, and is looked up, from the moment it is on stable storage, in
// the copy-on-write device. It never moves again until it is merged.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "exception_store.h"
#include "exception_table.h"
#include "range_leases.h"
#include "volfs/block_device.h"
#include "volfs/dm/snapshot.h"
#include "volfs/inline_vector.h"
#include "volfs/mapping.h"
#include "volfs/sync.h"

namespace volfs::dm {

class Origin;

class Snapshot final : public LeaseOwner {
 public:
  // A stretch of a range that is wholly in the copy-on-write device or in the origin.
  struct Part {
    bool in_cow = false;
    uint64_t offset = 0;  // there
    uint64_t length = 0;
  };
  using Parts = InlineVector<Part, 24>;
  struct Range {
    uint64_t begin = 0, end = 0;  // bytes of the origin
  };
  // Chunks that were given new places: consecutive ones.
  struct Claim {
    uint64_t old_chunk = 0;
    uint64_t new_chunk = 0;
    uint64_t count = 0;
  };

  static Result<std::shared_ptr<Snapshot>> open(std::shared_ptr<Origin> origin, BlockDevice& cow,
                                                const SnapshotOptions& options);
  // Not while the origin is written to by its caller; waits for copies under way.
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  Origin& origin() const { return *origin_; }
  BlockDevice& cow() const { return cow_; }
  uint64_t chunk_size() const { return chunk_size_; }
  bool persistent() const { return store_->persistent() != nullptr; }
  SnapshotStatus status() const;
  void for_each_difference(const std::function<void(uint64_t, uint64_t)>& visit) const;

  // From now on writes to the origin copy for this snapshot. Once is enough.
  void activate();
  // One device at a time does I/O. EBUSY while another one has not left.
  Status take(const void* user);
  void leave(const void* user);
  // How much of the origin it shows, from now on. Bytes.
  void set_size(uint64_t size);
  // Told when the state changes, until unsubscribed with the same key.
  void subscribe(const void* key, std::function<void()> event);
  void unsubscribe(const void* key);

  // The snapshot's own I/O. 0, or the errno with which all of it must fail.
  int refused(Op op) const;
  // Where the range is now; a read of the origin's part is under a lease that OUT holds.
  void resolve_read(uint64_t offset, uint64_t length, Parts& parts, Mapping& out);
  void resolve(uint64_t offset, uint64_t length, Parts& parts) const;
  // Writes, giving chunks a place of their own where they have none. OVERFLOW: when the store is
  // full the snapshot stays readable; else it becomes invalid. A null list writes zeros.
  Status write(uint64_t offset, uint64_t length, const IoSpan* iov, Fua fua, bool overflow);
  // Zeroes the chunks within the range that have a place of their own; the rest is left alone.
  Status discard(uint64_t offset, uint64_t length);

  // For the Origin.
  // Whether an overwrite of the range of the origin would be seen here.
  bool shares(uint64_t begin, uint64_t end) const;
  // Appends places for all chunks of the ranges, which are in rising order, that have none; false
  // if there was no room: then nothing was claimed. Nothing to claim if the snapshot does not take
  // part any more.
  bool claim(std::span<const Range> ranges, std::vector<Claim>& claims);
  // The claimed chunks are on stable storage: they are mapped from now on.
  void publish(std::span<const Claim> claims);
  void wait_for_reads(uint64_t begin, uint64_t end);
  // Returns when it is on stable storage that the snapshot is of no use.
  void invalidate(const Error& reason);

  // For the Merge; see there. While merging the origin does not copy for this snapshot, and the
  // copy-on-write device goes on holding the chunks that are not merged yet. EINVAL if the store
  // is transient.
  Status set_merging(bool merging);
  void merge_failed(const Error& reason);
  void merge_done() { tell(); }
  // Where a write goes. The part in the copy-on-write device is under a lease that OUT holds and
  // that the merge of its chunks waits for. If some of it is being merged, that is waited for;
  // with Wait::no it is false, and nothing is set.
  bool resolve_merging_write(uint64_t offset, uint64_t length, Wait wait, Parts& parts,
                             Mapping& out);
  // The chunks are about to be merged: writes to them wait from now on; returns when those under
  // way are done. EUCLEAN if the table does not have them so.
  Status hold_off_writes(std::span<const Claim> claims);
  // They are merged, and unmapped now; or they will not be.
  void let_writes_go(bool merged);
  ExceptionStore& store() const { return *store_; }

  void release(uint64_t lease, uint64_t) override;

 private:
  enum class Validity : uint8_t { valid, dropping, invalid };

  Snapshot(std::shared_ptr<Origin> origin, BlockDevice& cow);
  void parts_locked(uint64_t offset, uint64_t length, Parts& parts) const;
  void give_back(std::span<const Claim> claims);
  bool claim_locked(std::span<const Range> ranges, std::vector<Claim>& claims);
  bool claim_chunks_locked(uint64_t first, uint64_t end, std::vector<Claim>& claims);
  bool being_merged_locked(uint64_t offset, uint64_t length) const;
  void add_lease_locked(uint64_t begin, uint64_t end, Mapping& out);
  void tell();
  Status write_piece(uint64_t begin, uint64_t end, const IoSpan* iov, uint64_t iov_offset, Fua fua,
                     bool overflow);
  void stop_writes(const Error& reason);
  Status record(std::span<const Claim> claims);
  void destinations(uint64_t begin, uint64_t end, std::span<const Claim> claims,
                    Mapping& out) const;
  Status write_data(uint64_t begin, uint64_t end, std::span<const Claim> claims, const IoSpan* iov,
                    uint64_t iov_offset, Fua fua);
  uint64_t chunk_of(uint64_t offset) const { return offset / chunk_size_; }

  const std::shared_ptr<Origin> origin_;
  BlockDevice& cow_;
  std::unique_ptr<ExceptionStore> store_;
  uint64_t chunk_size_ = 0;
  bool keep_ = false;

  mutable Mutex mutex_;  // guards all below; never held during I/O
  mutable CondVar changed_;
  ExceptionTable table_;
  RangeLeases leases_;  // bytes
  unsigned waiters_ = 0;
  const void* user_ = nullptr;
  uint64_t size_ = 0;
  Validity validity_ = Validity::valid;
  bool overflowed_ = false;
  bool attached_ = false;
  bool merging_ = false;
  bool merge_failed_ = false;
  std::vector<Claim> being_merged_;
  Mutex subscribers_mutex_;  // guards the next; the last one to be taken
  std::vector<std::pair<const void*, std::function<void()>>> subscribers_;
};

// Makes a list of exceptions of claims.
std::vector<Exception> exceptions_of(std::span<const Snapshot::Claim> claims);

}  // namespace volfs::dm
