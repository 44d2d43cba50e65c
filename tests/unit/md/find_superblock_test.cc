// SPDX-License-Identifier: GPL-2.0-or-later
// Which superblock counts on a device that bears two: of arrays on arrays, and of old ones beside.
#include "array_rig.h"

namespace volfs::md {
namespace {

constexpr Uuid outer_uuid{{0x0b}};

// A raid1 of DEVICE and nothing else.
void create_on(BlockDevice& device, SuperblockVersion version, uint64_t ctime) {
  CreateOptions o;
  o.version = version;
  o.raid_disks = 2;
  o.devices = {{.size = device.size()}, {.missing = true}};
  o.device_uuids = {{{1}}, {{2}}};
  o.uuid = outer_uuid;
  o.now = ctime;
  must(write_new_members(must(plan_create(o)), std::vector<BlockDevice*>{&device, nullptr}));
}

TEST_CASE("of an array on an array only the lower one is found on the images") {
  using enum SuperblockVersion;
  const std::pair<SuperblockVersion, SuperblockVersion> cases[] = {
      {v1_0, v1_2}, {v1_0, v1_1}, {v0_90, v1_2}, {v0_90, v1_1}, {v1_2, v0_90}, {v1_2, v1_0}};
  for (const auto& [inner, outer] : cases) {
    INFO(version_name(outer), " on ", version_name(inner));
    Rig rig({1, 0, 2, 0, inner}, 0);
    Array& array = rig.assemble();
    create_on(array, outer, 2000000000);
    const auto on_it = must(scan(array));
    REQUIRE(on_it);
    CHECK(on_it->array.uuid == outer_uuid);
    must(array.stop());
    rig.array.reset();
    const Uuid own = rig.superblock(0).array.uuid;
    CHECK(own != outer_uuid);
    // Whoever asks for the other one does not get it: what is written to one image only parts them.
    const auto asked = must(scan(*rig.faults[0], {.uuid = outer_uuid, .version = outer}));
    REQUIRE(asked);
    CHECK(asked->array.uuid == own);
    CHECK(rig.assemble({rig.faults[0].get()}).status().uuid == own);
  }
}

TEST_CASE(
    "of an old superblock beside the new one it is the new one, unless the old is asked for") {
  for (const SuperblockVersion old : {SuperblockVersion::v1_0, SuperblockVersion::v0_90}) {
    Rig rig({1, 0, 2, 0, old}, 0);
    const Uuid own = rig.superblock(0).array.uuid;
    create_on(*rig.faults[0], SuperblockVersion::v1_2, 2000000000);
    CHECK(must(scan(*rig.faults[0]))->array.uuid == outer_uuid);
    if (old == SuperblockVersion::v0_90) continue;  // it may be that of an array on the other
    CHECK(must(scan(*rig.faults[0], {.uuid = own}))->array.uuid == own);
    CHECK(must(scan(*rig.faults[0], {.version = old}))->array.uuid == own);
    create_on(*rig.faults[1], SuperblockVersion::v1_2, 0);
    CHECK(must(scan(*rig.faults[1], {.version = old}))->array.uuid == own);
  }
}

}  // namespace
}  // namespace volfs::md
