// SPDX-License-Identifier: GPL-2.0-or-later
// Where md puts the bytes of an array: pure functions between array offsets and member offsets.
//
// All offsets, sizes and chunks are bytes. A member offset counts from the start of the member's
// data area (its data_offset); a slot is the member's place in the array, [0, raid_disks). A row
// is one chunk on every member: row N of a parity level covers member offsets [N*chunk,
// (N+1)*chunk). Objects are immutable once made, so every function may be called from any thread;
// the functions that map allocate nothing. Offsets beyond size() are the caller's error: the
// results are then meaningless, but nothing is read out of bounds.
//
// Checked against drivers/md/{md-linear,raid0,raid10,raid5}.c of Linux, by reading back arrays
// that Linux 7.2 wrote.
#pragma once

#include <bit>
#include <bitset>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"

namespace volfs::md {

// RAID levels as md numbers them.
inline constexpr int32_t level_faulty = -5;
inline constexpr int32_t level_multipath = -4;
inline constexpr int32_t level_linear = -1;

// No array has more members: what a version 1 superblock has room for.
inline constexpr uint32_t max_slots = 1920;
using SlotSet = std::bitset<max_slots>;
inline constexpr uint32_t no_slot = UINT32_MAX;

// What decides the placement, as superblocks record it. `chunk` is 0 for raid1 and may be 0
// (no rounding) for linear.
struct Geometry {
  int32_t level = 0;
  uint32_t layout = 0;
  uint32_t raid_disks = 0;
  uint64_t chunk = 0;
  bool operator==(const Geometry&) const = default;
};

// Whether Linux would accept the geometry; the error names what is wrong and what is expected.
// Levels without data of their own (multipath, faulty) are refused.
Status check_geometry(const Geometry& geometry);

// "raid5" for 5; "level 7" for a number md has no name for.
std::string level_name(int32_t level);
// Accepts what mdadm does: "raid5", "5", "stripe", "mirror", "linear"...
Result<int32_t> parse_level(std::string_view name);

// mdadm's names. raid5 and raid6: "left-symmetric", "ddf-N-restart"...; raid0: "original",
// "alternate", "dangerous" (not recorded); raid10: "n2", "f2", "o3", combined as "n2f2", with
// "-sets" appended for the far-sets variant and "-sets-old" for its first, different form. A
// layout without a name is written as a number. Levels with no choice have one name, "-".
std::string layout_name(int32_t level, uint32_t layout);
// Accepts the names above, mdadm's abbreviations ("ls") and "default".
Result<uint32_t> parse_layout(int32_t level, std::string_view name);
// What mdadm chooses when nothing is said (left-symmetric, n2, original, else 0).
uint32_t default_layout(int32_t level);

// Of at least one slot, in a sentence: "slot 1 is", "slots 0, 2 are".
std::string slots_are(const SlotSet& slots);

// Layout numbers (raid5 and raid6).
namespace parity_layout {
inline constexpr uint32_t left_asymmetric = 0, right_asymmetric = 1, left_symmetric = 2,
                          right_symmetric = 3, parity_first = 4, parity_last = 5;
inline constexpr uint32_t ddf_zero_restart = 8, ddf_n_restart = 9, ddf_n_continue = 10;
inline constexpr uint32_t left_asymmetric_6 = 16, right_asymmetric_6 = 17, left_symmetric_6 = 18,
                          right_symmetric_6 = 19, parity_first_6 = 20;
}  // namespace parity_layout

// Layout numbers of raid0 with members of different sizes. Linux 3.14 changed the placement by
// mistake, so an array must say which it uses; "unknown" is refused for such arrays.
namespace raid0_layout {
inline constexpr uint32_t unknown = 0, original = 1, alternate = 2;
}

// One place on a member and how many bytes continue there without a break.
struct Place {
  uint32_t slot = no_slot;
  uint64_t offset = 0;
  uint64_t length = 0;
  bool operator==(const Place&) const = default;
};

using VisitPart = std::function<void(uint32_t slot, uint64_t offset, uint64_t length)>;

// Whether every byte of the array is still held by, or can be computed from, the other members.
// For raid10 this is the truth of the layout; Linux itself refuses a few survivable far-sets
// combinations. The geometry must be valid (check_geometry).
bool survives(const Geometry& geometry, const SlotSet& missing);

// Size of the array when each member gives `member_size` bytes; for linear and raid0 with equal
// members. The geometry must be valid.
uint64_t array_size(const Geometry& geometry, uint64_t member_size);
// What a raid0 gets of a member: Linux cuts the bits of a chunk less a sector off, which is more
// than rounding down to a chunk if that is no power of two.
uint64_t raid0_share(uint64_t member_size, uint64_t chunk);

// ---- linear: members one after the other -------------------------------------------------
class LinearLayout {
 public:
  // `member_sizes` by slot; each is rounded down to `rounding` (the chunk; 0 is none).
  static Result<LinearLayout> make(std::span<const uint64_t> member_sizes, uint64_t rounding);

