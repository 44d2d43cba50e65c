// SPDX-License-Identifier: GPL-2.0-or-later
// Assembly, what is recorded on the members, and what an array says of itself.
#include "array_rig.h"
#include "support/sim_scheduler.h"

namespace volfs::md {
namespace {

using namespace test;

MemberMetadata on(Rig& rig, size_t disk) {
  auto found = must(scan(*rig.faults[disk]));
  REQUIRE(found);
  return *found;
}

TEST_CASE("members are found in any order, and each only once") {
  Rig rig({5, 2, 3});
  auto devices = rig.devices();
  std::swap(devices[0], devices[2]);
  must(rig.assemble(devices).stop());
  rig.array.reset();
  devices[0] = devices[1];
  const auto twice = Array::assemble(devices, {});
  REQUIRE(!twice);
  CHECK(twice.error().text() == "md0: disk1 is given twice");
}

TEST_CASE("a copy of a member, a stranger and an empty disk are refused by name") {
  Rig rig({1, 0, 2});
  const size_t copy = rig.add_disk();
  rig.disks[copy]->copy_from(*rig.disks[0]);
  auto refused = Array::assemble(rig.devices(), {});
  REQUIRE(!refused);
  CHECK(refused.error().text() ==
        "md0: disk0 and disk2 are the same member (device 0): one is a copy");
  rig.disks[copy]->poke_zeros(0, Rig::disk_size);
  refused = Array::assemble(rig.devices(), {});
  REQUIRE(!refused);
  CHECK(refused.error().text() == "md0: disk2 bears no md superblock");
}

TEST_CASE("a member is found though places of other metadata versions cannot be read") {
  for (const SuperblockVersion version : superblock_versions) {
    INFO("metadata ", version_name(version));
    Rig rig({1, 0, 2, 4 * KiB, version});
    const uint64_t own = *superblock_offset(version, Rig::disk_size);
    for (const SuperblockVersion other : superblock_versions)
      if (const uint64_t at = *superblock_offset(other, Rig::disk_size);
          at + superblock_size <= own || own + superblock_size <= at)
        rig.faults[0]->add_latent(at, 512);
    CHECK(on(rig, 0).array.version == version);
    must(rig.assemble().stop());
  }
  Rig rig({1, 0, 2, 4 * KiB, SuperblockVersion::v1_0});
  rig.faults[0]->add_latent(*superblock_offset(SuperblockVersion::v1_0, Rig::disk_size), 512);
  const auto found = scan(*rig.faults[0]);
  REQUIRE(!found);
  CHECK(found.error().text().find("disk0: superblock 1.0 at 2088960") != std::string::npos);
}

TEST_CASE("a member that is out of date is left out") {
  Rig rig({1, 0, 2});
  Array& first = rig.assemble();
  rig.faults[1]->vanish(true);
  std::vector<std::byte> block(4 * KiB, std::byte{1});
  must(first.write(0, block));
  must(first.stop());
  rig.faults[1]->vanish(false);
  rig.array.reset();
  ArrayOptions read_only;
  read_only.read_only = true;
  Array& again = rig.assemble(read_only);
  CHECK(again.status().state == ArrayState::degraded);
  CHECK(again.status().members.size() == 1);
  CHECK(read_bytes(again, 0, 4 * KiB) == block);
}

TEST_CASE("a spare that does not know yet that it was given a slot is not taken for in sync") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Rig rig({1, 0, 2});
    ArrayOptions options;
    options.hold_sync = true;
    Array& array = rig.assemble(options);
    const std::vector<std::byte> block(4 * KiB, std::byte{1});
    must(array.write(0, block));
    const size_t spare = rig.add_disk();
    must(array.add(*rig.faults[spare]));
    must(array.fail("disk0"));
    sleep_for(std::chrono::seconds(10));  // an update of before that hangs would hold up the next
    const auto held = rig.faults[spare]->add({.op = FaultOp::write, .hang = true});
    array.release_sync();
    eventually([&] { return on(rig, 1).array.roles[2] == 0; });
    // As if the power had gone here.
    Rig after({1, 0, 2});
    after.add_disk();
    for (size_t i : {1, 2}) after.disks[i]->copy_from(*rig.disks[i]);
    rig.faults[spare]->remove(held);
    CHECK(on(after, 2).array.events + 1 >= on(after, 1).array.events);
    Array& again = after.assemble({after.faults[1].get(), after.faults[2].get()}, options);
    CHECK(again.status().state == ArrayState::degraded);
    CHECK(read_bytes(again, 0, 4 * KiB) == block);
    again.release_sync();
    REQUIRE(again.wait_sync());
    CHECK(again.status().state == ArrayState::active);
    must_agree(again);
  });
}

