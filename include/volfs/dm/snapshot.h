// SPDX-License-Identifier: GPL-2.0-or-later
// Snapshots: a copy-on-write device keeps the chunks of an origin that were overwritten, in the
// origin or in the snapshot. The targets snapshot, snapshot-origin and snapshot-merge are views
// of what is declared here; stores are Linux's, byte for byte (src/dm/snapshot/store_format.h).
//
// How they find each other: every device that has snapshots has one Origin, and every
// copy-on-write device in use one Snapshot, both known to the OriginRegistry that the engine
// owns and gives to the tables it loads. Two tables that name the same copy-on-write device (the
// one in use and the one about to replace it, a snapshot and its merge) share the Snapshot: that
// is Linux's handover of exceptions.
//
// A snapshot of a volume in use is taken as in Linux, and is atomic because no write is under way
// while it appears: suspend the origin's device; load and resume the snapshot's (which makes the
// store, if the copy-on-write device is blank); load snapshot-origin into the origin's device, if
// it does not have it yet; resume it. What was written before the suspend is in the snapshot. Not
// while a snapshot is merged into the origin: its device is neither what it was nor what it will
// be until the merge is done.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "volfs/block_device.h"
#include "volfs/error.h"
#include "volfs/sync.h"

namespace volfs::dm {

class Origin;
class Snapshot;

struct SnapshotOptions {
  bool persistent = true;   // P or PO; false: N
  uint64_t chunk_size = 0;  // bytes, a power of two; 0: 16 KiB. An existing store says its own.
  uint64_t size = 0;        // bytes of the origin that the snapshot shows; 0: all
  bool read_only = false;   // write nothing to open it: a blank device is refused
  // What Linux does not know: an error of the copy-on-write device costs the write that met it (or,
  // when it befell the record, all further writes until the store is opened again), never the
  // snapshot. For an origin that nobody writes to.
  bool keep = false;
};

struct SnapshotStatus {
  enum class State : uint8_t { active, invalid, overflowed, merge_failed };
  State state = State::active;
  bool merging = false;    // by a snapshot-merge target that was resumed
  uint64_t allocated = 0;  // bytes of TOTAL in use, metadata included; a merge is done when this
  uint64_t total = 0;      // has come down to METADATA
  uint64_t metadata = 0;
  uint64_t chunk_size = 0;
  uint64_t exceptions = 0;  // chunks that differ from the origin
  uint64_t memory = 0;      // bytes that the exceptions take
};

// What a device holds at its beginning, as far as the persistent store is concerned.
struct StoreInfo {
  enum class Kind : uint8_t { blank, store, other };
  Kind kind = Kind::blank;
  bool valid = false;
  uint32_t version = 0;
  uint64_t chunk_size = 0;  // bytes, as written there: unchecked
  // Of a valid store: the exception that was recorded first, and is merged last; 0 and 0: none.
  uint64_t first_old = 0, first_new = 0;  // chunks
};
Result<StoreInfo> inspect_store(BlockDevice& device);
// Marks the store invalid, durably, as a full one would be. Nobody uses it. Nothing if DEVICE holds
// none.
Status invalidate_store(BlockDevice& device);
// EINVAL, saying what was expected, unless chunks can have BYTES: a power of two, a sector or more,
// and a multiple of LOGICAL_BLOCK, the larger one of the origin's and the copy-on-write device's.
Status check_chunk_size(uint64_t bytes, uint32_t logical_block);
// How large a device must be so that a persistent store of an origin never fills: room for every
// chunk, the areas, and what crashes may leave unused. Bytes, a multiple of CHUNK_SIZE, which
// check_chunk_size() has passed.
uint64_t full_store_size(uint64_t origin_size, uint64_t chunk_size);

// Any thread. Outlives the tables that use it; those of one engine use the same.
class OriginRegistry {
 public:
  OriginRegistry() = default;
  OriginRegistry(const OriginRegistry&) = delete;
  OriginRegistry& operator=(const OriginRegistry&) = delete;

  std::shared_ptr<Origin> origin(BlockDevice& device);
  // The snapshot that COW holds, opened at the first call: reads the store or, on a blank
  // device, makes one. Origin writes do not reach it before Snapshot::activate. Both devices
  // outlive it. Errors: EUCLEAN, naming the chunk, for a store that contradicts itself; EINVAL
  // for what does not fit (chunk size, version); EBUSY if COW is in use with another origin;
  // EROFS; what the devices say.
  Result<std::shared_ptr<Snapshot>> open(BlockDevice& origin, BlockDevice& cow,
                                         const SnapshotOptions& options);

 private:
  std::shared_ptr<Origin> origin_locked(BlockDevice& device);

  Mutex mutex_;
  std::unordered_map<const BlockDevice*, std::weak_ptr<Origin>> origins_;
  std::unordered_map<const BlockDevice*, std::weak_ptr<Snapshot>> snapshots_;
};

// What can be asked of a Snapshot outside dm.
SnapshotStatus status_of(const Snapshot& snapshot);
// Every run of chunks that differ from the origin, in no order; offsets and lengths in bytes.
void for_each_difference(const Snapshot& snapshot,
                         const std::function<void(uint64_t offset, uint64_t length)>& visit);

}  // namespace volfs::dm
