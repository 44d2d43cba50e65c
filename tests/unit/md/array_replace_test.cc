// SPDX-License-Identifier: GPL-2.0-or-later
// A member is replaced while it serves: the new one gets all that it has and all that is written
// meanwhile, then takes its place.
#include <algorithm>

#include "array_rig.h"
#include "support/sim_scheduler.h"

namespace volfs::md {
namespace {

using namespace test;

const MemberStatus* member_of(const ArrayStatus& status, const std::string& name) {
  const auto found = std::find_if(status.members.begin(), status.members.end(),
                                  [&](const auto& m) { return m.device == name; });
  return found == status.members.end() ? nullptr : &*found;
}

// Until the replacement has come half the way.
void replace_half(Array& array) {
  for (int i = 0; i < 1000 && array.progress().position < 512 * KiB; ++i)
    sleep_for(std::chrono::milliseconds(20));
  array.hold_sync(true);
  eventually([&] { return array.progress().action == SyncAction::idle; });
}

// An array of SHAPE with random content and a spare.
struct Replacing {
  Replacing(Random& r, const Shape& shape)
      : random(r), rig(shape), array(&rig.assemble()), model(array->size()) {
    for (int i = 0; i < 6; ++i) write_random(random, *array, model);
    spare = rig.add_disk();
    must(array->add(*rig.faults[spare]));
  }
  void restart(const ArrayOptions& options = {}) {
    must(array->stop());
    rig.array.reset();
    array = &rig.assemble(options);
  }
  void in_order() {
    REQUIRE(array->wait_sync());
    CHECK(array->status().state == ArrayState::active);
    must_equal(model, *array);
    must_agree(*array);
  }
  Random& random;
  Rig rig;
  Array* array;
  ByteModel model;
  size_t spare = 0;
};

TEST_CASE("a member is replaced while it serves and is written to") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    for (const Shape& shape : redundant_shapes()) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Replacing b(random, shape);
      const std::string old = b.rig.name(random.below(shape.disks)), fresh = b.rig.name(b.spare);
      must(b.array->replace(old, random.one_in(2) ? fresh : ""));
      while (!b.array->wait_sync(now() + std::chrono::milliseconds(1)))
        write_random(random, *b.array, b.model);
      const ArrayStatus status = b.array->status();
      CHECK(member_of(status, old)->state == MemberState::faulty);
      CHECK(member_of(status, fresh)->state == MemberState::in_sync);
      CHECK(!member_of(status, fresh)->replacement);
      b.in_order();
      must(b.array->remove(old));
      b.restart();
      CHECK(!member_of(b.array->status(), old));
      b.in_order();
    }
  });
}

TEST_CASE("a replacement goes on where it stood, the old one serves until then") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    for (const Shape& shape : redundant_shapes()) {
      if (shape.version == SuperblockVersion::v0_90) continue;  // which cannot record it
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Rig big(shape, 896 * KiB);
      const auto members = big.devices();
      big.add_disk();
      ArrayOptions slow;
      slow.hold_sync = true;
      slow.sync_speed_max = 64 * KiB;
      Array& first = big.assemble(members, slow);
      ByteModel model(first.size());
      for (int i = 0; i < 6; ++i) write_random(random, first, model);
      const size_t old = random.below(shape.disks), fresh = shape.disks;
      must(first.add(*big.faults[fresh]));
      must(first.replace(big.name(old), big.name(fresh)));
      first.release_sync();
      replace_half(first);
      for (int i = 0; i < 6; ++i) write_random(random, first, model);
      CHECK(first.status().state == ArrayState::active);
      must_equal(model, first);
      CHECK(first.mdstat().find(big.name(fresh) + "[") != std::string::npos);
      CHECK(first.mdstat().find("](R)") != std::string::npos);
      must(first.stop());
      big.array.reset();
      const auto on_disk = must(scan(*big.faults[fresh]));
      CHECK(on_disk->replacement);
      CHECK(on_disk->role() == old);
      REQUIRE(on_disk->recovery_offset);
      CHECK(*on_disk->recovery_offset >= 512 * KiB);
      Array& again = big.assemble(slow);
      CHECK(again.status().state == ArrayState::active);
      CHECK(member_of(again.status(), big.name(fresh))->replacement);
      for (int i = 0; i < 6; ++i) write_random(random, again, model);
      again.release_sync();
      REQUIRE(again.wait_sync());
      CHECK(member_of(again.status(), big.name(old))->state == MemberState::faulty);
      must_equal(model, again);
      must_agree(again);
    }
  });
}

