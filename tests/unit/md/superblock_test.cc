// SPDX-License-Identifier: GPL-2.0-or-later
// Superblocks that mdadm 4.2 and Linux 7.2 wrote (tests/golden/md), read and written back.
#include <doctest/doctest.h>

#include <cstring>

#include "golden.h"
#include "volfs/endian.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::md;

namespace {

const char* const all_cases[] = {
    "v0_90-raid5-bitmap-spare", "v0_90-raid1-degraded", "v1_0-raid1-bitmap",
    "v1_1-raid6-ddf",           "v1_2-raid5-recovered", "v1_2-raid5-degraded",
    "v1_2-raid1-write-mostly",  "v1_2-raid0-zones",     "v1_2-raid10-far",
    "v1_2-raid5-ppl",           "v1_2-raid1-bad-blocks"};

// Linux 7.2 notes the default logical block size, which older kernels refuse; we write 0 for it.
// The checksum is a sum, so that changes it by as much.
void without_block_size(std::vector<std::byte>& bytes) {
  Le32 size, sum;
  std::memcpy(&size, bytes.data() + 224, 4);
  std::memcpy(&sum, bytes.data() + 216, 4);
  if (size != 512) return;
  uint32_t less = sum;
  less = less >= 512 ? less - 512 : less - 513;
  size = 0;
  sum = less;
  std::memcpy(bytes.data() + 224, &size, 4);
  std::memcpy(bytes.data() + 216, &sum, 4);
}

}  // namespace

TEST_CASE("superblocks of Linux read, and are written back byte for byte") {
  for (const char* name : all_cases) {
    CAPTURE(name);
    golden::Case c = golden::load(name);
    REQUIRE(c.members.size() >= 2);
    for (size_t i = 0; i < c.members.size(); ++i) {
      CAPTURE(i);
      auto member = golden::decode(c, i);
      if (!member) MESSAGE(member.error().text());
      REQUIRE(member);
      CHECK(member->super_offset == c.members[i].find("super")->offset);
      auto bytes = encode_superblock(*member);
      REQUIRE(bytes);
      auto expected = c.members[i].find("super")->bytes;
      if (c.version != SuperblockVersion::v0_90) without_block_size(expected);
      size_t differ = superblock_size;
      for (size_t k = 0; k < superblock_size && differ == superblock_size; ++k)
        if ((*bytes)[k] != expected[k]) differ = k;
      CHECK(differ == superblock_size);
      // And made from nothing, what it says is the same.
      member->raw.clear();
      auto again = decode_superblock(c.version, *encode_superblock(*member), c.members[i].size);
      REQUIRE(again);
      CHECK(again->array.uuid == member->array.uuid);
      CHECK(again->array.roles == member->array.roles);
      CHECK(again->array.geometry == member->array.geometry);
      CHECK(again->data_offset == member->data_offset);
      CHECK(again->data_size == member->data_size);
    }
  }
}

TEST_CASE("a 0.90 superblock with bitmap and spare says what mdadm was told") {
  golden::Case c = golden::load("v0_90-raid5-bitmap-spare");
  auto m = golden::decode(c, 0);
  REQUIRE(m);
  CHECK(m->array.geometry == Geometry{5, parity_layout::left_symmetric, 3, 512 * KiB});
  CHECK(m->array.resync_offset == all_in_sync);
  CHECK(m->data_offset == 0);
  CHECK(m->role() == 0);
  CHECK(golden::decode(c, 2)->role() == 2);
  CHECK(golden::decode(c, 3)->role() == role_spare);
  REQUIRE(m->array.has_bitmap);
  CHECK(m->bitmap_position() == c.members[0].find("bitmap")->offset);
  auto bitmap = decode_bitmap_superblock(c.members[0].find("bitmap")->bytes);
  REQUIRE(bitmap);
  CHECK(bitmap->uuid == m->array.bitmap_uuid());
  CHECK(bitmap->sync_size == m->array.member_size);
  CHECK(bitmap->events == m->array.events);
}

TEST_CASE("a 0.90 superblock of a big-endian machine says the same as the little-endian one") {
  for (const char* name : {"v0_90-raid5-bitmap-spare", "v0_90-raid1-degraded"}) {
    golden::Case c = golden::load(name);
    auto little = golden::decode(c, 0);
    REQUIRE(little);
    auto bytes = c.members[0].find("super")->bytes;
    for (size_t at = 0; at < bytes.size(); at += 4) {
      std::swap(bytes[at], bytes[at + 3]);
      std::swap(bytes[at + 1], bytes[at + 2]);
    }
    for (size_t at : {156, 164})  // events and the checkpoint's: the high word comes first there
      std::swap_ranges(&bytes[at], &bytes[at] + 4, &bytes[at] + 4);
    auto big = decode_superblock(c.version, bytes, c.members[0].size);
    REQUIRE(big);
    CHECK(big->big_endian);
    CHECK(!little->big_endian);
    CHECK(big->array.uuid == little->array.uuid);
    CHECK(big->array.events == little->array.events);
    CHECK(big->array.roles == little->array.roles);
    // It stays of that byte order, and says the same in it.
    const SuperblockBytes written = *encode_superblock(*big);
    CHECK(decode_superblock(c.version, written, c.members[0].size)->big_endian);
    big->big_endian = false;
    CHECK(*encode_superblock(*big) == *encode_superblock(*little));
    CHECK(written != *encode_superblock(*little));
  }
}