// The power goes in the middle of an update and, before the next has reached all, again.
TEST_CASE("a member that missed one update does not miss another") {
  for (const Shape& shape : {Shape{10, 0x201, 5}, Shape{5, 2, 3}, Shape{1, 0, 2}}) {
    INFO(shape.text());
    ArrayOptions lasting;
    lasting.safe_mode_delay = std::chrono::hours(1);
    lasting.hold_sync = true;
    Rig rig(shape);
    Rig once(shape);  // as it was when one member had not been told yet
    once.disks[1]->copy_from(*rig.disks[1]);
    const std::vector<std::byte> block(4 * KiB, std::byte{1});
    must(rig.assemble(lasting).write(0, block));
    for (size_t i = 0; i < shape.disks; ++i)
      if (i != 1) once.disks[i]->copy_from(*rig.disks[i]);
    CHECK(on(once, 1).array.events + 1 == on(once, 0).array.events);
    CrashRig twice(once);
    auto array = must(Array::assemble(twice.devices, lasting));
    must(array->write(0, block));
    const size_t end = twice.log.size();
    for (size_t point = 0; point <= end; ++point) {
      INFO("cut at ", point, " of ", end);
      const auto left = twice.cut(point, CrashKeep::all());
      CHECK(must(Array::assemble(left.devices, lasting))->status().state == ArrayState::active);
    }
  }
}

TEST_CASE("a spare that was taken out does not come back under the number of who followed it") {
  for (const auto version : {SuperblockVersion::v1_2, SuperblockVersion::v0_90}) {
    CAPTURE(version_name(version));
    Rig rig({1, 0, 2, 4 * KiB, version});
    Array& array = rig.assemble();
    for (int i = 0; i < 2; ++i) rig.add_disk();
    must(array.add(*rig.faults[2]));
    must(array.remove("disk2"));
    must(array.add(*rig.faults[3]));
    CHECK(on(rig, 3).dev_number == on(rig, 2).dev_number);
    must(array.fail("disk0"));
    REQUIRE(array.wait_sync());
    must(array.remove("disk0"));
    const std::vector<std::byte> block(4 * KiB, std::byte{1});
    must(array.write(0, block));
    must(array.stop());
    rig.array.reset();
    const bool numbers_anew = version == SuperblockVersion::v0_90;
    for (const bool first : {true, false, true}) {
      auto members = rig.devices();  // disk0 is out of date
      if (first) std::swap(members[2], members[3]);
      Array& again = rig.assemble(members);
      CHECK(again.status().members.size() == (numbers_anew ? 3 : 2));
      for (const auto& member : again.status().members)
        CHECK(member.state ==
              (member.device == "disk2" ? MemberState::spare : MemberState::in_sync));
      CHECK(read_bytes(again, 0, 4 * KiB) == block);
      must(again.stop());
      rig.array.reset();
    }
    must_agree(rig.assemble());
  }
}

TEST_CASE("too few members are refused, and it is said what would force it") {
  Rig rig({5, 2, 3});
  auto devices = rig.devices();
  devices.pop_back();
  devices.pop_back();
  const auto refused = Array::assemble(devices, {});
  REQUIRE(!refused);
  CHECK(refused.error().code() == EIO);
  CHECK(refused.error().text() ==
        "md0: too few members of 3: slots 1, 2 are missing or not in sync");
}

