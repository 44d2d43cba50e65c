// SPDX-License-Identifier: GPL-2.0-or-later
// Arrays against a vector of bytes: random work on them while members fail, come and go; and power
// cuts at every point of it.
#include <algorithm>

#include "array_rig.h"
#include "support/crash_device.h"
#include "support/sim_scheduler.h"

namespace volfs::md {
namespace {

using namespace test;

class Model {
 public:
  Model(uint64_t seed, const Shape& shape) : random_(seed), rig_(shape) {
    rig_.assemble(options());
    model_ = std::make_unique<ByteModel>(rig_.array->size());
    const std::vector<std::byte> start = read_bytes(*rig_.array, 0, rig_.array->size());
    model_->write(0, start);
  }

  void step() {
    Array& array = *rig_.array;
    switch (random_.below(30)) {
      case 0:
        return lose();
      case 1:
      case 2:
        return bring_back();
      case 3:
        if (random_.one_in(4)) return restart();
        return must(array.flush());
      case 4:
        (void)array.check();  // refused while another sync runs
        return;
      case 5: {
        const auto range = random_range(random_, model_->size(), 512, 64 * KiB);
        must(array.write_zeroes(range.offset, range.length));
        return model_->zero(range.offset, range.length);
      }
      case 6:
        return sleep_for(std::chrono::milliseconds(random_.below(400)));
      default:
        break;
    }
    if (random_.one_in(2)) return write_random(random_, array, *model_);
    const auto range = random_range(random_, model_->size(), 512, 64 * KiB);
    const auto bytes = read_bytes(array, range.offset, range.length);
    if (auto difference = first_difference(bytes, model_->bytes(range.offset, range.length)))
      FAIL("read ", range.length, " at ", range.offset, ": ", *difference);
  }

  void finish() {
    while (!gone_.empty()) bring_back();
    REQUIRE(rig_.array->wait_sync());
    CHECK(rig_.array->status().state == ArrayState::active);
    must_equal(*model_, *rig_.array);
    must_agree(*rig_.array);
    must(rig_.array->stop());
  }

 private:
  static ArrayOptions options() {
    ArrayOptions o;
    o.bitmap_sweep = std::chrono::seconds(1);
    return o;
  }
  void lose() {
    const auto members = rig_.array->status().members;
    const auto& victim = members[random_.below(members.size())];
    if (victim.state == MemberState::faulty || !rig_.array->fail(victim.device)) return;
    must(rig_.array->remove(victim.device));
    gone_.push_back(victim.device);
  }
  void bring_back() {
    if (gone_.empty()) return;
    const std::string name = gone_.back();
    gone_.pop_back();
    for (const auto& fault : rig_.faults)
      if (fault->name() == name) must(rig_.array->add(*fault));
  }
  void restart() {
    must(rig_.array->stop());
    rig_.array.reset();
    std::vector<BlockDevice*> members;
    for (BlockDevice* device : rig_.devices())
      if (std::find(gone_.begin(), gone_.end(), device->name()) == gone_.end())
        members.push_back(device);
    rig_.assemble(members, options());
  }