// Nobody knows without a bitmap what else the crash may have left different on the two.
TEST_CASE(
    "after a crash a replacement gets anew what was being written, and without a bitmap all") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    for (const bool bitmap : {true, false})
      for (const Shape& like :
           {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
        Shape shape = like;
        shape.bitmap = bitmap;
        INFO("VOLFS_SEED=", seed, " ", shape.text());
        Rig big(shape, 896 * KiB);
        const auto members = big.devices();
        const size_t fresh = big.add_disk();
        ArrayOptions slow;
        slow.hold_sync = true;
        slow.sync_speed_max = 64 * KiB;
        Array& first = big.assemble(members, slow);
        must(first.add(*big.faults[fresh]));
        must(first.replace("disk0", big.name(fresh)));
        first.release_sync();
        replace_half(first);
        if (bitmap) no_dirty_bits(first);
        const uint64_t begun = *big.superblock(fresh).recovery_offset;
        REQUIRE(begun >= 512 * KiB);
        must(first.write(0, std::vector<std::byte>(4 * KiB, std::byte{7})));
        // The power goes here; the first block of the replacement did not get there, and another
        // one, which nobody wrote, is marked to see whether it is written again.
        Rig after(shape, 896 * KiB);
        after.add_disk();
        for (size_t i = 0; i < big.disks.size(); ++i) after.disks[i]->copy_from(*big.disks[i]);
        const uint64_t data = big.superblock(fresh).data_offset, marked = data + 256 * KiB;
        const std::vector<std::byte> mark(4 * KiB, std::byte{9}), written(4 * KiB, std::byte{7});
        must(after.disks[fresh]->write(data, mark));
        must(after.disks[fresh]->write(marked, mark));
        must(first.stop());
        REQUIRE(after.superblock(0).array.resync_offset == 0);
        Array& again = after.assemble(slow);
        CHECK(read_bytes(again, 0, 4 * KiB) == written);
        // If it goes again, nothing is lost of what was done.
        must(again.add(*after.faults[after.add_disk()]));
        CHECK(*after.superblock(fresh).recovery_offset == (bitmap ? begun : 0));
        again.release_sync();
        REQUIRE(again.wait_sync());
        CHECK(member_of(again.status(), "disk0")->state == MemberState::faulty);
        CHECK(read_bytes(*after.disks[fresh], data, 4 * KiB) == written);
        CHECK((read_bytes(*after.disks[fresh], marked, 4 * KiB) == mark) == bitmap);
        CHECK(read_bytes(again, 0, 4 * KiB) == written);
      }
  });
}

TEST_CASE("when the old one fails meanwhile, its replacement is recovered from the others") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    for (const Shape& shape : redundant_shapes()) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Replacing b(random, shape);
      const size_t old = random.below(shape.disks);
      must(b.array->replace(b.rig.name(old), ""));
      sleep_for(std::chrono::microseconds(random.below(3000)));
      (void)b.array->fail(b.rig.name(old));
      for (int i = 0; i < 6; ++i) write_random(random, *b.array, b.model);
      must_equal(b.model, *b.array);
      b.in_order();
      CHECK(member_of(b.array->status(), b.rig.name(b.spare))->state == MemberState::in_sync);
      must(b.array->remove(b.rig.name(old)));
      b.restart();
      b.in_order();
    }
  });
}

