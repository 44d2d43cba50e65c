// SPDX-License-Identifier: GPL-2.0-or-later
// Each field of a superblock changed, one a test: the error names it.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "golden.h"
#include "volfs/endian.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::md;

namespace {

uint32_t word(std::span<const std::byte> bytes, size_t at) {
  Le32 value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// A superblock to break: the checksum is made right again unless that is what breaks.
struct Patient {
  explicit Patient(const char* name, size_t member = 0) : c(golden::load(name)) {
    bytes = c.members.at(member).find("super")->bytes;
    size = c.members[member].size;
  }
  Patient& put(size_t at, uint64_t value, size_t width) {
    for (size_t i = 0; i < width; ++i) bytes[at + i] = static_cast<std::byte>(value >> 8 * i);
    return *this;
  }
  Patient& put16(size_t at, uint16_t value) { return put(at, value, 2); }
  Patient& put32(size_t at, uint32_t value) { return put(at, value, 4); }
  Patient& put64(size_t at, uint64_t value) { return put(at, value, 8); }
  Patient& sum() {
    bool v90 = c.version == SuperblockVersion::v0_90;
    size_t field = v90 ? 152 : 216;
    size_t end = v90 ? 4096 : 256 + 2 * word(bytes, 220);
    uint64_t total = 0;
    for (size_t at = 0; at + 4 <= end && end <= 4096; at += 4)
      if (at != field) total += word(bytes, at);
    return put32(field, static_cast<uint32_t>(total) + static_cast<uint32_t>(total >> 32));
  }
  Result<MemberMetadata> decode() const { return decode_superblock(c.version, bytes, size); }
  golden::Case c;
  std::vector<std::byte> bytes;
  uint64_t size;
};

void refuses(Patient& p, const char* name, int code = EINVAL) {
  auto result = p.sum().decode();
  REQUIRE(!result);
  CAPTURE(result.error().text());
  CHECK(result.error().text().find(name) != std::string::npos);
  CHECK(result.error().code() == code);
}

Patient raid5() {
  return Patient("v1_2-raid5-recovered");
}
Patient raid1() {
  return Patient("v1_2-raid1-write-mostly");
}
Patient raid1_end() {
  return Patient("v1_0-raid1-bitmap");
}
Patient old() {
  return Patient("v0_90-raid5-bitmap-spare");
}

}  // namespace

#define FIELD_TEST(field, patient, ...)                         \
  TEST_CASE("a superblock with a wrong " field " is refused") { \
    refuses(patient, __VA_ARGS__);                              \
  }

TEST_CASE("a superblock with a wrong magic is none") {
  auto result = raid5().put32(0, 1).decode();
  REQUIRE(!result);
  CHECK(result.error().code() == ENODATA);
}
TEST_CASE("a superblock with a wrong major version is none") {
  CHECK(raid5().put32(4, 2).decode().error().code() == ENODATA);
  CHECK(old().put32(4, 1).decode().error().code() == ENODATA);
}
TEST_CASE("a superblock with a wrong checksum is refused") {
  for (size_t at : {16, 40, 100, 216, 260}) {
    Patient p = raid5();
    p.bytes[at] ^= std::byte{1};
    CHECK(p.decode().error().text().find("checksum") != std::string::npos);
  }
}
TEST_CASE("unknown feature bits are refused by name") {
  refuses(raid5().put32(8, 0x2000), "0x2000", ENOTSUP);
  refuses(raid5().put32(8, 0x80000000), "0x80000000", ENOTSUP);
  refuses(raid5().put32(8, 0x100), "clustered", ENOTSUP);
}
FIELD_TEST("pad0", raid5().put32(12, 1), "pad0")
FIELD_TEST("padding", raid5().put32(252, 1), "padding")
FIELD_TEST("level", raid5().put32(72, 7), "level 7")
FIELD_TEST("layout", raid5().put32(76, 6), "layout 6")
FIELD_TEST("size", raid5().put64(80, 1u << 20), "size")
FIELD_TEST("size of nothing", raid5().put64(80, 0), "size is 0")
FIELD_TEST("size beyond all devices", raid5().put64(80, ~uint64_t{0}), "size")
FIELD_TEST("chunk", raid5().put32(88, 3), "chunk")
FIELD_TEST("raid_disks", raid5().put32(92, 5000), "5000 members")
FIELD_TEST("raid_disks of nothing", raid5().put32(92, 0), "0 members")
FIELD_TEST("raid_disks below its roles", raid5().put32(92, 2), "role of device")
FIELD_TEST("data_offset", raid5().put64(128, 8), "data_offset")
FIELD_TEST("data_offset beyond the device", raid5().put64(128, 1u << 20), "data_size")
FIELD_TEST("data_offset beyond all devices", raid5().put64(128, uint64_t{1} << 60), "data_offset")
FIELD_TEST("data_size", raid5().put64(136, 1u << 20), "data_size")
FIELD_TEST("data_size that is tiny", raid5().put64(136, 9), "data_size")
FIELD_TEST("super_offset", raid5().put64(144, 16), "super_offset")
FIELD_TEST("recovery_offset", raid5().put64(152, uint64_t{1} << 60), "recovery_offset")
FIELD_TEST("bitmap_offset onto the superblock", raid1().put32(96, 0), "bitmap")
FIELD_TEST("bitmap_offset into the data", raid1().put32(96, 4096), "bitmap")
FIELD_TEST("bitmap_offset before the device", raid1().put32(96, 0xffff0000), "before the device")
FIELD_TEST("bitmap_offset behind the device", raid1_end().put32(96, 0x100000), "beyond the device")
FIELD_TEST("bblog_size", raid5().put16(186, 9), "bblog_size")
FIELD_TEST("bblog_shift", raid5().put(185, 60, 1), "bblog_shift")
FIELD_TEST("bblog_offset", raid5().put32(188, 0x700000), "bad-block log")
FIELD_TEST("bad-block bit without a log", raid5().put32(8, 8).put16(186, 0), "bad blocks")
FIELD_TEST("max_dev", raid5().put32(220, 1921), "max_dev")
FIELD_TEST("resync_offset", raid5().put64(208, uint64_t{1} << 60), "resync_offset")
FIELD_TEST("logical_block_size", raid5().put32(224, 513), "logical_block_size")
FIELD_TEST("role", raid5().put16(256, 77), "role of device 0")
FIELD_TEST("reshape position", raid5().put32(8, 4).put64(104, uint64_t{1} << 61),
           "reshape_position")
FIELD_TEST("delta_disks", raid5().put32(8, 4).put32(112, 100000), "delta_disks")
FIELD_TEST("PPL beside a bitmap", raid5().put32(8, 1024 | 1), "PPL")
FIELD_TEST("PPL of two kinds", raid5().put32(8, 1024 | 2048), "PPL")
FIELD_TEST("PPL size", raid5().put32(8, 1024).put32(96, 8), "ppl.size")
FIELD_TEST("raid0 layout bit", raid5().put32(8, 4096), "0x1000")
FIELD_TEST("bitmap bit of raid0", Patient("v1_2-raid0-zones").put32(8, 4096 | 1), "bitmap")

FIELD_TEST("minor version in 0.90", old().put32(8, 89), "minor")
FIELD_TEST("level in 0.90", old().put32(28, 7), "level 7")
FIELD_TEST("size in 0.90", old().put32(32, 1u << 30), "size")
FIELD_TEST("size of nothing in 0.90", old().put32(32, 0), "size is 0")
FIELD_TEST("nr_disks in 0.90", old().put32(36, 28), "nr_disks")
FIELD_TEST("raid_disks in 0.90", old().put32(40, 28), "raid_disks")
FIELD_TEST("not_persistent in 0.90", old().put32(48, 1), "not_persistent")
FIELD_TEST("layout in 0.90", old().put32(256, 99), "layout 99")
FIELD_TEST("chunk in 0.90", old().put32(260, 1000), "chunk")
FIELD_TEST("role in 0.90", old().put32(512 + 12, 27), "role of device 0")
FIELD_TEST("own number in 0.90", old().put32(3968, 27), "this_disk.number")
FIELD_TEST("reshape position in 0.90", old().put32(8, 91).put64(176, uint64_t{1} << 61),
           "reshape_position")
FIELD_TEST("delta_disks in 0.90", old().put32(8, 91).put32(188, 28), "delta_disks")
TEST_CASE("a 0.90 superblock with a wrong checksum is refused") {
  Patient p = old();
  p.bytes[20] ^= std::byte{1};
  CHECK(p.decode().error().text().find("checksum") != std::string::npos);
}

TEST_CASE("a dev_number outside the roles table makes a spare, as in Linux") {
  auto m = raid5().put32(160, 5000).sum().decode();
  REQUIRE(m);
  CHECK(m->role() == role_spare);
}

TEST_CASE("truncated superblocks and devices are refused") {
  for (Patient p : {raid5(), raid1_end(), old()}) {
    for (size_t n : {0, 1, 7, 255, 4095})
      CHECK(!decode_superblock(p.c.version, std::span(p.bytes).first(n), p.size));
    for (uint64_t size : {uint64_t{0}, uint64_t{512}, uint64_t{64 * KiB}, p.size / 2})
      CHECK(!decode_superblock(p.c.version, p.bytes, size));
  }
}

TEST_CASE("no changed byte makes the decoder do anything but succeed or fail") {
  for (Patient p : {raid5(), raid1(), raid1_end(), old()}) {
    size_t end = p.c.version == SuperblockVersion::v0_90 ? 1024 : 512;
    for (size_t at = 0; at < end; ++at)
      for (unsigned value : {0u, 1u, 0x7fu, 0x80u, 0xffu}) {
        Patient q = p;
        q.put(at, value, 1).sum();
        auto result = q.decode();
        if (!result) {
          REQUIRE(!result.error().text().empty());
        } else {
          REQUIRE(encode_superblock(*result));
        }
      }
  }
}

TEST_CASE("superblock positions are md's") {
  CHECK(superblock_offset(SuperblockVersion::v1_2, 1 * MiB) == 4 * KiB);
  CHECK(superblock_offset(SuperblockVersion::v1_1, 1 * MiB) == 0);
  CHECK(superblock_offset(SuperblockVersion::v1_0, 1 * MiB) == 1 * MiB - 8 * KiB);
  CHECK(superblock_offset(SuperblockVersion::v1_0, 1 * MiB + 3584) == 1 * MiB - 8 * KiB);
  CHECK(superblock_offset(SuperblockVersion::v0_90, 1 * MiB) == 1 * MiB - 64 * KiB);
  CHECK(superblock_offset(SuperblockVersion::v0_90, 1 * MiB + 65535) == 1 * MiB - 64 * KiB);
  CHECK(!superblock_offset(SuperblockVersion::v1_2, 11 * KiB));
  CHECK(!superblock_offset(SuperblockVersion::v0_90, 127 * KiB));
  for (SuperblockVersion v : superblock_versions) CHECK(*parse_version(version_name(v)) == v);
  CHECK(!parse_version("2.0"));
}

TEST_CASE("what 0.90 cannot say is refused when written") {
  auto m = *old().decode();
  m.data_offset = 1 * MiB;
  CHECK(!encode_superblock(m));
  m = *old().decode();
  m.array.member_size = 5 * TiB;
  CHECK(!encode_superblock(m));
  m = *raid5().decode();
  m.array.name = std::string(33, 'x');
  CHECK(!encode_superblock(m));
  m = *raid5().decode();
  m.array.roles.resize(1921);
  CHECK(!encode_superblock(m));
}

TEST_CASE("reshape fields are read and kept") {
  auto m = raid5()
               .put32(8, 4 | 64)
               .put32(100, 6)
               .put64(104, 2048)
               .put32(112, 1)
               .put32(116, 2)
               .put32(120, 128)
               .put32(124, 0xfffffff8)
               .sum()
               .decode();
  REQUIRE(m);
  REQUIRE(m->array.reshape);
  CHECK(*m->array.reshape == Reshape{1 * MiB, 6, 1, 2, 64 * KiB, -4096, false});
  auto again = decode_superblock(SuperblockVersion::v1_2, *encode_superblock(*m), 24 * MiB);
  REQUIRE(again);
  CHECK(again->array.reshape == m->array.reshape);
}