  Random random_;
  Rig rig_;
  std::unique_ptr<ByteModel> model_;
  std::vector<std::string> gone_;
};

TEST_CASE("arrays behave as a vector of bytes while members come and go") {
  const std::vector<Shape> shapes = {
      {1, 0, 3, 4 * KiB, SuperblockVersion::v1_2, true},
      {5, 2, 4, 4 * KiB, SuperblockVersion::v1_2, true},
      {5, 1, 3, 16 * KiB, SuperblockVersion::v1_0, false},
      {6, 2, 5, 4 * KiB, SuperblockVersion::v1_1, true},
      {6, 9, 4, 4 * KiB, SuperblockVersion::v0_90, false},
      {4, 0, 3, 8 * KiB, SuperblockVersion::v0_90, true},
      {10, 0x102, 5, 4 * KiB, SuperblockVersion::v1_2, true},
      {10, 0x201, 4, 4 * KiB, SuperblockVersion::v1_2, false},
      {10, 0x10201, 4, 4 * KiB, SuperblockVersion::v1_2, true},
  };
  const uint64_t operations = test_iterations(450) / shapes.size();
  simulate(1, [&](uint64_t seed) {
    const SimScheduler sim(seed);
    for (const Shape& shape : shapes) {
      INFO("VOLFS_SEED=", seed, " ", shape.text());
      Model model(seed, shape);
      for (uint64_t i = 0; i < operations; ++i) model.step();
      model.finish();
    }
  });
}

// What a power cut leaves: each sector old or new, and after the resync members that agree.
void cut_power(uint64_t seed, const Shape& shape) {
  Random random(seed);
  Rig rig(shape, 64 * KiB);
  CrashLog log;
  std::vector<std::unique_ptr<CrashDevice>> disks;
  std::vector<BlockDevice*> devices;
  for (const auto& disk : rig.disks) {
    disks.push_back(std::make_unique<CrashDevice>(log, disk->name(), *disk));
    devices.push_back(disks.back().get());
  }
  ArrayOptions options;
  options.bitmap_sweep = std::chrono::milliseconds(50);
  auto array = must(Array::assemble(devices, options));
  struct Written {
    size_t begun, flushed;
    Range range;
    std::vector<std::byte> bytes;
  };
  std::vector<Written> writes;
  for (int i = 0; i < 6; ++i) {
    const size_t begun = log.size();
    const auto range = random_range(random, array->size(), 512, 12 * KiB);
    writes.push_back({begun, SIZE_MAX, range, random_bytes(random, range.length)});
    must(array->write(range.offset, writes.back().bytes));
    if (random.one_in(2)) {
      must(array->flush());
      for (Written& w : writes) w.flushed = std::min(w.flushed, log.size());
    }
    sleep_for(std::chrono::milliseconds(random.below(300)));
  }
  const uint64_t size = array->size();
  array.reset();
  for (size_t point = 0; point <= log.size(); point += 1 + random.below(4)) {
    INFO("cut at ", point);
    std::vector<std::unique_ptr<MemoryDevice>> after;
    std::vector<BlockDevice*> left;
    for (const auto& disk : disks) {
      after.push_back(std::make_unique<MemoryDevice>(disk->name(), Rig::disk_size));
      log.materialise(*disk, point, CrashKeep::some(seed + point), *after.back());
      left.push_back(after.back().get());
    }
    auto again = must(Array::assemble(left, options));
    REQUIRE(again->wait_sync());
    const auto bytes = read_bytes(*again, 0, size);
    // The last flushed write of a sector, or any that began later.
    for (uint64_t at = 0; at < size; at += 512) {
      const std::span<const std::byte> is(bytes.data() + at, 512);
      std::vector<std::byte> old(512);
      bool found = false;
      std::vector<std::vector<std::byte>> allowed{old};
      for (const Written& w : writes) {
        if (at < w.range.offset || at >= w.range.offset + w.range.length || w.begun > point)
          continue;
        if (w.flushed <= point) allowed.clear();
        const auto* from = w.bytes.data() + (at - w.range.offset);
        allowed.emplace_back(from, from + 512);
      }
      for (const auto& each : allowed)
        found = found || std::equal(is.begin(), is.end(), each.begin());
      if (!found) FAIL("sector at ", at, " holds what it never should");
    }
    must_agree(*again);
  }
}

TEST_CASE("after a power cut the members agree again and nothing flushed is lost") {
  simulate(1, [](uint64_t seed) {
    const SimScheduler sim(seed);
    INFO("VOLFS_SEED=", seed);
    for (const Shape& shape : {Shape{1, 0, 2, 4 * KiB, SuperblockVersion::v1_2, true},
                               Shape{5, 2, 3, 4 * KiB, SuperblockVersion::v1_2, true},
                               Shape{10, 0x201, 3, 4 * KiB, SuperblockVersion::v1_2, true},
                               Shape{6, 2, 4, 4 * KiB, SuperblockVersion::v1_0, false}})
      cut_power(seed, shape);
  });
}

}  // namespace
}  // namespace volfs::md
