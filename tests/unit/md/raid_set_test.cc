// SPDX-License-Identifier: GPL-2.0-or-later
// Sets whose members keep their state in dm-raid's superblock on devices of their own.
#include "volfs/md/raid_set.h"

#include <cstring>

#include "array_rig.h"

namespace volfs::md {
namespace {

constexpr uint64_t set_size = 192 * KiB, metadata_device = 64 * KiB;

// Metadata and data devices, and a set over them.
struct SetRig {
  explicit SetRig(int32_t level = 5, uint32_t layout = parity_layout::left_symmetric,
                  uint32_t disks = 4) {
    set.geometry = {level, layout, disks, level == 1 ? 0 : 4 * KiB};
    set.size = set_size;
    set.region_size = 4 * KiB;
    for (uint32_t i = 0; i < disks; ++i) {
      meta.push_back(
          std::make_unique<test::MemoryDevice>(fmt::format("meta{}", i), metadata_device));
      data.push_back(std::make_unique<test::MemoryDevice>(fmt::format("data{}", i), set_size));
      set.members.push_back({meta.back().get(), data.back().get()});
    }
    options.name = "set";
  }
  std::string try_start(bool read_only = false) {
    array.reset();
    options.read_only = read_only;
    auto made = assemble_raid_set(set, options);
    if (!made) return made.error().text();
    array = std::move(*made);
    return "";
  }
  void start(bool read_only = false) { REQUIRE(try_start(read_only) == ""); }
  void start_in_sync() {
    start();
    REQUIRE(array->wait_sync());
    REQUIRE(array->status().resynced == all_in_sync);
    REQUIRE(array->status().state == ArrayState::active);
  }
  void stop() {
    must(array->stop());
    array.reset();
  }
  void scribble(test::Random& random) {
    for (int i = 0; i < 12; ++i) {
      const auto range = test::random_range(random, set_size, sector_size, 24 * KiB);
      const auto bytes = test::random_bytes(random, range.length);
      must(array->write(range.offset, bytes));
      model.write(range.offset, bytes);
    }
  }
  void check_bytes() {
    const auto difference = model.difference(*array);
    CHECK_MESSAGE(!difference, *difference);
  }
  uint64_t mismatches() {
    must(array->check());
    REQUIRE(array->wait_sync());
    return array->status().mismatches;
  }
  MemberMetadata superblock(size_t i) {
    SuperblockBytes bytes;
    must(meta[i]->read(0, bytes));
    return must(decode_superblock(SuperblockVersion::dm_raid, bytes, metadata_device));
  }
  void change(size_t i, MemberMetadata sb) { must(meta[i]->write(0, must(encode_superblock(sb)))); }

