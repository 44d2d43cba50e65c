// SPDX-License-Identifier: GPL-2.0-or-later
// Which devices an array is made of: copies, strangers, members that are out of date, and what can
// be forced.
#include <algorithm>

#include "array_rig.h"

namespace volfs::md {
namespace {

using namespace test;

std::string refusal(const std::vector<BlockDevice*>& devices, const ArrayOptions& options = {}) {
  const auto refused = Array::assemble(devices, options);
  REQUIRE(!refused);
  return refused.error().text();
}

std::vector<std::string> names(const Array& array) {
  std::vector<std::string> list;
  for (const auto& member : array.status().members) list.push_back(member.device);
  std::ranges::sort(list);
  return list;
}

std::vector<BlockDevice*> some(const Rig& rig, std::initializer_list<size_t> disks) {
  std::vector<BlockDevice*> list;
  for (const size_t disk : disks) list.push_back(rig.faults[disk].get());
  return list;
}

TEST_CASE("of two copies of a member the one that is out of date is left out") {
  for (const auto version : {SuperblockVersion::v1_2, SuperblockVersion::v0_90}) {
    INFO("metadata ", version_name(version));
    Rig rig({5, 2, 3, 4 * KiB, version});
    const size_t copy = rig.add_disk();
    rig.disks[copy]->copy_from(*rig.disks[1]);
    CHECK(refusal(rig.devices()) ==
          "md0: disk1 and disk3 are the same member (device 1): one is a copy");
    // What follows only the one has.
    Array& array = rig.assemble(some(rig, {0, 1, 2}));
    const size_t spare = rig.add_disk();
    must(array.add(*rig.faults[spare]));
    must(array.remove(rig.name(spare)));
    const std::vector<std::byte> block(4 * KiB, std::byte{7});
    for (uint64_t at = 0; at < array.size(); at += 4 * KiB) must(array.write(at, block));
    must(array.stop());
    CHECK(rig.superblock(copy).array.events + 1 < rig.superblock(1).array.events);
    for (const bool first : {true, false}) {
      rig.array.reset();
      auto given = some(rig, {0, 1, 2, 3});
      if (first) std::swap(given[1], given[3]);
      for (const bool force : {false, true}) {
        ArrayOptions options;
        options.read_only = true;
        options.force = force;
        Array& again = rig.assemble(given, options);
        CHECK(names(again) == std::vector<std::string>{"disk0", "disk1", "disk2"});
        CHECK(again.status().state == ArrayState::active);
        CHECK(read_bytes(again, 0, 4 * KiB) == block);
      }
    }
  }
}

TEST_CASE("a member of another array is refused, whatever its slot, and by its name") {
  Rig rig({1, 0, 2}), other({1, 0, 2});
  for (size_t disk : {0, 1})
    change(other, disk, [](MemberMetadata& sb) { sb.array.uuid.bytes.fill(0x33); });
  for (size_t stranger : {0, 1})
    CHECK(refusal({rig.faults[0].get(), rig.faults[1].get(), other.faults[stranger].get()})
              .find("belongs to array 33333333:33333333:33333333:33333333, but disk0 to") !=
          std::string::npos);
  // The same name, but other levels, sizes and times: not of one array though the uuid says so.
  Rig larger({1, 0, 2}, 256 * KiB);
  CHECK(refusal({rig.faults[0].get(), larger.faults[1].get()}).find("does not match") !=
        std::string::npos);
}

TEST_CASE("two members in one slot are refused") {
  Rig rig({1, 0, 3});
  change(rig, 2, [](MemberMetadata& sb) { sb.dev_number = 1; });
  CHECK(refusal(rig.devices()) == "md0: disk2 and disk1 both are slot 1");
}

// So a power cut leaves 0.90, whose replacement takes the number of who was replaced.
TEST_CASE("of two members in one slot the one that was told later is meant") {
  for (const bool swapped : {false, true}) {
    Rig rig({1, 0, 3});
    for (size_t disk : {0, 2}) change(rig, disk, [](MemberMetadata& sb) { ++sb.array.events; });
    change(rig, 2, [](MemberMetadata& sb) { sb.dev_number = 1; });
    auto devices = rig.devices();
    if (swapped) std::swap(devices[1], devices[2]);
    CHECK(names(rig.assemble(devices)) == std::vector<std::string>{"disk0", "disk2"});
  }
}

TEST_CASE("a member that was left out comes back by the bitmap after a restart") {
  simulate(2, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    for (const Shape& shape : {Shape{1, 0, 2, 4 * KiB, SuperblockVersion::v1_2, true},
                               Shape{5, 2, 3, 4 * KiB, SuperblockVersion::v0_90, true},
                               Shape{10, 0x102, 4, 4 * KiB, SuperblockVersion::v1_0, true}}) {
      INFO(shape.text());
      Random random(seed);
      Rig rig(shape);
      Array* array = &rig.assemble();
      ByteModel model(array->size());
      for (int i = 0; i < 20; ++i) write_random(random, *array, model);
      no_dirty_bits(*array);
      must(array->stop());
      rig.array.reset();
      auto devices = rig.devices();
      devices.erase(devices.begin() + 1);
      array = &rig.assemble(devices);
      const auto block = random_bytes(random, 4 * KiB);
      must(array->write(16 * KiB, block));
      model.write(16 * KiB, block);
      must(array->stop());
      rig.array.reset();
      array = &rig.assemble();  // with it, but it is out of date
      CHECK(array->status().state == ArrayState::degraded);
      const uint64_t writes = rig.faults[1]->count(FaultOp::write);
      must(array->re_add(*rig.faults[1]));
      REQUIRE(array->wait_sync());
      CHECK(array->status().state == ArrayState::active);
      CHECK(rig.faults[1]->count(FaultOp::write) - writes < 20);
      must_equal(model, *array);
      must_agree(*array);
    }
  });
}

TEST_CASE("forced, the least stale members fill up, and only as many as it takes") {
  Rig rig({6, 2, 5});
  const auto write = [&](std::byte value) {
    must(rig.array->write(0, std::vector<std::byte>(rig.array->size(), value)));
  };
  rig.assemble();
  write(std::byte{1});
  must(rig.array->fail("disk0"));
  write(std::byte{2});
  must(rig.array->fail("disk1"));
  write(std::byte{3});
  must(rig.array->stop());
  rig.array.reset();
  ArrayOptions force;
  force.force = true;
  const auto left = some(rig, {0, 1, 3, 4});  // disk2 is gone
  CHECK(refusal(left).ends_with("; force would use disk1, which is out of date"));
  Array& forced = rig.assemble(left, force);
  CHECK(names(forced) == std::vector<std::string>{"disk1", "disk3", "disk4"});
  write(std::byte{4});
  must(forced.stop());
  rig.array.reset();
  // It is one of them now.
  CHECK(rig.assemble(some(rig, {1, 3, 4})).status().state == ArrayState::degraded);
  CHECK(read_bytes(*rig.array, 0, rig.array->size()) ==
        std::vector<std::byte>(rig.array->size(), std::byte{4}));
}

TEST_CASE("what was never recovered is not forced, nor spares, nor replacements") {
  Rig rig({5, 2, 3});
  const auto left = some(rig, {0, 1});
  for (size_t disk : {0, 2}) change(rig, disk, [](MemberMetadata& sb) { sb.array.events += 9; });
  ArrayOptions force;
  force.force = true;
  const MemberMetadata whole = rig.superblock(1);
  change(rig, 1, [](MemberMetadata& sb) { sb.recovery_offset = 64 * KiB; });
  CHECK(refusal(left, force).find("too few members") != std::string::npos);
  change(rig, 1, [&](MemberMetadata& sb) {
    sb = whole;
    sb.array.roles[1] = role_spare;
  });
  CHECK(refusal(left, force).find("too few members") != std::string::npos);
  change(rig, 1, [&](MemberMetadata& sb) {
    sb = whole;
    sb.replacement = true;
  });
  CHECK(refusal(left, force).find("too few members") != std::string::npos);
  change(rig, 1, [&](MemberMetadata& sb) { sb = whole; });
  force.read_only = true;
  CHECK(rig.assemble(left, force).status().state == ArrayState::degraded);
}

// As Linux leaves it: of the failure that an array does not survive the others are told with one
// event, and who failed keeps what it had.
void fail_last(Rig& rig, size_t disk) {
  rig.array.reset();
  const uint16_t slot = rig.superblock(disk).role();
  const uint32_t number = rig.superblock(disk).dev_number;
  for (size_t other = 0; other < rig.disks.size(); ++other) {
    if (rig.superblock(other).role() == slot ||
        rig.superblock(other).array.events + 1 < rig.superblock(disk).array.events)
      continue;
    change(rig, other, [&](MemberMetadata& sb) {
      ++sb.array.events;
      sb.array.roles[number] = role_faulty;
      if (sb.array.version != SuperblockVersion::v0_90) return;
      sb.array.devices90[number] = {};
      sb.array.devices90[number].present = sb.array.devices90[number].removed = true;
    });
  }
}

TEST_CASE("forced, who failed last goes before who failed long ago, and that lasts") {
  for (const auto version :
       {SuperblockVersion::v1_2, SuperblockVersion::v1_0, SuperblockVersion::v0_90})
    for (const bool bitmap : {false, true})
      for (const Shape& like : {Shape{5, 2, 4}, Shape{6, 2, 5}}) {
        Shape shape = like;
        shape.version = version;
        shape.bitmap = bitmap;
        INFO(shape.text());
        Rig rig(shape);
        rig.assemble();
        uint8_t value = 0;
        const auto write = [&] {
          must(rig.array->write(0, std::vector<std::byte>(rig.array->size(), std::byte{++value})));
        };
        const uint32_t allowed = shape.level == 5 ? 1 : 2;
        write();
        for (size_t disk = 0; disk < allowed; ++disk) {
          must(rig.array->fail(rig.name(disk)));
          write();
        }
        must(rig.array->stop());
        fail_last(rig, allowed);
        CHECK(rig.superblock(allowed).array.events + 1 == rig.superblock(3).array.events);
        CHECK(refusal(rig.devices())
                  .ends_with(fmt::format("; force would use disk{}, which failed by the others' "
                                         "superblocks",
                                         allowed)));
        ArrayOptions options;
        options.force = true;
        for (const bool read_only : {true, false}) {
          options.read_only = read_only;
          rig.assemble(options);
          CHECK(rig.array->status().state == ArrayState::degraded);
          CHECK(read_bytes(*rig.array, 0, rig.array->size()) ==
                std::vector<std::byte>(rig.array->size(), std::byte{value}));
          must(rig.array->stop());
          rig.array.reset();
        }
        // Nothing was written but who is there.
        CHECK(rig.assemble().status().state == ArrayState::degraded);
        CHECK(names(*rig.array).size() == shape.disks - allowed);
        CHECK(read_bytes(*rig.array, 0, rig.array->size()) ==
              std::vector<std::byte>(rig.array->size(), std::byte{value}));
      }
}

// Slots 0 and 1 are one mirror, 2 and 3 the other.
TEST_CASE("forced, a mirror that has its content gets nothing older") {
  Rig rig({10, 0x102, 4});
  for (const size_t disk : {0, 1, 3})
    change(rig, disk, [&](MemberMetadata& sb) { sb.array.events += disk == 3 ? 8 : disk; });
  change(rig, 2, [&](MemberMetadata& sb) { sb.array.events += 6; });
  ArrayOptions force;
  force.force = true;
  CHECK(names(rig.assemble(force)) == std::vector<std::string>{"disk1", "disk3"});
}

TEST_CASE("a dirty and degraded array that was forced is clean from then on") {
  Rig rig({5, 2, 3});
  for (const size_t disk : {0, 1})
    change(rig, disk, [](MemberMetadata& sb) {
      sb.array.resync_offset = 0;
      sb.array.events += 4;
    });
  const auto left = some(rig, {0, 1});
  CHECK(refusal(left).find("force starts it all the same") != std::string::npos);
  ArrayOptions force;
  force.force = true;
  rig.assemble(left, force);
  must(rig.array->stop());
  rig.array.reset();
  CHECK(rig.assemble(left).status().clean);
}

TEST_CASE("a dirty array goes on without what is to hold only parity, and no other") {
  struct Case {
    Shape shape;
    size_t recovering;
    bool goes_on;
  };
  const Case cases[] = {{{5, parity_layout::parity_last, 3}, 2, true},
                        {{5, parity_layout::parity_last, 3}, 0, false},
                        {{5, parity_layout::parity_first, 4}, 0, true},
                        {{5, parity_layout::parity_first, 4}, 3, false},
                        {{5, parity_layout::left_symmetric, 3}, 2, false},
                        {{4, 0, 3}, 2, false},
                        {{6, parity_layout::parity_last, 5}, 3, true},
                        {{6, parity_layout::left_symmetric_6, 5}, 4, true},
                        {{6, parity_layout::left_symmetric_6, 5}, 3, false},
                        {{6, parity_layout::parity_first_6, 5}, 0, true}};
  for (const Case& each : cases) {
    INFO(each.shape.text(), ", slot ", each.recovering);
    Rig rig(each.shape, 256 * KiB);
    Random random(7);
    ByteModel model(rig.assemble().size());
    for (int i = 0; i < 20; ++i) write_random(random, *rig.array, model);
    must(rig.array->stop());
    rig.array.reset();
    const uint64_t start = rig.superblock(0).data_offset;
    for (size_t disk = 0; disk < each.shape.disks; ++disk)
      change(rig, disk, [&](MemberMetadata& sb) {
        sb.array.resync_offset = 0;
        if (disk == each.recovering) sb.recovery_offset = 64 * KiB;
      });
    const auto refused = Array::assemble(rig.devices(), {});
    REQUIRE(refused.has_value() == each.goes_on);
    if (!each.goes_on) {
      CHECK(refused.error().text() ==
            fmt::format("md0: the array was not stopped cleanly and slot {} is not in sync: what "
                        "is computed for that may be wrong; force starts it all the same",
                        each.recovering));
      continue;
    }
    // It may have begun to sync.
    must((*refused)->stop());
    // All its parity is wrong.
    must(rig.disks[each.recovering]->write(start, random_bytes(random, 256 * KiB)));
    change(rig, each.recovering, [&](MemberMetadata& sb) {
      sb = rig.superblock(each.recovering);
      sb.recovery_offset = 64 * KiB;
    });
    for (size_t disk = 0; disk < each.shape.disks; ++disk)
      change(rig, disk, [](MemberMetadata& sb) { sb.array.resync_offset = 0; });
    Array& array = rig.assemble();
    for (int i = 0; i < 20; ++i) write_random(random, array, model);
    REQUIRE(array.wait_sync());
    CHECK(array.status().state == ArrayState::active);
    CHECK(array.status().resynced == all_in_sync);
    must_equal(model, array);
    must_agree(array);
  }
}

}  // namespace
}  // namespace volfs::md
