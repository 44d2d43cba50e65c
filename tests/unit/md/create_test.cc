// SPDX-License-Identifier: GPL-2.0-or-later
// Plans of new arrays. The numbers are those of mdadm 4.2.
#include <doctest/doctest.h>

#include <cerrno>

#include "volfs/md/superblock.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::md;

namespace {

CreateOptions options(int32_t level, uint32_t disks, uint64_t size) {
  CreateOptions o;
  o.level = level;
  o.raid_disks = disks;
  o.devices.assign(disks, CreateDevice{.size = size});
  o.device_uuids.resize(disks);
  o.name = "x";
  o.homehost = "host";
  o.now = 1'700'000'000;
  return o;
}

CreatePlan plan(const CreateOptions& o) {
  auto result = plan_create(o);
  if (!result) FAIL(result.error().text());
  return *result;
}

}  // namespace

TEST_CASE("the data offset grows with the devices as mdadm's does") {
  struct {
    uint64_t size, offset;
  } const expected[] = {{64 * MiB, 2 * MiB}, {1 * GiB, 2 * MiB}, {1 * TiB, 129 * MiB}};
  for (auto [size, offset] : expected) {
    CAPTURE(size);
    CHECK(plan(options(5, 3, size)).members[0].member.data_offset == offset);
  }
  auto o = options(1, 2, 1 * GiB);
  o.version = SuperblockVersion::v1_0;
  CHECK(plan(o).members[0].member.data_offset == 0);
}

TEST_CASE("a new raid5 begins with its last slot empty and a spare for it") {
  CreatePlan p = plan(options(5, 3, 64 * MiB));
  REQUIRE(p.members.size() == 3);
  CHECK(p.members[0].member.role() == 0);
  CHECK(p.members[1].member.role() == 1);
  CHECK(p.members[2].device == 2);
  CHECK(p.members[2].member.dev_number == 3);
  CHECK(p.members[2].member.role() == role_spare);
  CHECK(p.members[0].member.array.resync_offset == all_in_sync);
  CHECK(p.array_size == 2 * 62 * MiB);
  auto o = options(5, 3, 64 * MiB);
  o.assume_clean = true;
  CHECK(plan(o).members[2].member.role() == 2);
  o = options(5, 3, 64 * MiB);
  o.force = true;
  CHECK(plan(o).members[2].member.array.resync_offset == 0);
}

TEST_CASE("a bitmap comes by itself above 100 GiB a member, and when asked for") {
  CHECK(!plan(options(1, 2, 100 * GiB)).bitmap);
  CHECK(!plan(options(0, 2, 200 * GiB)).bitmap);
  CreatePlan p = plan(options(1, 2, 101 * GiB));
  REQUIRE(p.bitmap);
  CHECK(p.bitmap->chunk == 64 * MiB);
  CHECK(p.members[0].member.bitmap_position() == 8 * KiB);
  auto o = options(1, 2, 101 * GiB);
  o.bitmap = BitmapChoice::none;
  CHECK(!plan(o).bitmap);
  o = options(10, 3, 64 * MiB);
  o.bitmap = BitmapChoice::internal;
  p = plan(o);
  REQUIRE(p.bitmap);
  CHECK(p.bitmap->sync_size == p.array_size);
  o.bitmap_chunk = 12 * KiB;
  CHECK(!plan_create(o));
}

TEST_CASE("every plan reads back from its own bytes") {
  for (SuperblockVersion version : superblock_versions)
    for (int32_t level : {level_linear, 0, 1, 4, 5, 6, 10})
      for (uint64_t size : {16 * MiB, 64 * MiB + 512, 1 * GiB, 300 * GiB}) {
        auto o = options(level, 4, size);
        o.version = version;
        o.devices[3].size += 3 * MiB;
        if (version == SuperblockVersion::v0_90 && level == 0) o.devices[3].size = size;
        CAPTURE(level);
        CAPTURE(size);
        CAPTURE(version_name(version));
        CreatePlan p = plan(o);
        REQUIRE(p.members.size() == 4);
        CHECK(p.array_size > 0);
        for (const CreatedMember& m : p.members) {
          auto bytes = encode_superblock(m.member);
          REQUIRE(bytes);
          auto back = decode_superblock(version, *bytes, o.devices[m.device].size);
          if (!back) MESSAGE(back.error().text());
          REQUIRE(back);
          CHECK(back->role() == m.member.role());
          CHECK(back->array.name == (version == SuperblockVersion::v0_90 ? "" : "host:x"));
          CHECK(back->array.geometry == m.member.array.geometry);
          if (p.bitmap) CHECK(back->bitmap_room() >= BitmapGeometry(*p.bitmap).disk_size());
        }
      }
}

TEST_CASE("raid0 records its layout only where members differ") {
  CreatePlan p = plan(options(0, 2, 64 * MiB));
  CHECK(p.members[0].member.array.geometry.layout == raid0_layout::unknown);
  auto o = options(0, 2, 64 * MiB);
  o.devices[1].size *= 2;
  CHECK(plan(o).members[0].member.array.geometry.layout == raid0_layout::original);
}

TEST_CASE("without redundancy data ends before the superblock of 1.0, wherever it begins") {
  for (const int32_t level : {0, level_linear}) {
    auto o = options(level, 2, 8 * MiB);
    o.version = SuperblockVersion::v1_0;
    if (level == 0) o.chunk = 64 * KiB;
    for (const uint64_t start : {0 * MiB, 1 * MiB}) {
      o.data_offset = start;
      for (const CreatedMember& each : plan(o).members) {
        const MemberMetadata& m = each.member;
        CHECK(m.data_offset == start);
        CHECK(m.data_offset + m.data_size + m.bad_block_log_size <= m.super_offset);
        const auto back = decode_superblock(o.version, *encode_superblock(m), 8 * MiB);
        if (!back) FAIL(back.error().text());
        CHECK(back->data_size == m.data_size);
      }
    }
  }
}

TEST_CASE("impossible arrays are refused with the reason") {
  auto refused = [](const CreateOptions& o, int code) {
    auto result = plan_create(o);
    REQUIRE(!result);
    CHECK(!result.error().text().empty());
    CHECK(result.error().code() == code);
  };
  refused(options(5, 1, 64 * MiB), EINVAL);
  refused(options(6, 3, 64 * MiB), EINVAL);
  refused(options(1, 2, 1 * MiB), ENOSPC);
  refused(options(5, 3, 0), ENOSPC);
  auto o = options(0, 2, 64 * MiB);
  o.devices[1].missing = true;
  refused(o, EINVAL);
  o = options(1, 2, 64 * MiB);
  o.devices[0].missing = o.devices[1].missing = true;
  refused(o, EINVAL);
  o = options(1, 28, 64 * MiB);
  o.version = SuperblockVersion::v0_90;
  refused(o, EINVAL);
  o = options(1, 2, 64 * MiB);
  o.size = 64 * MiB;
  refused(o, ENOSPC);
  o = options(1, 2, 64 * MiB);
  o.ppl = true;
  refused(o, EINVAL);
  o = options(1, 2, 64 * MiB);
  o.chunk = 64 * KiB;
  refused(o, EINVAL);
}