  RaidSet set;
  ArrayOptions options;
  std::vector<std::unique_ptr<test::MemoryDevice>> meta, data;
  std::unique_ptr<Array> array;
  test::ByteModel model{set_size};
};

// What Linux 7.2 wrote on the second metadata device of a raid5_ls of four.
SuperblockBytes written_by_linux() {
  constexpr unsigned char head[] = {
      0x44, 0x6d, 0x52, 0x64, 1,    0,    0,    0,    4,    0,    0,    0,    1,    0,    0,
      0,    0x10, 0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
      0,    0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
      0xff, 0xff, 0xff, 5,    0,    0,    0,    2,    0,    0,    0,    0x20, 0,    0,    0,
      0,    0,    0,    0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 5,    0,    0,
      0,    2,    0,    0,    0,    0x20, 0,    0,    0,    0,    0,    0,    0,    0,    6};
  SuperblockBytes bytes{};
  std::memcpy(bytes.data(), head, sizeof head);
  bytes[0x71] = std::byte(2);  // 512 sectors of each
  return bytes;
}

TEST_CASE("a superblock that Linux wrote is read, and written the same") {
  const SuperblockBytes bytes = written_by_linux();
  const MemberMetadata sb =
      must(decode_superblock(SuperblockVersion::dm_raid, bytes, metadata_device));
  CHECK(sb.array.geometry == Geometry{5, parity_layout::left_symmetric, 4, 16 * KiB});
  CHECK(sb.dev_number == 1);
  CHECK(sb.array.events == 16);
  CHECK(sb.array.member_size == 256 * KiB);
  CHECK(sb.array.resync_offset == all_in_sync);
  CHECK(sb.recovery_offset == std::nullopt);
  CHECK(sb.array.roles == std::vector<uint16_t>{0, 1, 2, 3});
  CHECK(sb.bitmap_position() == 4096);
  CHECK(sb.bitmap_room() == metadata_device - 4096);
  CHECK(must(encode_superblock(sb)) == bytes);
}

TEST_CASE("a dm-raid superblock keeps who failed and how far all is") {
  MemberMetadata sb =
      must(decode_superblock(SuperblockVersion::dm_raid, written_by_linux(), metadata_device));
  sb.array.geometry = {6, parity_layout::ddf_zero_restart, 130, 16 * KiB};
  sb.array.roles.resize(130);
  for (uint16_t i = 0; i < 130; ++i) sb.array.roles[i] = i % 64 == 3 ? role_faulty : i;
  sb.dev_number = 129;
  sb.recovery_offset = 96 * KiB;
  sb.array.resync_offset = 32 * KiB;
  sb.data_offset = 1 * MiB;
  const MemberMetadata again = must(
      decode_superblock(SuperblockVersion::dm_raid, must(encode_superblock(sb)), metadata_device));
  CHECK(again.array.roles == sb.array.roles);
  CHECK(again.dev_number == 129);
  CHECK(again.recovery_offset == sb.recovery_offset);
  CHECK(again.array.resync_offset == sb.array.resync_offset);
  CHECK(again.data_offset == sb.data_offset);
  CHECK(again.array.geometry == sb.array.geometry);
  // Nobody has the places at the end.
  sb.array.roles.resize(100);
  CHECK(must(decode_superblock(SuperblockVersion::dm_raid, must(encode_superblock(sb)),
                               metadata_device))
            .array.roles[110] == role_faulty);
}

TEST_CASE("fields of a dm-raid superblock that cannot be are named") {
  struct Mutation {
    size_t offset;
    unsigned char value;
    std::string_view error;
  };
  for (const auto& [offset, value, error] : {
           Mutation{0, 0, "no md superblock of version dm-raid"},
           Mutation{4, 2, "compat_features 0x2 and incompat_features 0x0"},
           Mutation{8, 0, "num_devices is 0, expected 1 to 253"},
           Mutation{9, 1, "num_devices is 260, expected 1 to 253"},
           Mutation{12, 4, "array_position is 4, expected less than 4"},
           Mutation{38, 1, "disk_recovery_offset"},
           Mutation{46, 1, "array_resync_offset"},
           Mutation{95, 1, "array_sectors"},
           Mutation{103, 1, "data_offset"},
           Mutation{119, 1, "sectors"},
           Mutation{144, 1, "incompat_features 0x1"},
       }) {
    SuperblockBytes bytes = written_by_linux();
    bytes[offset] = std::byte(value);
    const auto found = decode_superblock(SuperblockVersion::dm_raid, bytes, metadata_device);
    REQUIRE_MESSAGE(!found, error);
    CHECK_MESSAGE(found.error().text().find(error) != std::string::npos, found.error().text());
  }
  CHECK(!decode_superblock(SuperblockVersion::dm_raid, written_by_linux(), 4095));
}

TEST_CASE("a new set gets superblocks and a first sync, and is whole from then on") {
  test::Random random(test::test_seed());
  struct Form {
    int32_t level;
    uint32_t layout, disks;
  };
  for (const auto& [level, layout, disks] :
       {Form{1, 0, 2}, Form{10, 0x102, 4}, Form{5, parity_layout::parity_first, 4},
        Form{5, parity_layout::left_symmetric, 4}, Form{6, parity_layout::ddf_n_continue, 5}}) {
    CAPTURE(level);
    CAPTURE(layout);
    SetRig rig(level, layout, disks);
    for (const auto& disk : rig.data)
      must(disk->write(0, test::random_bytes(random, disk->size())));
    rig.start_in_sync();
    CHECK(rig.mismatches() == 0);
    must(rig.array->write_zeroes(0, set_size));
    rig.scribble(random);
    rig.stop();
    for (size_t i = 0; i < disks; ++i) {
      const MemberMetadata sb = rig.superblock(i);
      CHECK(sb.dev_number == i);
      CHECK(sb.array.resync_offset == all_in_sync);
      CHECK(sb.recovery_offset == std::nullopt);
      CHECK(sb.array.geometry == rig.set.geometry);
    }
    rig.start();
    CHECK(rig.array->progress().pending == false);
    CHECK(rig.array->status().resynced == all_in_sync);
    rig.check_bytes();
    CHECK(rig.mismatches() == 0);
  }
}

TEST_CASE("a member that was away is recovered, as far as the bitmap says, and not read before") {
  test::Random random(test::test_seed());
  for (const int32_t level : {1, 5}) {
    CAPTURE(level);
    SetRig rig(level, level == 1 ? 0 : parity_layout::left_symmetric, level == 1 ? 2 : 4);
    rig.start_in_sync();
    must(rig.array->write_zeroes(0, set_size));
    rig.scribble(random);
    rig.stop();
    const RaidSetMember away = rig.set.members[0];
    rig.set.members[0] = {};
    rig.start();
    CHECK(rig.array->status().state == ArrayState::degraded);
    rig.scribble(random);
    rig.stop();
    CHECK(rig.superblock(1).array.roles[0] == role_faulty);
    rig.set.members[0] = away;
    rig.start(true);
    rig.check_bytes();
    CHECK(rig.array->status().state == ArrayState::degraded);
    rig.options.hold_sync = true;
    rig.start();
    CHECK(rig.superblock(0).recovery_offset == 0);
    CHECK(rig.superblock(0).array.roles[0] == 0);
    rig.check_bytes();
    rig.options.hold_sync = false;
    rig.array->release_sync();
    REQUIRE(rig.array->wait_sync());
    CHECK(rig.array->status().state == ArrayState::active);
    CHECK(rig.mismatches() == 0);
    rig.check_bytes();
    rig.stop();
    CHECK(rig.superblock(0).recovery_offset == std::nullopt);
  }
}

TEST_CASE("two halves of a set that were each used without the other are not made one") {
  test::Random random(test::test_seed());
  SetRig rig(1, 0, 2);
  rig.start_in_sync();
  rig.stop();
  const auto members = rig.set.members;
  for (const size_t half : {0u, 1u}) {
    rig.set.members = members;
    rig.set.members[1 - half] = {};
    rig.start();
    rig.scribble(random);
    rig.stop();
  }
  const auto before = rig.superblock(0).array.events;
  rig.set.members = members;
  rig.start();
  CHECK(rig.array->status().state == ArrayState::degraded);
  CHECK(rig.array->status().members.size() == 1);
  rig.stop();
  CHECK(rig.superblock(0).array.events == before);
}

TEST_CASE("bits left in the bitmap of a whole set are resynced") {
  test::Random random(test::test_seed());
  SetRig rig;
  rig.start_in_sync();
  must(rig.array->write_zeroes(0, set_size));
  rig.stop();
  // As Linux leaves it after a crash: the superblock says that all is in sync.
  std::vector<std::byte> bits(1);
  bits[0] = std::byte(2);
  for (const auto& meta : rig.meta) {
    std::vector<std::byte> sector(512);
    must(meta->read(4096, sector));
    sector[256] |= bits[0];
    must(meta->write(4096, sector));
  }
  must(rig.data[3]->write(4 * KiB, test::random_bytes(random, 4 * KiB)));  // parity of that row
  must(rig.data[2]->write(4 * KiB, std::vector<std::byte>(4 * KiB)));
  rig.start(true);
  CHECK(rig.array->status().resynced == 0);
  rig.start_in_sync();
  CHECK(rig.mismatches() == 0);
}

TEST_CASE("while it is written to a whole set counts as dirty, a degraded one does not") {
  test::Random random(test::test_seed());
  SetRig rig;
  rig.options.safe_mode_delay = std::chrono::hours(1);
  rig.start_in_sync();
  rig.scribble(random);
  CHECK(rig.superblock(0).array.resync_offset == 0);
  must(rig.array->fail("data2"));
  CHECK(rig.superblock(0).array.resync_offset == all_in_sync);
  CHECK(rig.superblock(0).array.roles[2] == role_faulty);
}

TEST_CASE("what does not fit the table is told") {
  SetRig rig;
  rig.start_in_sync();
  rig.stop();
  const auto error = [&](std::string_view text) {
    const std::string found = rig.try_start();
    CHECK_MESSAGE(found.find(text) != std::string::npos, found);
  };
  const RaidSet right = rig.set;
  std::swap(rig.set.members[0], rig.set.members[1]);
  error("it is device 1 of the set, and stands in place 0");
  rig.set = right;
  rig.set.geometry.layout = parity_layout::right_symmetric;
  error("the superblock says level 5, layout 2");
  rig.set = right;
  rig.set.size -= 512;
  error("cannot be divided");
  rig.set = right;
  must(rig.meta[1]->write_zeroes(0, 4096));
  error("meta1 bears no superblock, and others do");
  rig.set.members[1].rebuild = true;
  rig.start_in_sync();
  rig.stop();
  rig.set = right;
  rig.set.members[1].metadata = nullptr;
  error("without metadata devices it can only be read");
  rig.set = right;
  rig.set.members[1] = {};
  rig.set.members[2] = {};
  error("too few members");
  rig.set = right;
  MemberMetadata sb = rig.superblock(3);
  sb.array.resync_offset = 4 * KiB;
  rig.change(3, sb);
  sb.array.events += 1;
  rig.change(3, sb);
  rig.set.members[0] = {};
  error("parity is not in sync");
}

TEST_CASE("a member whose superblock cannot be read is missing") {
  SetRig rig;
  rig.start_in_sync();
  rig.stop();
  test::MemoryDevice small("small", 512);
  rig.set.members[2].metadata = &small;
  rig.start();
  CHECK(rig.array->status().state == ArrayState::degraded);
  CHECK(rig.array->status().members.size() == 3);
}

TEST_CASE("a set that has grown is synced where it is new") {
  test::Random random(test::test_seed());
  SetRig rig;
  rig.set.size = set_size / 2;
  rig.start_in_sync();
  rig.stop();
  for (const auto& disk : rig.data)
    must(disk->write(set_size / 6, test::random_bytes(random, set_size / 6)));
  rig.set.size = set_size;
  rig.start(true);
  CHECK(rig.array->status().resynced == set_size / 6);
  rig.start_in_sync();
  CHECK(rig.mismatches() == 0);
  rig.stop();
  CHECK(rig.superblock(0).array.member_size == set_size / 3);
}

}  // namespace
}  // namespace volfs::md
