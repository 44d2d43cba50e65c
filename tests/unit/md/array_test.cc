// SPDX-License-Identifier: GPL-2.0-or-later
// Every level and layout, whole, with each loss it survives, and rebuilt.
#include <atomic>

#include "array_rig.h"
#include "support/sim_scheduler.h"

namespace volfs::md {
namespace {

using namespace test;

// The sets of one or two slots whose loss the array survives.
std::vector<std::vector<uint32_t>> losses(const Shape& s) {
  const Geometry g{s.level, s.layout, s.disks, s.level == 1 ? 0 : s.chunk};
  std::vector<std::vector<uint32_t>> list;
  for (uint32_t a = 0; a < s.disks; ++a)
    for (uint32_t b = a; b < s.disks; ++b) {
      SlotSet missing;
      missing[a] = missing[b] = true;
      if (!survives(g, missing)) continue;
      list.push_back({a});
      if (b != a) list.back().push_back(b);
    }
  return list;
}

void lose_and_rebuild(Random& random, const Shape& shape, const std::vector<uint32_t>& lost) {
  Rig rig(shape);
  Array& array = rig.assemble();
  ByteModel model(array.size());
  REQUIRE(array.size() > 0);
  for (int i = 0; i < 6; ++i) write_random(random, array, model);
  must_equal(model, array);
  for (const uint32_t slot : lost) must(array.fail(rig.name(slot)));
  CHECK(array.status().state == ArrayState::degraded);
  must_equal(model, array);
  for (int i = 0; i < 6; ++i) write_random(random, array, model);
  must_equal(model, array);
  for (const uint32_t slot : lost) {
    must(array.remove(rig.name(slot)));
    must(array.add(*rig.faults[rig.add_disk()]));
    write_random(random, array, model);
  }
  REQUIRE(array.wait_sync());
  CHECK(array.status().state == ArrayState::active);
  must_equal(model, array);
  must_agree(array);
  must(array.stop());
  // As it is now on the members that are left; the lost ones are out of date.
  ArrayOptions read_only;
  read_only.read_only = true;
  Array& again = rig.assemble(read_only);
  CHECK(again.status().state == ArrayState::active);
  CHECK(again.status().clean);
  must_equal(model, again);
}

TEST_CASE("every array survives each loss it can, is written without, and rebuilt") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    for (const Shape& shape : redundant_shapes()) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      for (const auto& lost : losses(shape)) {
        // All of them take long: a random part each run.
        if (!random.one_in(4)) continue;
        INFO("lost ", lost[0], " and ", lost.back());
        lose_and_rebuild(random, shape, lost);
      }
    }
  });
}

TEST_CASE("linear and raid0 arrays read what was written") {
  for (const Shape& shape : {Shape{level_linear, 0, 3}, Shape{0, 0, 3}, Shape{0, 1, 2}}) {
    INFO(shape.text());
    Rig rig(shape, 0);
    Array& array = rig.assemble();
    CHECK(array.size() >= 2 * MiB);
    Random random(1);
    ByteModel model(array.size());
    for (int i = 0; i < 40; ++i) write_random(random, array, model);
    must_equal(model, array);
    CHECK(!array.fail(rig.name(0)));
    must(array.stop());
    must_equal(model, rig.assemble());
  }
}

TEST_CASE("a new raid5 recovers its last member, a new raid1 is resynced") {
  simulate(2, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    Random random(seed);
    for (const Shape& base :
         {Shape{5, 2, 3}, Shape{1, 0, 2}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
      Shape shape = base;
      shape.assume_clean = false;
      Rig rig(shape);
      for (auto& disk : rig.disks) {
        // What lay there before differs from disk to disk, but for the superblock.
        const auto noise = random_bytes(random, 128 * KiB);
        disk->poke(1 * MiB, noise);
      }
      ArrayOptions options;
      options.hold_sync = true;
      Array& array = rig.assemble(options);
      ByteModel model(array.size());
      std::vector<std::byte> now = read_bytes(array, 0, array.size());
      model.write(0, now);
      for (int i = 0; i < 4; ++i) write_random(random, array, model);
      must_equal(model, array);
      array.release_sync();
      for (int i = 0; i < 4; ++i) write_random(random, array, model);
      REQUIRE(array.wait_sync());
      must_equal(model, array);
      CHECK(array.status().state == ArrayState::active);
      must_agree(array);
    }
  });
}