TEST_CASE("a dirty and degraded raid5 is only read, unless it is forced") {
  Rig rig({5, 2, 3});
  ArrayOptions lasting;
  lasting.safe_mode_delay = std::chrono::hours(1);
  Array& array = rig.assemble(lasting);
  std::vector<std::byte> block(4 * KiB, std::byte{1});
  must(array.write(0, block));
  CHECK(on(rig, 0).array.resync_offset == 0);
  // As if the machine had gone down here.
  Rig after({5, 2, 3});
  for (size_t i = 0; i < 3; ++i) after.disks[i]->copy_from(*rig.disks[i]);
  auto devices = after.devices();
  devices.erase(devices.begin());
  const auto refused = Array::assemble(devices, {});
  REQUIRE(!refused);
  CHECK(refused.error().text().find("force starts it all the same") != std::string::npos);
  ArrayOptions options;
  options.read_only = true;
  CHECK(read_bytes(after.assemble(devices, options), 0, 4 * KiB) == block);
  options.read_only = false;
  options.force = true;
  must(after.assemble(devices, options).write(0, block));
}

TEST_CASE("read-only means not one byte") {
  for (const Shape& shape : {Shape{5, 2, 3}, Shape{1, 0, 2}}) {
    Shape dirty = shape;
    dirty.assume_clean = false;
    dirty.bitmap = true;
    Rig rig(dirty);
    std::vector<std::unique_ptr<MemoryDevice>> before;
    for (const auto& disk : rig.disks) {
      before.push_back(std::make_unique<MemoryDevice>("before", Rig::disk_size));
      before.back()->copy_from(*disk);
    }
    ArrayOptions options;
    options.read_only = true;
    Array& array = rig.assemble(options);
    CHECK(array.read_only());
    read_bytes(array, 0, array.size());
    must(array.flush());
    CHECK(!array.write(0, std::vector<std::byte>(512)));
    must(array.stop());
    for (size_t i = 0; i < rig.disks.size(); ++i) CHECK(rig.disks[i]->same_contents(*before[i]));
  }
}

TEST_CASE("an array is marked active before a write, and clean again after a while") {
  simulate(2, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Rig rig({5, 2, 3});
    Array& array = rig.assemble();
    const auto all_say = [&](uint64_t resync_offset) {
      for (size_t disk = 0; disk < 3; ++disk)
        if (on(rig, disk).array.resync_offset != resync_offset) return false;
      return true;
    };
    must(array.write(0, std::vector<std::byte>(512)));  // the count of 0 is never gone back to
    eventually([&] { return all_say(all_in_sync); });
    const uint64_t events = on(rig, 0).array.events;
    // The first bytes of data do not get through until the superblocks have been looked at.
    const std::vector<std::byte> block(512, std::byte{1});
    const uint64_t data = on(rig, 0).data_offset;
    const auto held = rig.faults[0]->add({.op = FaultOp::write, .begin = data, .hang = true});
    Thread writer = must(Thread::start("writer", [&] { must(array.write(0, block)); }));
    eventually([&] { return rig.faults[0]->hits(held) > 0; });
    for (size_t disk = 0; disk < 3; ++disk) {
      CHECK(on(rig, disk).array.resync_offset == 0);
      CHECK(on(rig, disk).array.events == events + 1);
    }
    rig.faults[0]->remove(held);
    writer.join();
    eventually([&] { return all_say(all_in_sync); });
    // A mere change of state is taken back, as md does.
    for (size_t disk = 0; disk < 3; ++disk) CHECK(on(rig, disk).array.events == events);
    must(array.write(0, block));
    must(array.stop());
    CHECK(on(rig, 2).array.resync_offset == all_in_sync);
  });
}