TEST_CASE("a member that failed is faulty or missing on the others, and behind them") {
  golden::Case c = golden::load("v1_2-raid5-degraded");
  auto good = golden::decode(c, 0), failed = golden::decode(c, 3);
  REQUIRE(good);
  REQUIRE(failed);
  CHECK(good->array.events > failed->array.events);
  CHECK(good->array.roles.at(failed->dev_number) >= role_faulty);
  CHECK(failed->role() == 3);
  c = golden::load("v0_90-raid1-degraded");
  good = golden::decode(c, 0);
  failed = golden::decode(c, 2);
  REQUIRE(good);
  REQUIRE(failed);
  CHECK(good->array.events > failed->array.events);
  size_t active = 0;
  for (uint16_t role : good->array.roles) active += role < 3;
  CHECK(active == 2);
}

TEST_CASE("a 1.0 superblock has its bitmap before it") {
  golden::Case c = golden::load("v1_0-raid1-bitmap");
  auto m = golden::decode(c, 1);
  REQUIRE(m);
  CHECK(m->array.name == "host:v1_0-raid1-b");
  CHECK(m->bitmap_offset < 0);
  CHECK(m->bitmap_position() == c.members[1].find("bitmap")->offset);
  auto bitmap = decode_bitmap_superblock(c.members[1].find("bitmap")->bytes);
  REQUIRE(bitmap);
  CHECK(bitmap->uuid == m->array.uuid);
  CHECK(m->bitmap_room() >= BitmapGeometry(*bitmap).disk_size());
}

TEST_CASE("write-mostly, PPL, raid0 layout, recovery and bad blocks are read") {
  golden::Case c = golden::load("v1_2-raid1-write-mostly");
  CHECK(!golden::decode(c, 0)->write_mostly);
  CHECK(golden::decode(c, 1)->write_mostly);
  CHECK(decode_bitmap_superblock(c.members[0].find("bitmap")->bytes)->write_behind == 128);
  c = golden::load("v1_2-raid5-ppl");
  CHECK(golden::decode(c, 0)->array.has_ppl);
  CHECK(golden::decode(c, 0)->ppl_position() == 8 * KiB);
  CHECK(golden::decode(c, 0)->ppl_size > 0);
  c = golden::load("v1_2-raid0-zones");
  CHECK(golden::decode(c, 0)->array.geometry.layout == raid0_layout::original);
  CHECK(golden::decode(c, 2)->data_size > golden::decode(c, 0)->data_size);
  c = golden::load("v1_1-raid6-ddf");
  CHECK(golden::decode(c, 0)->array.geometry.layout == parity_layout::ddf_n_continue);
  c = golden::load("v1_2-raid10-far");
  CHECK(layout_name(10, golden::decode(c, 0)->array.geometry.layout) == "f2");
  c = golden::load("v1_2-raid5-recovered");
  CHECK(golden::decode(c, 2)->role() == 2);
  CHECK(golden::decode(c, 2)->dev_number == 3);
  CHECK(!golden::decode(c, 2)->recovery_offset);
}

TEST_CASE("the bad-block log of Linux reads, and reads back as written") {
  golden::Case c = golden::load("v1_2-raid1-bad-blocks");
  auto m = golden::decode(c, 1);
  REQUIRE(m);
  REQUIRE(m->bad_blocks);
  auto log = c.members[1].find("bad-blocks");
  REQUIRE(log != nullptr);
  CHECK(log->offset == m->bad_block_log_position());
  auto ranges = decode_bad_blocks(*m, log->bytes);
  REQUIRE(ranges);
  uint64_t total = 0;
  for (const BadBlockRange& r : *ranges) total += r.length;
  CHECK(total == (8 + 1030) * sector_size);
  CHECK(ranges->front() == BadBlockRange{4200 * sector_size, 8 * sector_size});
  CHECK(*encode_bad_blocks(*m, *ranges) == log->bytes);
  const BadBlockRange one[] = {{9000 * sector_size, 1030 * sector_size}};
  auto split = decode_bad_blocks(*m, *encode_bad_blocks(*m, one));
  REQUIRE(split);
  CHECK(split->size() == 3);
  std::vector<BadBlockRange> many(513, one[0]);
  CHECK(!encode_bad_blocks(*m, many));
  CHECK(!decode_bad_blocks(*m, std::span(log->bytes).first(8)));
  auto broken = log->bytes;
  std::fill(broken.begin() + 1, broken.begin() + 8, std::byte{0xff});
  broken[0] = std::byte{0xfe};
  CHECK(decode_bad_blocks(*m, broken).error().text().find("entry 0") != std::string::npos);
}
