// SPDX-License-Identifier: GPL-2.0-or-later
// Members that have no room for what is written: nothing is wrong with them, and once there is room
// nothing remains of it.
#include <map>

#include "array_rig.h"

namespace volfs::md {
namespace {

using namespace test;

// Of the writes to the data of a disk every second one finds no room, after its first sector.
void fill_up(Rig& rig, size_t disk, int error) {
  rig.faults[disk]->add({.op = FaultOp::write | FaultOp::write_zeroes,
                         .begin = rig.superblock(disk).data_offset,
                         .one_in = 2,
                         .error = error,
                         .torn = 512});
}

void nothing_against_members(Rig& rig) {
  const auto status = rig.array->status();
  CHECK(status.state == ArrayState::active);
  for (const auto& member : status.members) CHECK(member.state == MemberState::in_sync);
  for (size_t disk = 0; disk < rig.disks.size(); ++disk) CHECK(!rig.superblock(disk).bad_blocks);
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
          in_sync = rig.superblock(0).array.resync_offset == all_in_sync;
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

// Of the writes to the superblock, the bitmap and the bad-block log of a disk one in ONE_IN finds
// no room.
void fill_up_metadata(Rig& rig, size_t disk, uint64_t one_in) {
  const MemberMetadata sb = rig.superblock(disk);
  const uint64_t end = sb.super_offset > sb.data_offset ? UINT64_MAX : sb.data_offset;
  const uint64_t begin = sb.super_offset > sb.data_offset ? sb.data_offset + sb.data_size : 0;
  rig.faults[disk]->add({.op = FaultOp::write | FaultOp::write_zeroes,
                         .begin = begin,
                         .end = end,
                         .one_in = one_in,
                         .error = disk % 2 == 0 ? ENOSPC : EDQUOT});
}

std::vector<Shape> metadata_shapes() {
  auto shapes = room_shapes();
  constexpr SuperblockVersion versions[] = {SuperblockVersion::v1_2, SuperblockVersion::v1_0,
                                            SuperblockVersion::v0_90, SuperblockVersion::v1_1};
  for (size_t i = 0; i < shapes.size(); ++i)
    if (!shapes[i].ppl) shapes[i].version = versions[i % 4];
  return shapes;
}

void nothing_is_behind(Rig& rig, const Shape& shape) {
  for (size_t disk = 1; disk < shape.disks; ++disk) {
    CHECK(rig.superblock(disk).array.events == rig.superblock(0).array.events);
    CHECK(rig.superblock(disk).array.resync_offset == rig.superblock(0).array.resync_offset);
  }
}

TEST_CASE("a superblock or bitmap that finds no room fails the write and no member") {
  simulate(2, [](uint64_t seed) {
    for (const Shape& shape : metadata_shapes())
      for (const uint64_t one_in : {1, 3}) {
        const SimScheduler sim(seed);
        INFO("VOLFS_SEED=", seed, " ", shape.text(), ", one in ", one_in);
        Random random(seed);
        Rig rig(shape);
        ArrayOptions options;
        options.bitmap_sweep = std::chrono::milliseconds(300);
        Array& array = rig.assemble(options);
        ByteModel model(array.size());
        for (int i = 0; i < 10; ++i) write_random(random, array, model);
        eventually([&] { return array.status().clean; });
        if (one_in == 1)  // one of them has none at all
          fill_up_metadata(rig, random.below(shape.disks), 1);
        else
          for (size_t disk = 0; disk < shape.disks; ++disk) fill_up_metadata(rig, disk, one_in);
        int failures = 0;
        for (int i = 0; i < 40; ++i) {
          const auto range = random_range(random, model.size(), 512, 48 * KiB);
          const auto bytes = random_bytes(random, range.length);
          if (const Status status = array.write(range.offset, bytes); status) {
            model.write(range.offset, bytes);
          } else {
            ++failures;
            CHECK((status.error().code() == ENOSPC || status.error().code() == EDQUOT));
          }
          sleep_for(std::chrono::milliseconds(random.below(400)));
        }
        CHECK(failures > 0);
        must_equal(model, array);
        CHECK(array.status().state == ArrayState::active);
        for (const auto& fault : rig.faults) fault->remove_all();
        for (int i = 0; i < 5; ++i) write_random(random, array, model);
        eventually([&] { return array.status().clean; });
        CHECK(array.wait_sync());
        if (shape.bitmap) no_dirty_bits(array);
        must(array.stop());
        nothing_is_behind(rig, shape);
        rig.array.reset();
        rig.assemble();
        nothing_against_members(rig);
        must_equal(model, *rig.array);
        must_agree(*rig.array);
      }
  });
}

// The disks as they are now, as if the power had gone.
std::unique_ptr<Rig> cut_now(const Rig& rig, const Shape& shape) {
  auto after = std::make_unique<Rig>(shape);
  for (size_t disk = 0; disk < shape.disks; ++disk) after->disks[disk]->copy_from(*rig.disks[disk]);
  return after;
}

// The power goes while some superblocks find no room: no member is out of date then.
TEST_CASE("updates that find no room leave no member further behind than a crash may") {
  simulate(2, [](uint64_t seed) {
    for (const Shape& shape : metadata_shapes()) {
      const SimScheduler sim(seed);
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Random random(seed);
      Rig rig(shape);
      Array& array = rig.assemble();
      ByteModel model(array.size());
      for (size_t disk = 0; disk < shape.disks; ++disk) fill_up_metadata(rig, disk, 3);
      for (int i = 0; i < 15; ++i) {
        const auto range = random_range(random, model.size(), 512, 48 * KiB);
        const auto bytes = random_bytes(random, range.length);
        if (array.write(range.offset, bytes)) model.write(range.offset, bytes);
        sleep_for(std::chrono::milliseconds(random.below(400)));
        const auto after = cut_now(rig, shape);
        ArrayOptions read_only;
        read_only.read_only = true;
        CHECK(after->assemble(read_only).status().state == ArrayState::active);
        must_equal(model, *after->array);
      }
    }
  });
}

TEST_CASE("a member is lost for good only when there is room to record it") {
  for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
    INFO(shape.text());
    Rig rig(shape);
    Array& array = rig.assemble();
    Random random(7);
    ByteModel model(array.size());
    for (int i = 0; i < 10; ++i) write_random(random, array, model);
    fill_up_metadata(rig, 0, 1);
    rig.faults[1]->vanish(true);
    const std::vector<std::byte> bytes(array.size(), std::byte{3});
    for (int i = 0; i < 2; ++i) {
      const Status refused = array.write(0, bytes);
      REQUIRE(!refused);
      CHECK(refused.error().code() == ENOSPC);
      CHECK(array.flush().error().code() == ENOSPC);
    }
    CHECK(array.status().state == ArrayState::degraded);
    rig.faults[0]->remove_all();
    must(array.write(0, bytes));
    model.write(0, bytes);
    must_equal(model, array);
    rig.faults[1]->vanish(false);
    CHECK(rig.superblock(0).array.roles[1] == role_faulty);
    CHECK(rig.superblock(1).array.events + 1 < rig.superblock(0).array.events);
    // Others come without trouble.
    must(array.remove("disk1"));
    must(array.add(*rig.faults[1]));
    REQUIRE(array.wait_sync());
    must_equal(model, array);
    must_agree(array);
  }
}

TEST_CASE("a flush that finds no room fails no member, and all is made to agree") {
  simulate(1, [](uint64_t seed) {
    for (const Shape& shape : room_shapes()) {
      const SimScheduler sim(seed);
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Random random(seed);
      Rig rig(shape);
      Array& array = rig.assemble();
      ByteModel model(array.size());
      for (int i = 0; i < 10; ++i) write_random(random, array, model);
      rig.faults[1]->add({.op = FaultOp::flush, .error = ENOSPC});
      const Status refused = array.flush();
      REQUIRE(!refused);
      CHECK(refused.error().code() == ENOSPC);
      CHECK(array.status().state == ArrayState::active);
      CHECK(!array.status().clean);
      rig.faults[1]->remove_all();
      must(array.flush());
      eventually([&] { return array.status().clean; });
      CHECK(array.wait_sync());
      nothing_against_members(rig);
      must_equal(model, array);
      must_agree(array);
    }
  });
}

// What an array may hold: of each sector one of several contents.
class Allowed {
 public:
  explicit Allowed(uint64_t size) : model_(size) {}
  void wrote(uint64_t offset, std::span<const std::byte> bytes) {
    model_.write(offset, bytes);
    std::erase_if(torn_, [&](const auto& each) {
      return offset <= each.first && each.first < offset + bytes.size();
    });
  }
  void failed(uint64_t offset, std::span<const std::byte> bytes) {
    for (uint64_t at = 0; at < bytes.size(); at += 512)
      torn_[offset + at].emplace_back(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                                      bytes.begin() + static_cast<std::ptrdiff_t>(at + 512));
  }
  // No sector holds anything else; how many cannot be read.
  uint64_t check(Array& array) const {
    uint64_t unreadable = 0;
    for (uint64_t at = 0; at < model_.size(); at += 512) {
      std::vector<std::byte> is(512);
      if (!array.read(at, is)) {
        ++unreadable;
        continue;
      }
      const auto whole = model_.bytes(at, 512);
      bool found = std::equal(is.begin(), is.end(), whole.begin());
      if (const auto others = torn_.find(at); others != torn_.end())
        for (const auto& other : others->second) found = found || is == other;
      if (!found) FAIL("the sector at ", at, " holds what nobody wrote");
    }
    return unreadable;
  }

