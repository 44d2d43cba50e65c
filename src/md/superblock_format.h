// SPDX-License-Identifier: GPL-2.0-or-later
// How the state of an array is written on a member. md's own superblocks are one way; dm-raid's,
// whose members have a device of their own for it, another.
#pragma once

#include <vector>

#include "volfs/md/superblock.h"

namespace volfs::md {

class SuperblockFormat {
 public:
  struct Image {
    uint64_t offset;  // on the member's metadata device
    std::vector<std::byte> bytes;
  };
  virtual ~SuperblockFormat() = default;
  virtual Result<Image> encode(const MemberMetadata& member) const = 0;
  // Whether members have numbers by their slot only (0.90).
  virtual bool numbers_by_slot() const = 0;
  // Whether an array that is not whole may be recorded as one that was not stopped cleanly. Linux
  // would then not start a dm-raid of the parity levels any more, and nobody could make it.
  virtual bool tells_dirty_when_degraded() const = 0;
};

class MdSuperblockFormat final : public SuperblockFormat {
 public:
  explicit MdSuperblockFormat(SuperblockVersion version) : version_(version) {}
  Result<Image> encode(const MemberMetadata& member) const override {
    VOLFS_TRY_ASSIGN(const SuperblockBytes bytes, encode_superblock(member));
    const auto size = static_cast<std::ptrdiff_t>(superblock_write_size(member));
    return Image{member.super_offset, {bytes.begin(), bytes.begin() + size}};
  }
  bool numbers_by_slot() const override { return version_ == SuperblockVersion::v0_90; }
  bool tells_dirty_when_degraded() const override { return true; }

 private:
  const SuperblockVersion version_;
};

class DmRaidSuperblockFormat final : public SuperblockFormat {
 public:
  Result<Image> encode(const MemberMetadata& member) const override {
    VOLFS_TRY_ASSIGN(const SuperblockBytes bytes, encode_superblock(member));
    return Image{member.super_offset, {bytes.begin(), bytes.end()}};
  }
  bool numbers_by_slot() const override { return false; }
  bool tells_dirty_when_degraded() const override { return false; }
};

}  // namespace volfs::md