TEST_CASE("bits are on disk before the data, and go some time after") {
  simulate(2, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Rig rig({1, 0, 2, 4 * KiB, SuperblockVersion::v1_2, true});
    ArrayOptions options;
    options.bitmap_sweep = std::chrono::seconds(5);
    Array& array = rig.assemble(options);
    REQUIRE(array.status().bitmap);
    no_dirty_bits(array);  // those of the creation go
    must(array.write(64 * KiB, std::vector<std::byte>(8 * KiB, std::byte{1})));
    CHECK(array.status().bitmap->dirty_bits == 1);
    const uint64_t position = on(rig, 0).bitmap_position() + bitmap_superblock_size + 1;
    CHECK(rig.disks[0]->peek(position, 1)[0] == std::byte{1});
    CHECK(rig.disks[1]->peek(position, 1)[0] == std::byte{1});
    eventually([&] {
      return rig.disks[0]->peek(position, 1)[0] == std::byte{0} &&
             rig.disks[1]->peek(position, 1)[0] == std::byte{0};
    });
    CHECK(array.status().bitmap->dirty_bits == 0);
  });
}

TEST_CASE("a member that comes back is brought up to date by the bitmap") {
  simulate(2, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Random random(seed);
    for (const Shape& shape : {Shape{1, 0, 2, 4 * KiB, SuperblockVersion::v1_2, true},
                               Shape{5, 2, 3, 4 * KiB, SuperblockVersion::v1_2, true},
                               Shape{10, 0x102, 4, 4 * KiB, SuperblockVersion::v1_2, true}}) {
      Rig rig(shape);
      ArrayOptions options;
      options.bitmap_sweep = std::chrono::seconds(5);
      Array& array = rig.assemble(options);
      ByteModel model(array.size());
      for (int i = 0; i < 20; ++i) write_random(random, array, model);
      no_dirty_bits(array);
      must(array.fail("disk1"));
      must(array.remove("disk1"));
      const auto block = random_bytes(random, 4 * KiB);
      must(array.write(16 * KiB, block));
      model.write(16 * KiB, block);
      const uint64_t writes = rig.faults[1]->count(FaultOp::write);
      must(array.re_add(*rig.faults[1]));
      REQUIRE(array.wait_sync());
      CHECK(array.status().state == ArrayState::active);
      CHECK(rig.faults[1]->count(FaultOp::write) - writes < 20);
      must_equal(model, array);
      must_agree(array);
    }
  });
}

TEST_CASE("a member that comes back during the recovery of another is recovered from its start") {
  simulate(20, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Random random(seed);
    for (const Shape& shape : {Shape{1, 0, 3, 4 * KiB, SuperblockVersion::v1_2, true},
                               Shape{6, 2, 4, 4 * KiB, SuperblockVersion::v1_0, true},
                               Shape{10, 0x301, 4, 4 * KiB, SuperblockVersion::v1_0, true}}) {
      CAPTURE(shape.text());
      Rig rig(shape);
      ArrayOptions options;
      options.sync_speed_max = options.sync_speed_min = 1 * MiB;  // in steps of 64 KiB
      Array& array = rig.assemble(options);
      ByteModel model(array.size());
      for (const char* name : {"disk0", "disk1"}) {
        must(array.fail(name));
        must(array.remove(name));
      }
      const auto bytes = random_bytes(random, array.size());
      must(array.write(0, bytes));
      model.write(0, bytes);
      must(array.re_add(*rig.faults[1]));
      sleep_for(std::chrono::microseconds(random.below(100'000)));
      must(array.re_add(*rig.faults[0]));
      REQUIRE(array.wait_sync());
      CHECK(array.status().state == ArrayState::active);
      must_equal(model, array);
      must_agree(array);
    }
  });
}

TEST_CASE("a recovery goes on where it stood") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Shape shape{5, 2, 3};
    shape.assume_clean = false;
    Rig rig(shape, 512 * KiB);
    ArrayOptions slow;
    slow.sync_speed_max = slow.sync_speed_min = 64 * KiB;
    Array& array = rig.assemble(slow);
    sleep_for(std::chrono::milliseconds(10));
    must(array.stop());
    const MemberMetadata half = on(rig, 2);
    REQUIRE(half.recovery_offset);
    must_agree([&]() -> Array& {
      rig.array.reset();
      Array& again = rig.assemble();
      REQUIRE(again.wait_sync());
      return again;
    }());
    CHECK(!on(rig, 2).recovery_offset);
  });
}

