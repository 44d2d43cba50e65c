// SPDX-License-Identifier: GPL-2.0-or-later
// Where the bytes of a range live: what BlockDevice::map answers. A mapping is a list of extents
// that together cover the range, and the leases that keep them true: as long as the
// mapping lives, no table is swapped and no chunk moved under it.
#pragma once

#include <cstdint>
#include <span>

#include "volfs/inline_vector.h"

namespace volfs {

class BlockDevice;

enum class Op : uint8_t { read, write, discard, write_zeroes };

struct Extent {
  enum class Kind : uint8_t {
    device,  // bytes of `device` from `offset`: an image, or a device that works by itself
    zero,    // reads as zeros; what is written is dropped
    error,   // fails with `error`
  };
  BlockDevice* device = nullptr;
  uint64_t offset = 0;
  uint64_t length = 0;
  Kind kind = Kind::device;
  int error = 0;  // an errno, for Kind::error
};

// What a mapping may hold on to until the I/O is done.
class LeaseOwner {
 public:
  // Called once for each Mapping::hold, with its arguments, by whichever thread ends the mapping.
  virtual void release(uint64_t a, uint64_t b) = 0;

 protected:
  ~LeaseOwner() = default;
};

// How to map a read. Careful: the bytes could not be read where they live, so a device that knows
// another way to them (a mirror, parity) must answer with itself.
enum class Care : bool { no, yes };

// Whether the extents follow each other as the bytes of the range do. For what moves no data they
// need not, and a device that deals its bytes out in turn answers with one extent for each device
// below, however many chunks the range has.
enum class Order : bool { kept, any };

class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(Order order) : unordered_(order == Order::any) {}
  explicit Mapping(Care care) : careful_(care == Care::yes) {}
  ~Mapping() { clear(); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Forgets the extents and releases the leases, the last first.
  void clear();
  // Append to the range; an extent that continues the last one joins it. Length 0 adds nothing.
  void add(BlockDevice& device, uint64_t offset, uint64_t length);
  void add_zero(uint64_t length);
  void add_error(int error, uint64_t length);
  void hold(LeaseOwner& owner, uint64_t a = 0, uint64_t b = 0);
  // Whether there is a lease of OWNER. Who meets a gate again, through which the mapping came
  // already, is inside: to wait for it to open would be to wait for oneself.
  bool holds(const LeaseOwner& owner) const;

  std::span<const Extent> extents() const { return extents_; }
  uint64_t length() const { return length_; }
  bool careful() const { return careful_; }
  bool unordered() const { return unordered_; }

 private:
  struct Lease {
    LeaseOwner* owner;
    uint64_t a, b;
  };
  void append(const Extent& extent);
  InlineVector<Extent, 24> extents_;
  InlineVector<Lease, 8> leases_;
  uint64_t length_ = 0;
  const bool careful_ = false;
  const bool unordered_ = false;
};

}  // namespace volfs