TEST_CASE("writes at once to the same stripes leave redundancy that agrees") {
  simulate(3, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    for (const Shape& shape :
         {Shape{5, 2, 3}, Shape{6, 2, 5}, Shape{1, 0, 2}, Shape{10, 0x201, 3}}) {
      Rig rig(shape);
      Array& array = rig.assemble();
      std::vector<Thread> threads;
      for (uint64_t t = 0; t < 3; ++t)
        threads.push_back(must(Thread::start("writer", [&array, seed, t] {
          Random random(seed * 16 + t);
          for (int i = 0; i < 12; ++i) {
            const auto range = random_range(random, 32 * KiB, 512, 16 * KiB);
            must(array.write(range.offset, random_bytes(random, range.length)));
          }
        })));
      threads.clear();
      must_agree(array);
    }
  });
}

TEST_CASE("a read error is answered from the other members, and corrected") {
  for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
    INFO(shape.text());
    Rig rig(shape);
    Array& array = rig.assemble();
    Random random(7);
    ByteModel model(array.size());
    for (int i = 0; i < 20; ++i) write_random(random, array, model);
    rig.faults[0]->add_latent(1 * MiB + 8 * KiB, 4 * KiB);
    for (uint64_t at = 0; at < array.size(); at += 4 * KiB) {
      std::vector<std::byte> block(4 * KiB);
      must(array.read(at, block));
      CHECK(!first_difference(block, model.bytes(at, 4 * KiB)));
    }
    CHECK(array.status().state == ArrayState::active);
    // Parity and copies that nobody read are read, and corrected, by a check.
    must_agree(array);
    std::vector<std::byte> bytes(128 * KiB);
    must(rig.faults[0]->read(1 * MiB, bytes));
    CHECK(array.status().state == ArrayState::active);
  }
}

TEST_CASE("while sync is held, what a member cannot give is not written to it") {
  for (Shape shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
    shape.version = SuperblockVersion::v0_90;  // has no log of bad blocks
    INFO(shape.text());
    Rig rig(shape);
    ArrayOptions options;
    options.hold_sync = true;
    Array& array = rig.assemble(options);
    Random random(7);
    ByteModel model(array.size());
    for (int i = 0; i < 20; ++i) write_random(random, array, model);
    // More than md would forgive, if it were corrected; and that cannot be.
    rig.faults[0]->add(
        {.op = FaultOp::read | FaultOp::write, .begin = 0, .end = 120 * KiB, .error = EIO});
    for (int i = 0; i < 2; ++i) must_equal(model, array);
    CHECK(array.status().state == ArrayState::active);
    CHECK(array.status().members[0].read_errors == 0);
    array.release_sync();
    must_equal(model, array);
    CHECK(array.status().state == ArrayState::degraded);
  }
}

// A device that only remaps, as a logical volume on an array does.
class Window final : public BlockDevice {
 public:
  explicit Window(BlockDevice& below) : BlockDevice("window", below.size()), below_(below) {}

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override {
    return below_.map(op, offset, length, wait, out);
  }
  BlockDevice& below_;
};

TEST_CASE("a read error below a volume on an array is answered from the other members") {
  for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{10, 0x102, 4}}) {
    INFO(shape.text());
    Rig rig(shape);
    Array& array = rig.assemble();
    Window window(array);
    Random random(7);
    ByteModel model(array.size());
    for (int i = 0; i < 20; ++i) write_random(random, array, model);
    rig.faults[0]->add_latent(1 * MiB, 8 * KiB);
    must_equal(model, array);
    rig.faults[0]->add_latent(1 * MiB, 8 * KiB);
    const auto bytes = read_bytes(window, 0, window.size());
    CHECK(!first_difference(bytes, model.bytes(0, window.size())));
  }
}

TEST_CASE("a write error fails the member before the write is acknowledged") {
  for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
    INFO(shape.text());
    Rig rig(shape);
    Array& array = rig.assemble();
    Random random(7);
    ByteModel model(array.size());
    for (int i = 0; i < 20; ++i) write_random(random, array, model);
    rig.faults[1]->vanish(true);
    for (int i = 0; i < 20; ++i) write_random(random, array, model);
    CHECK(array.status().state == ArrayState::degraded);
    must_equal(model, array);
    const auto survivor = must(scan(*rig.faults[0]));
    REQUIRE(survivor);
    rig.faults[1]->vanish(false);
    const auto failed = must(scan(*rig.faults[1]));
    REQUIRE(failed);
    CHECK(survivor->array.events > failed->array.events + 1);
    CHECK(survivor->array.roles[1] == role_faulty);
  }
}

