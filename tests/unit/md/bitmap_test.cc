// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>

#include <cerrno>
#include <functional>

#include "volfs/md/bitmap.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::md;

namespace {

BitmapSuperblock sample() {
  BitmapSuperblock sb;
  sb.uuid = *parse_uuid("01234567:89abcdef:00112233:44556677");
  sb.events = 77;
  sb.events_cleared = 70;
  sb.sync_size = 1000 * MiB;
  sb.chunk = 64 * MiB;
  sb.write_behind = 256;
  return sb;
}

// The error a changed byte at `at` gives.
std::string error_with(size_t at, std::initializer_list<unsigned> bytes) {
  auto raw = encode_bitmap_superblock(sample());
  for (unsigned b : bytes) raw[at++] = static_cast<std::byte>(b);
  auto result = decode_bitmap_superblock(raw);
  REQUIRE(!result);
  return result.error().text();
}

bool names(const std::string& text, const char* word) {
  return text.find(word) != std::string::npos;
}

}  // namespace

TEST_CASE("a bitmap superblock reads back as written") {
  auto sb = decode_bitmap_superblock(encode_bitmap_superblock(sample()));
  REQUIRE(sb);
  CHECK(sb->version == 4);
  CHECK(sb->uuid == sample().uuid);
  CHECK(sb->events == 77);
  CHECK(sb->events_cleared == 70);
  CHECK(sb->sync_size == 1000 * MiB);
  CHECK(sb->chunk == 64 * MiB);
  CHECK(sb->daemon_sleep == 5);
  CHECK(sb->write_behind == 256);
  CHECK(!sb->stale);
}

TEST_CASE("bytes of a bitmap superblock that have no meaning to us are kept") {
  auto raw = encode_bitmap_superblock(sample());
  raw[200] = std::byte{42};
  raw[51] = std::byte{0x80};
  auto sb = decode_bitmap_superblock(raw);
  REQUIRE(sb);
  sb->stale = true;
  auto again = encode_bitmap_superblock(*sb);
  CHECK(again[48] == std::byte{2});
  again[48] = raw[48];
  CHECK(again == raw);
}

TEST_CASE("a bitmap with a wrong magic is no bitmap") {
  auto raw = encode_bitmap_superblock(sample());
  raw[0] = std::byte{0};
  CHECK(decode_bitmap_superblock(raw).error().code() == ENODATA);
}
TEST_CASE("a bitmap with a wrong version is refused") {
  CHECK(names(error_with(4, {5}), "cluster"));
  CHECK(names(error_with(4, {6}), "version 6"));
  CHECK(names(error_with(4, {0}), "version 0"));
}
TEST_CASE("a bitmap with a wrong chunksize is refused") {
  CHECK(names(error_with(52, {0, 0, 0, 0}), "chunksize"));
  CHECK(names(error_with(52, {0, 0, 0, 3}), "chunksize"));
  CHECK(names(error_with(52, {0, 1, 0, 0}), "chunksize 256"));
}
TEST_CASE("a bitmap with a wrong daemon_sleep is refused") {
  CHECK(names(error_with(56, {0}), "daemon_sleep"));
  CHECK(names(error_with(56, {255, 255, 255, 255}), "daemon_sleep"));
}
TEST_CASE("a bitmap with a wrong write_behind is refused") {
  CHECK(names(error_with(60, {0, 0x40}), "write_behind"));
}
TEST_CASE("a bitmap with a wrong sync_size is refused") {
  CHECK(names(error_with(40, {0, 0, 0, 0}), "sync_size"));
  CHECK(names(error_with(47, {0xff}), "sync_size"));
}
TEST_CASE("a bitmap that does not fit its reservation is refused") {
  auto sb = sample();
  sb.sync_size = 1024 * GiB;
  sb.chunk = 64 * MiB;  // 16384 bits, 2048 bytes and the superblock
  sb.reserved = 8 * sector_size;
  CHECK(decode_bitmap_superblock(encode_bitmap_superblock(sb)));
  sb.reserved = 4 * sector_size;
  auto result = decode_bitmap_superblock(encode_bitmap_superblock(sb));
  REQUIRE(!result);
  CHECK(names(result.error().text(), "sectors_reserved"));
}
TEST_CASE("a truncated bitmap superblock is refused") {
  auto raw = encode_bitmap_superblock(sample());
  for (size_t n : {0, 1, 64, 255}) CHECK(!decode_bitmap_superblock(std::span(raw).first(n)));
}

TEST_CASE("bits cover the synced range without gap or overlap") {
  BitmapGeometry g(1000 * MiB + 512, 64 * MiB);
  CHECK(g.bits() == 16);
  CHECK(g.disk_size() == 258);
  for (uint64_t bit = 0; bit < g.bits(); ++bit) {
    CHECK(g.bit_of(g.start_of(bit)) == bit);
    CHECK(g.bit_of(g.end_of(bit) - 1) == bit);
    if (bit > 0) CHECK(g.start_of(bit) == g.end_of(bit - 1));
  }
  CHECK(g.end_of(15) == 1000 * MiB + 512);
  CHECK(BitmapGeometry::byte_of(9) == 257);
  CHECK(BitmapGeometry::mask_of(9) == 2);
}

TEST_CASE("uuids read as mdadm prints them") {
  auto uuid = parse_uuid("01234567:89abcdef:00112233:44556677");
  REQUIRE(uuid);
  CHECK(uuid->bytes[0] == 1);
  CHECK(format_uuid(*uuid) == "01234567:89abcdef:00112233:44556677");
  CHECK(*parse_uuid("01234567-89AB-cdef-0011-223344556677") == *uuid);
  CHECK(!parse_uuid("0123"));
  CHECK(!parse_uuid("01234567:89abcdef:00112233:445566778"));
  CHECK(!parse_uuid("g1234567:89abcdef:00112233:44556677"));
}