TEST_CASE("when the replacement fails the old one serves on, and another spare takes its place") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    for (const Shape& shape : redundant_shapes()) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Replacing b(random, shape);
      const size_t old = random.below(shape.disks);
      b.rig.faults[b.spare]->fail_nth(FaultOp::write, 3, EIO);
      b.rig.faults[b.spare]->vanish(true);
      must(b.array->replace(b.rig.name(old), ""));
      for (int i = 0; i < 6; ++i) write_random(random, *b.array, b.model);
      eventually([&] {
        return member_of(b.array->status(), b.rig.name(b.spare))->state == MemberState::faulty;
      });
      CHECK(b.array->status().state == ArrayState::active);
      CHECK(b.array->mdstat().find("(F)(R)") == std::string::npos);
      CHECK(member_of(b.array->status(), b.rig.name(old))->state == MemberState::in_sync);
      b.in_order();
      const size_t second = b.rig.add_disk();
      must(b.array->add(*b.rig.faults[second]));
      for (int i = 0; i < 3; ++i) write_random(random, *b.array, b.model);
      b.in_order();
      CHECK(member_of(b.array->status(), b.rig.name(second))->state == MemberState::in_sync);
      CHECK(member_of(b.array->status(), b.rig.name(old))->state == MemberState::faulty);
    }
  });
}

TEST_CASE("a spare takes over from a member that cannot write everything any more") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    for (const Shape& shape : {Shape{1, 0, 2}, Shape{6, 2, 4}, Shape{10, 0x102, 4}}) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Replacing b(random, shape);
      const uint64_t data = must(scan(*b.rig.faults[1]))->data_offset;
      b.rig.faults[1]->add(
          {.op = FaultOp::write, .begin = data + 8 * KiB, .end = data + 12 * KiB, .error = EIO});
      const auto bytes = random_bytes(random, b.array->size());
      must(b.array->write(0, bytes));
      b.model.write(0, bytes);
      b.in_order();
      CHECK(member_of(b.array->status(), b.rig.name(b.spare))->state == MemberState::in_sync);
      CHECK(member_of(b.array->status(), b.rig.name(1))->state == MemberState::faulty);
    }
  });
}

TEST_CASE("metadata 0.90 has a replacement for a spare until it takes over") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    Rig rig({1, 0, 2, 4 * KiB, SuperblockVersion::v0_90}, 896 * KiB);
    ArrayOptions slow;
    slow.sync_speed_max = 1 * MiB;
    Array& array = rig.assemble(slow);
    ByteModel model(array.size());
    for (int i = 0; i < 6; ++i) write_random(random, array, model);
    const size_t spare = rig.add_disk();
    must(array.add(*rig.faults[spare]));
    must(array.replace("disk0", ""));
    replace_half(array);
    for (int i = 0; i < 6; ++i) write_random(random, array, model);
    must(array.stop());
    const auto left = must(scan(*rig.faults[spare]));
    CHECK(left->array.events == must(scan(*rig.faults[0]))->array.events);
    CHECK(left->role() == role_spare);
    rig.array.reset();
    Array& again = rig.assemble();
    must(again.replace("disk0", ""));
    REQUIRE(again.wait_sync());
    CHECK(member_of(again.status(), rig.name(spare))->state == MemberState::in_sync);
    must_equal(model, again);
    must_agree(again);
  });
}

TEST_CASE("only members in sync are replaced, and only by spares") {
  Rig rig({1, 0, 2});
  Array& array = rig.assemble();
  CHECK(array.replace("nobody", "").error().code() == ENOENT);
  CHECK(array.replace("disk0", "disk1").error().text() == "md0: disk1 is no spare: add it first");
  must(array.fail("disk1"));
  CHECK(array.replace("disk1", "").error().text() ==
        "md0: disk1 is not in sync: only such a member can be replaced");
}