TEST_CASE("a write that goes without a lost member counts only when the loss is recorded") {
  simulate(5, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    for (const bool flushes : {false, true}) {
      Rig rig({1, 0, 2, 4 * KiB, SuperblockVersion::v0_90});  // has no bad-block log
      ArrayOptions lasting;
      lasting.safe_mode_delay = std::chrono::hours(1);
      Array& array = rig.assemble(lasting);
      const std::vector<std::byte> block(4 * KiB, std::byte{1});
      must(array.write(0, block));
      const uint64_t super = must(scan(*rig.faults[0]))->super_offset;
      const auto held = rig.faults[0]->add(
          {.op = FaultOp::write, .begin = super, .end = super + 4096, .hang = true});
      rig.faults[1]->vanish(true);
      const auto start = [](auto work) { return must(Thread::start("writer", work)); };
      Thread first = start([&] { must(array.write(0, block)); });
      eventually([&] { return rig.faults[0]->hits(held) > 0; });
      std::atomic<bool> counts{false};
      Thread second = start([&] {
        must(flushes ? array.flush() : array.write(64 * KiB, block));
        counts.store(true);
      });
      sleep_for(std::chrono::seconds(5));
      CHECK(!counts.load());
      rig.faults[0]->remove(held);
      first.join();
      second.join();
      CHECK(must(scan(*rig.faults[0]))->array.roles[1] == role_faulty);
    }
  });
}

TEST_CASE("what cannot be written is recorded as bad, never read, and good again when written") {
  for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
    INFO(shape.text());
    Rig rig(shape);
    rig.assemble();
    Random random(7);
    ByteModel model(rig.array->size());
    const auto write_all = [&] {
      const auto bytes = random_bytes(random, model.size());
      must(rig.array->write(0, bytes));
      model.write(0, bytes);
    };
    const auto restart = [&] {
      must(rig.array->stop());
      rig.array.reset();
      rig.assemble();
      CHECK(rig.array->status().state == ArrayState::active);
    };
    write_all();
    const uint64_t begin = 1 * MiB + 8 * KiB + 512, end = begin + 7 * KiB;
    const auto spoiled =
        rig.faults[1]->add({.op = FaultOp::write, .begin = begin, .end = end, .error = EIO});
    write_all();
    CHECK(rig.array->status().state == ArrayState::active);
    must_equal(model, *rig.array);
    CHECK(must(scan(*rig.faults[1]))->bad_blocks);
    CHECK(!must(scan(*rig.faults[0]))->bad_blocks);
    restart();
    must_equal(model, *rig.array);
    for (int i = 0; i < 20; ++i) write_random(random, *rig.array, model);
    must_equal(model, *rig.array);
    must_agree(*rig.array);
    rig.faults[1]->remove(spoiled);
    write_all();
    restart();
    CHECK(!must(scan(*rig.faults[1]))->bad_blocks);
    // What was bad is as good as the others again.
    must(rig.array->fail(rig.name(0)));
    must_equal(model, *rig.array);
  }
}

TEST_CASE("a recovery goes on over what cannot be read any more, and says what is lost") {
  for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{10, 0x102, 2}}) {
    INFO(shape.text());
    Rig rig(shape);
    Array& array = rig.assemble();
    Random random(7);
    ByteModel model(array.size());
    const auto bytes = random_bytes(random, model.size());
    must(array.write(0, bytes));
    model.write(0, bytes);
    must(array.fail(rig.name(1)));
    must(array.remove(rig.name(1)));
    rig.faults[0]->add_latent(1 * MiB + 8 * KiB, 4 * KiB);
    const size_t fresh = rig.add_disk();
    must(array.add(*rig.faults[fresh]));
    REQUIRE(array.wait_sync());
    CHECK(array.status().state == ArrayState::active);
    CHECK(must(scan(*rig.faults[fresh]))->bad_blocks);
    uint64_t lost = 0;
    for (uint64_t at = 0; at < array.size(); at += 512) {
      std::vector<std::byte> sector(512);
      if (array.read(at, sector))
        CHECK(!first_difference(sector, model.bytes(at, 512)));
      else
        ++lost;
    }
    CHECK(lost > 0);
    CHECK(lost <= 16);
    must(array.write(0, bytes));
    must_equal(model, array);
    must_agree(array);
  }
}

TEST_CASE("beyond what it survives an array fails and leaves its members alone") {
  Rig rig({5, 2, 3});
  Array& array = rig.assemble();
  std::vector<std::byte> block(64 * KiB, std::byte{7});
  must(array.write(0, block));
  rig.faults[0]->vanish(true);
  rig.faults[2]->vanish(true);
  const auto refused = array.write(0, block);
  REQUIRE(!refused);
  CHECK(refused.error().code() == EIO);
  CHECK(array.status().state == ArrayState::failed);
  const uint64_t before = rig.faults[1]->count(FaultOp::write);
  CHECK(!array.write(64 * KiB, block));
  CHECK(!array.read(0, block));
  must(array.stop());
  CHECK(rig.faults[1]->count(FaultOp::write) == before);
}

}  // namespace
}  // namespace volfs::md