 private:
  ByteModel model_;
  std::map<uint64_t, std::vector<std::vector<std::byte>>> torn_;
};

// An array without one member, written to until some writes found no room half the way.
void write_degraded_until_full(Random& random, Rig& rig, Array& array, Allowed& allowed,
                               const Shape& shape) {
  for (size_t disk = 1; disk < shape.disks; ++disk) fill_up(rig, disk, ENOSPC);
  for (int i = 0, failures = 0; i < 400 && failures < 6; ++i) {
    const auto range = random_range(random, array.size(), 512, 6 * KiB);
    const auto bytes = random_bytes(random, range.length);
    const Status status = array.write(range.offset, bytes);
    if (status)
      allowed.wrote(range.offset, bytes);
    else
      allowed.failed(range.offset, bytes);
    failures += !status;
  }
  for (const auto& fault : rig.faults) fault->remove_all();
}

TEST_CASE("parity that is torn while a member is missing is neither used nor called right") {
  simulate(4, [](uint64_t seed) {
    for (const Shape& shape :
         {Shape{5, 2, 3}, Shape{5, 2, 4, 4 * KiB, SuperblockVersion::v1_2, true}, Shape{4, 0, 3},
          Shape{6, 2, 4}, Shape{6, 8, 5},
          Shape{5, 2, 3, 4 * KiB, SuperblockVersion::v1_2, false, true, true}})
      for (const bool rewritten : {false, true}) {
        const SimScheduler sim(seed);
        INFO("VOLFS_SEED=", seed, " ", shape.text(), ", written anew: ", rewritten);
        Random random(seed);
        Rig rig(shape);
        Array* array = &rig.assemble();
        Allowed allowed(array->size());
        const auto start = random_bytes(random, array->size());
        must(array->write(0, start));
        allowed.wrote(0, start);
        must(array->fail("disk0"));
        must(array->remove("disk0"));
        // Where a stripe is torn whose chunk on the missing member is parity, nothing is lost.
        uint64_t lost = 0;
        for (int rounds = 0; rounds < 50 && lost == 0; ++rounds) {
          write_degraded_until_full(random, rig, *array, allowed, shape);
          lost = allowed.check(*array);
        }
        CHECK(lost > 0);
        sleep_for(std::chrono::minutes(1));
        CHECK(!array->status().clean);
        CHECK(allowed.check(*array) == lost);
        const auto anew = random_bytes(random, array->size());
        if (rewritten) {
          must(array->write(0, anew));
          allowed.wrote(0, anew);
          CHECK(allowed.check(*array) == 0);
          eventually([&] { return array->status().clean; });
        }
        must(array->add(*rig.faults[0]));
        REQUIRE(array->wait_sync());
        eventually([&] { return array->status().clean; });
        CHECK(array->status().state == ArrayState::active);
        const uint64_t recorded = allowed.check(*array);
        CHECK((recorded > 0) == !rewritten);
        must(array->stop());
        rig.array.reset();
        array = &rig.assemble();
        CHECK(array->status().state == ArrayState::active);
        CHECK(allowed.check(*array) == recorded);
        must(array->write(0, anew));
        allowed.wrote(0, anew);
        CHECK(allowed.check(*array) == 0);
        must_agree(*array);
      }
  });
}

TEST_CASE("an array that is stopped with torn parity and without a member is dirty") {
  const Shape shape{5, 2, 3};
  Random random(3);
  Rig rig(shape);
  Array& array = rig.assemble();
  Allowed allowed(array.size());
  must(array.fail("disk0"));
  must(array.remove("disk0"));
  write_degraded_until_full(random, rig, array, allowed, shape);
  must(array.stop());
  rig.array.reset();
  const auto refused = Array::assemble({{rig.faults[1].get(), rig.faults[2].get()}}, {});
  REQUIRE(!refused);
  CHECK(refused.error().text().find("force starts it all the same") != std::string::npos);
}

// The log has room for the last writes only.
TEST_CASE("a partial parity log does not stand in for a resync of what found no room") {
  simulate(4, [](uint64_t seed) {
    Shape shape{5, 2, 3};
    shape.ppl = true;
    for (const bool degraded : {false, true}) {
      const SimScheduler sim(seed);
      INFO("VOLFS_SEED=", seed, ", degraded: ", degraded);
      Random random(seed);
      Rig rig(shape);
      ArrayOptions held;
      held.hold_sync = true;
      Array& array = rig.assemble(held);
      Allowed allowed(array.size());
      if (degraded) {
        must(array.fail("disk0"));
        must(array.remove("disk0"));
      }
      write_degraded_until_full(random, rig, array, allowed, shape);
      const auto block = random_bytes(random, 512);
      // Each log holds something else then. What is torn may be in the way of a write.
      for (uint64_t at = 0; at < array.size(); at += 4 * KiB)
        if (array.write(at, block)) allowed.wrote(at, block);
      const auto crashed = cut_now(rig, shape);
      must(array.stop());
      rig.array.reset();
      for (Rig* left : {crashed.get(), &rig}) {
        if (degraded) {
          CHECK(!Array::assemble({{left->faults[1].get(), left->faults[2].get()}}, {}));
          continue;
        }
        Array& again = left->assemble();
        CHECK(again.wait_sync());
        must_agree(again);
        allowed.check(again);
      }
    }
  });
}

TEST_CASE("an array whose members have no room for its state is read, and written later") {
  Rig rig({5, 2, 3});
  const std::vector<std::byte> block(4 * KiB, std::byte{1});
  must(rig.assemble().write(0, block));
  must(rig.array->stop());
  rig.array.reset();
  for (size_t disk : {0, 1}) fill_up_metadata(rig, disk, 1);
  auto devices = rig.devices();
  devices.pop_back();
  Array& array = rig.assemble(devices);
  CHECK(read_bytes(array, 0, 4 * KiB) == block);
  CHECK(!array.write(0, block));
  for (size_t disk : {0, 1}) rig.faults[disk]->remove_all();
  must(array.write(0, block));
  CHECK(rig.superblock(0).array.roles[2] != 2);
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
        rig.disks[disk]->poke(rig.superblock(disk).data_offset, random_bytes(random, 128 * KiB));
        rig.faults[disk]->add(
            {.op = FaultOp::write, .begin = rig.superblock(disk).data_offset, .error = ENOSPC});
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
      rig.faults[spare]->add({.op = FaultOp::write,
                              .begin = rig.superblock(spare).data_offset,
                              .skip = 1,
                              .error = ENOSPC});
      must(array.fail("disk0"));
      sleep_for(std::chrono::minutes(1));
      CHECK(array.status().state == ArrayState::degraded);
      CHECK(!rig.superblock(spare).bad_blocks);
      rig.faults[spare]->remove_all();
      eventually([&] { return array.status().state == ArrayState::active; });
      CHECK(array.wait_sync());
      CHECK(!rig.superblock(spare).bad_blocks);
      must_equal(model, array);
      must_agree(array);
    }
  });
}

}  // namespace
}  // namespace volfs::md