  uint64_t size() const { return ends_.back(); }
  Place map(uint64_t offset) const;
  // The same of a range within size(), in as few parts as there can be and in any order:
  // PART(slot, offset, length).
  void for_each_part(uint64_t offset, uint64_t length, const VisitPart& part) const;
  // Array offset that a member byte holds; nothing beyond the part of the member in use.
  std::optional<uint64_t> array_offset(uint32_t slot, uint64_t offset) const;

 private:
  std::vector<uint64_t> ends_;
};

// ---- raid0: stripes, over zones when the members differ in size --------------------------
class Raid0Layout {
 public:
  // `member_sizes` by slot; each is rounded down to the chunk, which need not be a power of two.
  // Where it is none the array ends somewhat before its last zone, as Linux counts.
  // `layout` is raid0_layout::original or alternate; unknown only if all members are equal.
  static Result<Raid0Layout> make(std::span<const uint64_t> member_sizes, uint64_t chunk,
                                  uint32_t layout);

  uint64_t size() const { return size_; }
  uint64_t chunk() const { return chunk_; }
  size_t zone_count() const { return zones_.size(); }
  Place map(uint64_t offset) const;
  void for_each_part(uint64_t offset, uint64_t length, const VisitPart& part) const;  // as above
  std::optional<uint64_t> array_offset(uint32_t slot, uint64_t offset) const;

 private:
  struct Zone {
    uint64_t start, end;    // in the array
    uint64_t member_start;  // on each of its members
    uint64_t member_end;
    std::vector<uint32_t> slots;
    uint64_t turn;  // which of slots holds the first chunk
  };
  uint64_t chunk_ = 0, size_ = 0;
  std::vector<Zone> zones_;
};

// ---- raid4, raid5, raid6 ------------------------------------------------------------------
// Parity and the order of the data of one row.
struct RowShape {
  uint32_t p = no_slot;
  uint32_t q = no_slot;  // no_slot but in raid6
  uint32_t first = 0;    // slot of data chunk 0 when the order is cyclic
  uint32_t modulus = 0;  // 0: data lie in ascending slots; else in first, first+1, ... modulo this
};

enum class RowRole : uint8_t { data, p, q };

class ParityLayout {
 public:
  // Level 4, 5 or 6; chunk a power of two of at least 4 KiB.
  static Result<ParityLayout> make(const Geometry& geometry);

  uint32_t disks() const { return disks_; }
  uint32_t data_disks() const { return disks_ - parity_disks_; }
  uint32_t parity_disks() const { return parity_disks_; }
  uint64_t chunk() const { return uint64_t{1} << chunk_shift_; }
  // Array bytes in a row.
  uint64_t row_size() const { return uint64_t{data_disks()} << chunk_shift_; }
  uint64_t array_size(uint64_t member_size) const {
    return (member_size >> chunk_shift_) * row_size();
  }

