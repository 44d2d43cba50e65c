// SPDX-License-Identifier: GPL-2.0-or-later
// Damaged members: whatever a superblock, bitmap or device says, assembly succeeds or tells an
// error with its place; it never crashes, and read-only never writes.
#include <cstring>

#include "array_rig.h"
#include "volfs/endian.h"

namespace volfs::md {
namespace {

using namespace test;

const std::vector<Shape> shapes{
    {5, parity_layout::left_symmetric, 3, 4 * KiB, SuperblockVersion::v1_2, true},
    {1, 0, 2, 0, SuperblockVersion::v1_0, true},
    {10, 0x201, 3, 4 * KiB, SuperblockVersion::v1_1, false},
    {6, parity_layout::ddf_n_continue, 4, 4 * KiB, SuperblockVersion::v0_90, true},
    {0, raid0_layout::original, 2, 4 * KiB, SuperblockVersion::v1_2, false},
    {5, parity_layout::left_symmetric, 3, 4 * KiB, SuperblockVersion::v1_2, false, true, true},
};

uint64_t size_of(const Shape& shape) {
  return shape.ppl ? Rig::disk_size_with_ppl : Rig::disk_size;
}

uint32_t word(std::span<const std::byte> bytes, size_t at) {
  Le32 value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The checksum of a superblock's bytes, put in its place.
void make_right(SuperblockVersion version, std::span<std::byte> bytes) {
  const bool v90 = version == SuperblockVersion::v0_90;
  const size_t field = v90 ? 152 : 216;
  const size_t end = v90 ? superblock_size : 256 + 2 * size_t{word(bytes, 220)};
  if (end > bytes.size()) return;
  uint64_t total = 0;
  for (size_t at = 0; at + 4 <= end; at += 4)
    if (at != field) total += word(bytes, at);
  if (end % 4 != 0) total += word(bytes, end - 2) & 0xffff;
  const Le32 sum = static_cast<uint32_t>(total) + static_cast<uint32_t>(total >> 32);
  std::memcpy(bytes.data() + field, &sum, sizeof sum);
}

// Assembles and reads all; what there is of an error is for people.
void try_out(Rig& rig, bool read_only) {
  ArrayOptions options;
  options.read_only = read_only;
  options.hold_sync = true;
  const auto members = rig.devices();
  auto array = Array::assemble(members, options);
  if (!array) {
    REQUIRE(array.error().text().starts_with("md0: "));
    return;
  }
  std::vector<std::byte> bytes(64 * KiB);
  const uint64_t size = (*array)->size();
  for (uint64_t at = 0; at + bytes.size() <= size && at < MiB; at += bytes.size())
    (void)(*array)->read(at, bytes);
  if (read_only) return;
  bytes.resize(4 * KiB);
  if (size >= bytes.size()) (void)(*array)->write(size - bytes.size(), bytes);
  (void)(*array)->stop();
}

struct Undo {
  Undo(MemoryDevice& d, uint64_t at, uint64_t length)
      : device(d), offset(at), bytes(d.peek(at, length)) {}
  ~Undo() { device.poke(offset, bytes); }
  MemoryDevice& device;
  const uint64_t offset;
  const std::vector<std::byte> bytes;
};

TEST_CASE("no changed byte of one member's superblock makes read-only assembly crash or write") {
  for (const Shape& shape : shapes) {
    CAPTURE(shape.text());
    Rig rig(shape);
    MemoryDevice& disk = *rig.disks[0];
    const uint64_t at = *superblock_offset(shape.version, size_of(shape));
    const Undo undo(disk, at, superblock_size);
    const size_t end = shape.version == SuperblockVersion::v0_90 ? 1024 : 272;
    MemoryDevice before("before", size_of(shape));
    for (size_t byte = 0; byte < end; ++byte)
      for (const unsigned value : {0u, 1u, 0x7fu, 0x80u, 0xffu}) {
        auto bytes = undo.bytes;
        bytes[byte] = static_cast<std::byte>(value);
        make_right(shape.version, bytes);
        disk.poke(at, bytes);
        CAPTURE(byte);
        CAPTURE(value);
        before.copy_from(disk);
        try_out(rig, true);
        REQUIRE(disk.same_contents(before));
      }
  }
}

TEST_CASE("the same change on all members is survived, read-only and to be written") {
  const uint64_t seed = test_seed();
  MESSAGE("VOLFS_SEED=", seed);
  Random random(seed);
  for (const Shape& shape : shapes) {
    CAPTURE(shape.text());
    const Rig fresh(shape);
    const uint64_t at = *superblock_offset(shape.version, size_of(shape));
    const size_t end = shape.version == SuperblockVersion::v0_90 ? 1024 : 272;
    for (uint64_t i = 0; i < test_iterations(400); ++i) {
      Rig rig(shape);
      const size_t byte = random.below(end);
      const auto value = static_cast<std::byte>(random.below(256));
      for (auto& disk : rig.disks) {
        auto bytes = disk->peek(at, superblock_size);
        bytes[byte] = value;
        make_right(shape.version, bytes);
        disk->poke(at, bytes);
      }
      CAPTURE(byte);
      CAPTURE(static_cast<unsigned>(value));
      try_out(rig, random.one_in(2));
    }
  }
}

TEST_CASE("no changed byte of a bitmap makes assembly crash") {
  for (const Shape& shape : {shapes[0], shapes[1], shapes[3]}) {
    CAPTURE(shape.text());
    for (const bool read_only : {true, false})
      for (size_t byte = 0; byte < bitmap_superblock_size + 8; byte += read_only ? 1 : 3)
        for (const unsigned value : {0u, 1u, 0x7fu, 0xffu}) {
          Rig rig(shape);
          const auto sb = must(scan(*rig.faults[0]));
          for (auto& disk : rig.disks) {
            auto bytes = disk->peek(sb->bitmap_position(), 512);
            bytes[byte] = static_cast<std::byte>(value);
            disk->poke(sb->bitmap_position(), bytes);
          }
          CAPTURE(byte);
          CAPTURE(value);
          try_out(rig, read_only);
        }
  }
}

TEST_CASE("members that were cut off are errors with a name, whatever is left of them") {
  for (const Shape& shape : shapes) {
    CAPTURE(shape.text());
    Rig rig(shape);
    for (uint64_t left = 0; left < size_of(shape); left += left < 256 * KiB ? 512 : 61 * KiB) {
      left = round_down(left, 512);
      MemoryDevice cut("cut", left);
      for (uint64_t at = 0; at < left; at += 512) cut.poke(at, rig.disks[0]->peek(at, 512));
      auto members = rig.devices();
      members[0] = &cut;
      CAPTURE(left);
      const auto array = Array::assemble(members, {.read_only = true});
      if (array) {
        // All that the array uses is still there.
        std::vector<std::byte> bytes((*array)->size());
        CHECK((*array)->read(0, bytes));
      } else {
        REQUIRE(array.error().text().starts_with("md0: "));
        REQUIRE(array.error().text().find("cut") != std::string::npos);
      }
    }
  }
}

// Assembles after a change of the second member's superblock; the error.
std::string refusal(const Shape& shape, size_t at, uint64_t value, size_t width, bool sum = true) {
  Rig rig(shape);
  const uint64_t place = *superblock_offset(shape.version, size_of(shape));
  auto bytes = rig.disks[1]->peek(place, superblock_size);
  for (size_t i = 0; i < width; ++i) bytes[at + i] = static_cast<std::byte>(value >> 8 * i);
  if (sum) make_right(shape.version, bytes);
  rig.disks[1]->poke(place, bytes);
  const auto members = rig.devices();
  const auto array = Array::assemble(members, {.read_only = true});
  return array ? "assembled" : array.error().text();
}

TEST_CASE("what is wrong with a member is said with device, place, field and expectation") {
  const Shape raid5 = shapes[0], raid6 = shapes[3];
  const std::string at = "md0: disk1: superblock 1.2 at 4096: md superblock: ";
  CHECK(refusal(raid5, 0, 0, 4) == "md0: disk1 bears no md superblock");
  CHECK(refusal(raid5, 216, 0x12345678, 4, false)
            .starts_with(at + "checksum is 12345678, expected "));
  CHECK(refusal(raid5, 8, 0x2001, 4) ==
        at + "unknown feature bits 0x2000: it needs a newer program");
  CHECK(refusal(raid5, 8, 0x101, 4) == at + "feature bit 0x100: the array is clustered");
  CHECK(refusal(raid5, 144, 16, 8) == at + "super_offset is 16, expected 8, where it was found");
  CHECK(refusal(raid5, 220, 4000, 4) == at + "max_dev is 4000, expected at most 1920");
  CHECK(
      refusal(raid5, 72, 7, 4) ==
      at +
          "level 7 is not supported: expected linear, raid0, raid1, raid4, raid5, raid6 or raid10");
  CHECK(refusal(raid5, 136, 1u << 20, 8) ==
        at + "data_size is 1048576, expected at most 2048 sectors on this device; it has 535822336 "
             "bytes less than what is on it had");
  CHECK(refusal(raid5, 80, 1u << 20, 8) ==
        at + "size is 1048576, expected at most the 2048 sectors of data_size");
  CHECK(refusal(raid5, 224, 513, 4) ==
        at + "logical_block_size is 513, expected 0 or a power of two from 512 to 65536");
  CHECK(refusal(raid5, 252, 1, 1) ==
        at + "padding at byte 228 is 1, expected 0: this may be a new feature");
  // What each says is possible, but not together.
  const std::string differ = "md0: the superblock of disk1 does not match that of disk0: ";
  CHECK(refusal(raid5, 16, 1, 1).find("disk1 belongs to array 015a5a5a:") != std::string::npos);
  CHECK(refusal(raid5, 72, 4, 4) == differ + "level raid4, not raid5");
  CHECK(refusal(raid5, 76, 0, 4) == differ + "layout 0, not 2");
  CHECK(refusal(raid5, 80, 128, 8) == differ + "size 65536, not 131072");
  CHECK(refusal(raid5, 88, 16, 4) == differ + "chunks of 8192 bytes, not 4096");
  CHECK(refusal(raid5, 92, 4, 4) == differ + "4 devices, not 3");
  CHECK(refusal(raid5, 64, 77, 5) == differ + "creation time 77, not 0");
  const std::string old = "md0: disk1: superblock 0.90 at 2031616: md superblock: ";
  CHECK(refusal(raid6, 152, 1, 4, false).starts_with(old + "checksum is 00000001, expected "));
  CHECK(refusal(raid6, 36, 28, 4).starts_with(old + "nr_disks"));
  CHECK(refusal(raid6, 3968, 27, 4).starts_with(old + "this_disk.number"));
  CHECK(refusal(raid6, 8, 92, 4) == old + "version 0, minor is 92, expected 90 or 91");
}

}  // namespace
}  // namespace volfs::md
