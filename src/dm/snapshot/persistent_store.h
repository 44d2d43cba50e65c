// SPDX-License-Identifier: GPL-2.0-or-later
// The store that survives a restart, in Linux's format (store_format.h). It holds in memory no
// more of an area than the block into which the next exception goes.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "exception_store.h"
#include "exception_table.h"
#include "store_format.h"
#include "volfs/io_batch.h"
#include "volfs/sync.h"

namespace volfs::dm {

class PersistentStore final : public ExceptionStore {
 public:
  // What to do where no store is: the header's place holds zeros. as_empty writes nothing: what is
  // opened is what initialise would make, to be read only.
  enum class IfBlank { initialise, as_empty };
  struct Loaded {
    std::unique_ptr<PersistentStore> store;
    bool valid = true;  // false: marked invalid; nothing was read but the header
  };
  // False stops the reading with EUCLEAN: the exception contradicts an earlier one.
  using Add = std::function<bool(Exception)>;

  // Reads the store on DEVICE and gives its exceptions to ADD in the order in which they were
  // committed. CHUNK_SIZE (bytes, 0: the default) is that of a new store; an existing one says
  // its own. Old chunks lie within ORIGIN_SIZE. A store that exists is only read.
  static Result<Loaded> open(BlockDevice& device, uint64_t chunk_size, uint64_t origin_size,
                             uint32_t origin_block, IfBlank if_blank, const Add& add);

  Usage usage() const override;
  std::optional<uint64_t> allocate() override;
  void give_back(uint64_t first, uint64_t count) override;
  Status drop() override;
  PersistentStore* persistent() override { return this; }

  // A commit goes in steps, so that those of several stores share their waiting; one thread at a
  // time. stage() takes as many exceptions as fit the current area, at least one. The data they
  // speak of, and what prepare_area() writes, must be on stable storage before the write of
  // write_staged() begins, and that write must be before staged_done().
  size_t stage(std::span<const Exception> exceptions);
  // Zeroes the next area if the staged exceptions fill this one, and wipes what a torn write left
  // behind the end of the list before the store was opened.
  Status prepare_area();
  void write_staged(IoBatch& batch);
  void staged_done();

  // After a failure of any step: nothing more can be staged.
  void staged_failed() {
    staged_count_ = 0;
    failed_ = true;
  }
  bool failed() const { return failed_; }

  // Merging, one thread at a time and not along with commits. Sets OUT to the last exceptions
  // of the list, the last first, at most MOST and all of one area; empty when none is left.
  Status last(size_t most, std::vector<Exception>& out);
  // Takes the last COUNT off, durably; they were part of what last() gave.
  Status remove_last(size_t count);

 private:
  PersistentStore(BlockDevice& device, uint64_t chunk_size);
  Status initialise();
  Status write_header(bool valid);
  struct Load {
    uint64_t origin_chunks;
    const Add& add;
  };
  Status read_areas(const Load& load);
  Status take(uint64_t area, uint64_t first, std::span<const std::byte> bytes, const Load& load,
              bool& ended);
  Status check_exception(const Exception& exception, uint64_t area, uint64_t index,
                         uint64_t origin_chunks) const;
  Status look_at_tail();
  Status clean_tail();
  void next_area();
  uint64_t total_chunks() const { return device_.size() / chunk_size_; }
  uint64_t area_offset(uint64_t area) const { return geometry_.area_chunk(area) * chunk_size_; }
  uint64_t per_block() const { return block_size_ / sizeof(DiskException); }

  StoreGeometry geometry_;
  uint64_t block_size_ = 0;  // of the writes within an area

  mutable Mutex mutex_;       // guards the next six
  uint64_t next_free_ = 2;    // where the next data goes
  uint64_t area_ = 0;         // the area that has room
  uint64_t committed_ = 0;    // exceptions in it
  uint64_t uncommitted_ = 0;  // allocated and not committed
  FreeChunks given_back_;
  uint64_t merged_to_ = 0;  // while merging: what usage() calls allocated; 0: next_free_
  // For commits and merging only.
  std::vector<std::byte> block_;  // of the area, the block that holds index committed_
  std::vector<std::byte> staged_;
  OneSlice staged_slice_{std::span<std::byte>()};
  uint64_t staged_count_ = 0;
  bool failed_ = false;
  bool tail_dirty_ = false;
};

}  // namespace volfs::dm