  RowShape shape(uint64_t row) const;
  // Slot of data chunk `index` ([0, data_disks())) of a row.
  uint32_t data_slot(const RowShape& s, uint32_t index) const {
    if (s.modulus != 0) {
      uint32_t slot = s.first + index;
      return slot >= s.modulus ? slot - s.modulus : slot;
    }
    uint32_t low = s.p < s.q ? s.p : s.q, high = s.p < s.q ? s.q : s.p, slot = index;
    if (slot >= low) ++slot;
    if (slot >= high) ++slot;
    return slot;
  }
  // Data chunk a slot holds in a row; the slot must not be one of parity.
  uint32_t data_index(const RowShape& s, uint32_t slot) const {
    if (s.modulus != 0) return slot >= s.first ? slot - s.first : slot + s.modulus - s.first;
    return slot - (slot > s.p) - (slot > s.q && s.q != no_slot);
  }
  static RowRole role(const RowShape& s, uint32_t slot) {
    return slot == s.p ? RowRole::p : slot == s.q ? RowRole::q : RowRole::data;
  }

  // Q is the sum of 2^i times the chunk with syndrome index i. That order is not the order of the
  // data: md counts slots from the one after Q, the DDF layouts count all slots, the parity ones
  // included as if they were zeroes. Indices are below syndrome_count().
  uint32_t syndrome_count() const { return ddf_ ? disks_ : data_disks(); }
  uint32_t syndrome_index(const RowShape& s, uint32_t slot) const {
    if (ddf_) return slot;
    uint32_t start = s.q + 1 == disks_ ? 0 : s.q + 1;
    uint32_t distance = slot >= start ? slot - start : slot + disks_ - start;
    uint32_t p_distance = s.p >= start ? s.p - start : s.p + disks_ - start;
    return distance - (p_distance < distance);
  }

  struct DataPlace {
    uint64_t row;
    uint32_t index;  // of the data chunk in the row
    uint32_t slot;
    uint64_t offset;  // on the member
    uint64_t length;  // to the end of the chunk
  };
  DataPlace map(uint64_t offset) const {
    uint64_t number = offset >> chunk_shift_, within = offset & (chunk() - 1);
    uint64_t row = number / data_disks();
    auto index = static_cast<uint32_t>(number % data_disks());
    return {row, index, data_slot(shape(row), index), (row << chunk_shift_) + within,
            chunk() - within};
  }
  // Array offset a member byte holds; nothing where it is parity.
  std::optional<uint64_t> array_offset(uint32_t slot, uint64_t offset) const;
  uint64_t array_offset_of(uint64_t row, uint32_t index) const {
    return (row * data_disks() + index) << chunk_shift_;
  }

 private:
  uint32_t disks_ = 0, parity_disks_ = 0, algorithm_ = 0, chunk_shift_ = 0;
  bool ddf_ = false;
};

// ---- raid10 -------------------------------------------------------------------------------
class Raid10Layout {
 public:
  // layout: near copies | far copies << 8 | offset << 16 | far sets << 17 (1 the first form, 2
  // the one mdadm documents). `member_size` is what each member gives; it fixes where the second
  // copies of a far layout lie. Refused: a combination that Linux itself maps ambiguously.
  static Result<Raid10Layout> make(const Geometry& geometry, uint64_t member_size);

  uint32_t disks() const { return disks_; }
  uint32_t copies() const { return near_ * far_; }
  uint32_t near_copies() const { return near_; }
  uint32_t far_copies() const { return far_; }
  uint64_t chunk() const { return uint64_t{1} << chunk_shift_; }
  uint64_t size() const { return size_; }
  // Bytes of each member that hold anything.
  uint64_t used_member_size() const { return used_; }

  // Writes copies() places to `out` (which has that many); the first is the one md reads first.
  void map(uint64_t offset, Place* out) const;
  struct Inverse {
    uint64_t array_offset;
    uint32_t copy;  // which of map()'s places this is
  };
  std::optional<Inverse> array_offset(uint32_t slot, uint64_t offset) const;
  bool survives(const SlotSet& missing) const;

 private:
  uint32_t next_far(uint32_t slot) const;
  bool far_is_permutation() const;

  uint32_t disks_ = 0, near_ = 1, far_ = 1, chunk_shift_ = 0, far_set_size_ = 0;
  bool offset_ = false;
  uint64_t stride_ = 0, size_ = 0, used_ = 0;
};

}  // namespace volfs::md