TEST_CASE("mdstat says what the kernel would say") {
  Rig rig({5, 2, 3, 64 * KiB, SuperblockVersion::v1_2, true}, 256 * KiB);
  Array& array = rig.assemble();
  must(array.fail("disk1"));
  CHECK(array.mdstat() ==
        "md0 : active raid5 disk0[0] disk2[2] disk1[1](F)\n"
        "      512 blocks super 1.2 level 5, 64k chunk, algorithm 2 [3/2] [U_U]\n"
        "      bitmap: 0/1 pages [0KB], 8KB chunk\n"
        "\n");
}

// With all but one of the members gone.
std::string mdstat_of_failed(const Shape& shape) {
  Rig rig(shape, 256 * KiB);
  Array& array = rig.assemble();
  for (size_t disk = 0; disk < shape.disks; ++disk)
    if (shape.level == 1 || disk + 1 < shape.disks) rig.faults[disk]->vanish(true);
  const std::vector<std::byte> block(4 * KiB);
  for (uint64_t at = 0; at < array.size(); at += block.size()) (void)array.write(at, block);
  CHECK(array.status().state == ArrayState::failed);
  const std::string text = array.mdstat();
  return text.substr(0, text.find("\n\n"));
}

// As Linux 7.2.
TEST_CASE(
    "mdstat calls a failed array broken, with all failed members of a raid5 and not of a mirror") {
  CHECK(mdstat_of_failed({5, 2, 3, 64 * KiB}).starts_with("md0 : broken raid5 "));
  const std::string raid5 = mdstat_of_failed({5, 2, 3, 64 * KiB});
  CHECK(raid5.find("disk0[0](F)") != std::string::npos);
  CHECK(raid5.find("disk1[1](F)") != std::string::npos);
  CHECK(raid5.find(" [3/1] [__U]") != std::string::npos);
  const std::string raid1 = mdstat_of_failed({1, 0, 2});
  CHECK(raid1.starts_with("md0 : broken raid1 "));
  CHECK(raid1.find(" [2/1] [") != std::string::npos);
}

TEST_CASE(
    "mdstat has a resync pending only where there is one, and how long a sync takes that stands") {
  Shape shape{5, 2, 3, 4 * KiB};
  Rig rig(shape, 512 * KiB);
  ArrayOptions options;
  options.read_only = true;
  change(rig, 2, [](MemberMetadata& sb) { sb.recovery_offset = 64 * KiB; });
  CHECK(rig.assemble(options).mdstat().find("PENDING") == std::string::npos);
  rig.array.reset();
  for (const size_t disk : {0, 1, 2})
    change(rig, disk, [](MemberMetadata& sb) {
      sb.recovery_offset.reset();
      sb.array.resync_offset = 0;
    });
  CHECK(rig.assemble(options).mdstat().find("\tresync=PENDING\n") != std::string::npos);
}

TEST_CASE("mdstat counts what is left of a sync in sectors") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Shape shape{1, 0, 2};
    shape.assume_clean = false;
    Rig rig(shape, 1 * MiB);
    ArrayOptions slow;
    slow.sync_speed_max = slow.sync_speed_min = 64 * KiB;
    Array& array = rig.assemble(slow);
    eventually([&] { return array.progress().action == SyncAction::resync; });
    sleep_for(std::chrono::milliseconds(1500));
    const SyncProgress p = array.progress();
    REQUIRE(p.position < p.size);
    REQUIRE(p.speed > 0);
    // What status_resync() of Linux says, in sectors.
    const uint64_t left = (p.size - p.position) / 512, moved = p.position / 512;
    CHECK(p.seconds_left == left / (moved / 32 + 1) * (p.position / p.speed) / 32);
  });
}

}  // namespace
}  // namespace volfs::md
