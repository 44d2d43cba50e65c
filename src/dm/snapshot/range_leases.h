// SPDX-License-Identifier: GPL-2.0-or-later
// Which ranges are in use by I/O that was mapped, so that what is under them is not changed
// meanwhile. There are few at a time: as many as requests are under way. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace volfs::dm {

class RangeLeases {
 public:
  // Returns what remove() takes.
  size_t add(uint64_t begin, uint64_t end) {
    size_t slot = free_;
    if (slot == none) {
      slot = leases_.size();
      leases_.push_back({});
    } else {
      free_ = leases_[slot].next_free;
    }
    leases_[slot] = {begin, end, next_number_++, none};
    ++active_;
    return slot;
  }
  void remove(size_t slot) {
    leases_[slot] = {0, 0, 0, free_};
    free_ = slot;
    --active_;
  }
  bool empty() const { return active_ == 0; }
  // Leases added from now on have this number or a higher one.
  uint64_t next_number() const { return next_number_; }
  // Whether one of those numbered below BEFORE overlaps the range.
  bool overlap(uint64_t begin, uint64_t end, uint64_t before) const {
    if (active_ == 0) return false;
    for (const Lease& lease : leases_)
      if (lease.begin < end && begin < lease.end && lease.number < before) return true;
    return false;
  }

 private:
  static constexpr size_t none = ~size_t{0};
  struct Lease {
    uint64_t begin = 0, end = 0;  // empty: the slot is free
    uint64_t number = 0;
    size_t next_free = none;
  };
  std::vector<Lease> leases_;
  size_t free_ = none;
  size_t active_ = 0;
  uint64_t next_number_ = 1;
};

}  // namespace volfs::dm
