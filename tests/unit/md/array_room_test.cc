// SPDX-License-Identifier: GPL-2.0-or-later
// Members that have no room for what is written: nothing is wrong with them, and once there is room
// nothing remains of it.
#include "array_rig.h"

namespace volfs::md {
namespace {

using namespace test;

MemberMetadata on(Rig& rig, size_t disk) {
  auto found = must(scan(*rig.faults[disk]));
  REQUIRE(found);
  return *found;
}

// Of the writes to the data of a disk every second one finds no room, after its first sector.
void fill_up(Rig& rig, size_t disk, int error) {
  rig.faults[disk]->add({.op = FaultOp::write | FaultOp::write_zeroes,
                         .begin = on(rig, disk).data_offset,
                         .one_in = 2,
                         .error = error,
                         .torn = 512});
}

void nothing_against_members(Rig& rig) {
  const auto status = rig.array->status();
  CHECK(status.state == ArrayState::active);
  for (const auto& member : status.members) CHECK(member.state == MemberState::in_sync);
  for (size_t disk = 0; disk < rig.disks.size(); ++disk) CHECK(!on(rig, disk).bad_blocks);
}

// Writes until some have failed, and takes into MODEL what these left.
void write_until_full(Random& random, Array& array, ByteModel& model) {
  int failures = 0;
  for (int i = 0; i < 400 && failures < 8; ++i) {
    const auto range = random_range(random, model.size(), 512, 48 * KiB);
    auto bytes = random_bytes(random, range.length);
    const bool zeroes = random.one_in(5);
    if (zeroes) std::fill(bytes.begin(), bytes.end(), std::byte{});
    const Status status =
        zeroes ? array.write_zeroes(range.offset, range.length) : array.write(range.offset, bytes);
    if (!status) {
      ++failures;
      CHECK((status.error().code() == ENOSPC || status.error().code() == EDQUOT));
      CHECK(!array.status().clean);
      bytes = read_bytes(array, range.offset, range.length);
    }
    model.write(range.offset, bytes);
  }
  CHECK(failures == 8);
}

std::vector<Shape> room_shapes() {
  std::vector<Shape> list = {{1, 0, 2},      {1, 0, 3}, {5, 2, 3},        {5, 2, 4},
                             {10, 0x102, 4}, {6, 2, 4}, {10, 0x10201, 3}, {4, 0, 3}};
  const size_t plain = list.size();
  for (size_t i = 0; i < plain; ++i) {
    list.push_back(list[i]);
    list.back().bitmap = true;
  }
  list.push_back({5, 2, 4});
  list.back().ppl = true;
  return list;
}

TEST_CASE("a write that finds no room fails, and a resync makes right what it left") {
  simulate(2, [](uint64_t seed) {
    for (const Shape& shape : room_shapes())
      for (const bool restart : {false, true}) {
        const SimScheduler sim(seed);
        INFO("VOLFS_SEED=", seed, " ", shape.text(), ", stopped meanwhile: ", restart);
        Random random(seed);
        Rig rig(shape);
        Array* array = &rig.assemble();
        ByteModel model(array->size());
        for (int i = 0; i < 30; ++i) write_random(random, *array, model);
        for (size_t disk = 0; disk < shape.disks; ++disk)
          fill_up(rig, disk, disk % 2 == 0 ? ENOSPC : EDQUOT);
        write_until_full(random, *array, model);
        must_equal(model, *array);
        nothing_against_members(rig);
        // A resync may have found room by chance; else the next assembly must know of it.
        bool in_sync = false;
        if (restart) {
          must(array->stop());
          rig.array.reset();
          in_sync = on(rig, 0).array.resync_offset == all_in_sync;
        }
        for (const auto& fault : rig.faults) fault->remove_all();
        if (restart) array = &rig.assemble();
        if (in_sync) must_agree(*array);
        for (int i = 0; i < 5; ++i) write_random(random, *array, model);
        eventually([&] { return array->status().clean; });
        CHECK(array->wait_sync());
        nothing_against_members(rig);
        must_equal(model, *array);
        must_agree(*array);
        if (shape.bitmap) no_dirty_bits(*array);
      }
  });
}

TEST_CASE("a resync and a recovery that find no room go on when there is some") {
  simulate(1, [](uint64_t seed) {
    for (Shape shape : room_shapes()) {
      if (shape.ppl) continue;
      shape.assume_clean = false;
      const SimScheduler sim(seed);
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Random random(seed);
      Rig rig(shape);
      for (size_t disk = 0; disk < shape.disks; ++disk) {
        rig.disks[disk]->poke(on(rig, disk).data_offset, random_bytes(random, 128 * KiB));
        rig.faults[disk]->add(
            {.op = FaultOp::write, .begin = on(rig, disk).data_offset, .error = ENOSPC});
      }
      Array& array = rig.assemble();
      sleep_for(std::chrono::minutes(1));
      const auto whole = [&array] {  // a new raid5 has a member to recover
        return array.status().clean && array.status().state == ArrayState::active;
      };
      CHECK(!whole());
      for (const auto& fault : rig.faults) fault->remove_all();
      eventually(whole);
      CHECK(array.wait_sync());
      nothing_against_members(rig);
      must_agree(array);

      ByteModel model(array.size());
      model.write(0, read_bytes(array, 0, array.size()));
      const size_t spare = rig.add_disk();
      must(array.add(*rig.faults[spare]));
      rig.faults[spare]->add(
          {.op = FaultOp::write, .begin = on(rig, spare).data_offset, .skip = 1, .error = ENOSPC});
      must(array.fail("disk0"));
      sleep_for(std::chrono::minutes(1));
      CHECK(array.status().state == ArrayState::degraded);
      CHECK(!on(rig, spare).bad_blocks);
      rig.faults[spare]->remove_all();
      eventually([&] { return array.status().state == ArrayState::active; });
      CHECK(array.wait_sync());
      CHECK(!on(rig, spare).bad_blocks);
      must_equal(model, array);
      must_agree(array);
    }
  });
}

}  // namespace
}  // namespace volfs::md