TEST_CASE("a replacement without whom it replaces is recovered from the others") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    Random random(seed);
    Rig rig({5, 2, 3}, 896 * KiB);
    const auto members = rig.devices();
    rig.add_disk();
    ArrayOptions slow;
    slow.hold_sync = true;
    slow.sync_speed_max = 1 * MiB;
    Array& array = rig.assemble(members, slow);
    ByteModel model(array.size());
    for (int i = 0; i < 6; ++i) write_random(random, array, model);
    must(array.add(*rig.faults[3]));
    must(array.replace("disk1", "disk3"));
    array.release_sync();
    replace_half(array);
    must(array.stop());
    rig.array.reset();
    auto devices = rig.devices();
    devices.erase(devices.begin() + 1);
    ArrayOptions read_only;
    read_only.read_only = true;
    CHECK(rig.assemble(devices, read_only).status().state == ArrayState::degraded);
    must_equal(model, *rig.array);
    rig.array.reset();
    Array& left = rig.assemble(devices);
    REQUIRE(left.wait_sync());
    CHECK(left.status().state == ArrayState::active);
    must_equal(model, left);
    must_agree(left);
    must(left.stop());
    // The old one is not taken for what it was any more.
    rig.array.reset();
    const ArrayStatus all = rig.assemble().status();
    CHECK((!member_of(all, "disk1") || !member_of(all, "disk1")->slot));
    must_equal(model, *rig.array);
  });
}

// At each point of a replacement the power may go.
void cut_a_replacement(uint64_t seed, const Shape& shape) {
  Random random(seed);
  CrashRig rig(shape, 64 * KiB, 1);
  auto array = must(Array::assemble({rig.devices.data(), rig.devices.size() - 1}, {}));
  ByteModel model(array->size());
  for (int i = 0; i < 6; ++i) write_random(random, *array, model);
  must(array->flush());
  sleep_for(std::chrono::seconds(1));  // clean
  must(array->add(*rig.devices.back()));
  const size_t begin = rig.log.size();
  must(array->replace(rig.disks[random.below(shape.disks)]->name(), ""));
  REQUIRE(array->wait_sync());
  array.reset();
  for (size_t point = begin; point <= rig.log.size(); ++point) {
    INFO("cut at ", point, " of ", rig.log.size());
    const auto left = rig.cut(point, CrashKeep::some(seed + point));
    auto again = must(Array::assemble(left.devices, {}));
    CHECK(again->status().state == ArrayState::active);
    must_equal(model, *again);
    REQUIRE(again->wait_sync());
    must_equal(model, *again);
    must_agree(*again);
  }
}

// The same while it is written to: what is read then is what is read when all is done.
void cut_a_replacement_under_writes(uint64_t seed, const Shape& shape) {
  Random random(seed);
  CrashRig rig(shape, 64 * KiB, 1);
  auto array = must(Array::assemble({rig.devices.data(), rig.devices.size() - 1}, {}));
  ByteModel model(array->size());
  write_random(random, *array, model);
  must(array->add(*rig.devices.back()));
  const size_t begin = rig.log.size();
  must(array->replace(rig.disks[random.below(shape.disks)]->name(), ""));
  while (!array->wait_sync(now() + std::chrono::microseconds(100)))
    write_random(random, *array, model);
  const uint64_t size = array->size();
  array.reset();
  for (size_t point = begin; point <= rig.log.size(); ++point) {
    INFO("cut at ", point, " of ", rig.log.size());
    const auto left = rig.cut(point, CrashKeep::some(seed + point));
    auto again = must(Array::assemble(left.devices, {}));
    CHECK(again->status().state == ArrayState::active);
    const auto content = read_bytes(*again, 0, size);
    REQUIRE(again->wait_sync());
    CHECK(!first_difference(read_bytes(*again, 0, size), content));
    must_agree(*again);
  }
}

TEST_CASE("what is read after a power cut during a replacement stays so") {
  simulate(3, [](uint64_t seed) {
    const SimScheduler sim(seed);
    for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{10, 0x102, 5}}) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      cut_a_replacement_under_writes(seed, shape);
    }
  });
}

TEST_CASE("a power cut during a replacement leaves an array that is whole") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    for (const Shape& shape : {Shape{1, 0, 2}, Shape{5, 2, 3}, Shape{10, 0x102, 4}}) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      cut_a_replacement(seed, shape);
    }
  });
}

}  // namespace
}  // namespace volfs::md
