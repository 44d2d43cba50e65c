// SPDX-License-Identifier: GPL-2.0-or-later
// Arrays on disks of memory that can be made to fail.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "support/byte_model.h"
#include "support/crash_device.h"
#include "support/fault_device.h"
#include "support/memory_device.h"
#include "support/random.h"
#include "support/sim_scheduler.h"
#include "volfs/md/array.h"
#include "volfs/units.h"

namespace volfs::md {

struct Shape {
  int32_t level;
  uint32_t layout;
  uint32_t disks;
  uint64_t chunk = 4 * KiB;
  SuperblockVersion version = SuperblockVersion::v1_2;
  bool bitmap = false;
  bool assume_clean = true;
  bool ppl = false;
  std::string text() const {
    return fmt::format("{} {} of {}, metadata {}{}", level_name(level), layout_name(level, layout),
                       disks, version_name(version),
                       bitmap ? ", bitmap"
                       : ppl  ? ", PPL"
                              : "");
  }
};

// Every redundant level, layout and form, with the superblocks and bitmaps spread over them.
inline std::vector<Shape> redundant_shapes() {
  std::vector<Shape> shapes = {{1, 0, 2},        {1, 0, 3},        {4, 0, 3},        {10, 0x102, 2},
                               {10, 0x102, 4},   {10, 0x102, 5},   {10, 0x103, 4},   {10, 0x201, 4},
                               {10, 0x201, 5},   {10, 0x10201, 4}, {10, 0x10201, 3}, {10, 0x202, 4},
                               {10, 0x40201, 4}, {10, 0x301, 4}};
  for (uint32_t layout = 0; layout <= 5; ++layout) shapes.push_back({5, layout, 3 + layout % 3});
  for (uint32_t layout : {0u, 1u, 2u, 3u, 4u, 5u, 8u, 9u, 10u, 16u, 17u, 18u, 19u, 20u})
    shapes.push_back({6, layout, 4 + layout % 2});
  shapes.push_back({5, 2, 2});
  shapes.push_back({5, 2, 3});
  const SuperblockVersion versions[] = {SuperblockVersion::v1_2, SuperblockVersion::v1_0,
                                        SuperblockVersion::v0_90, SuperblockVersion::v1_1};
  for (size_t i = 0; i < shapes.size(); ++i) {
    shapes[i].version = versions[i % 4];
    shapes[i].bitmap = i % 3 == 1;
    if (i % 5 == 2) shapes[i].chunk = 16 * KiB;
  }
  shapes.back() = {5, 2, 4, 4 * KiB, SuperblockVersion::v1_2};
  shapes.back().ppl = true;
  return shapes;
}

template <class T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().text());
  return std::move(*result);
}
inline void must(const Status& status) {
  if (!status) FAIL(status.error().text());
}

class Rig {
 public:
  static constexpr uint64_t disk_size = 2 * MiB, disk_size_with_ppl = 4 * MiB;
  explicit Rig(const Shape& shape, uint64_t member_size = 128 * KiB) : shape_(shape) {
    for (uint32_t i = 0; i < shape.disks; ++i) add_disk();
    CreateOptions o;
    o.level = shape.level;
    o.layout = shape.layout;
    o.version = shape.version;
    o.raid_disks = shape.disks;
    o.chunk = shape.level == 1 || shape.level < 0 ? 0 : shape.chunk;
    o.size = member_size;
    o.assume_clean = shape.assume_clean;
    o.ppl = shape.ppl;
    o.bitmap = shape.bitmap ? BitmapChoice::internal : BitmapChoice::none;
    o.bitmap_chunk = shape.bitmap ? 8 * KiB : 0;
    o.name = "test";
    o.uuid.bytes.fill(0x5a);
    for (uint32_t i = 0; i < shape.disks; ++i) {
      o.devices.push_back({.size = disks[i]->size()});
      o.device_uuids.emplace_back();
      o.device_uuids.back().bytes.fill(static_cast<uint8_t>(i + 1));
    }
    must(write_new_members(must(plan_create(o)), devices()));
  }

  // A new disk; its index.
  size_t add_disk() {
    disks.push_back(std::make_unique<test::MemoryDevice>(
        fmt::format("disk{}", disks.size()), shape_.ppl ? disk_size_with_ppl : disk_size));
    faults.push_back(std::make_unique<test::FaultDevice>(*disks.back(), disks.size()));
    return disks.size() - 1;
  }
  std::vector<BlockDevice*> devices() const {
    std::vector<BlockDevice*> list;
    for (const auto& fault : faults) list.push_back(fault.get());
    return list;
  }
  std::string name(size_t disk) const { return faults[disk]->name(); }
  MemberMetadata superblock(size_t disk) const {
    auto found = must(scan(*faults[disk]));
    REQUIRE(found);
    return *found;
  }
  Array& assemble(ArrayOptions options = {}) { return assemble(devices(), options); }
  Array& assemble(const std::vector<BlockDevice*>& members, ArrayOptions options = {}) {
    array = must(Array::assemble(members, options));
    return *array;
  }

  std::vector<std::unique_ptr<test::MemoryDevice>> disks;
  std::vector<std::unique_ptr<test::FaultDevice>> faults;
  std::unique_ptr<Array> array;

 private:
  const Shape shape_;
};

// Disks with a log of what they are told: the power can go at any point of it.
class CrashRig {
 public:
  // The members of a new array, and SPARES more.
  CrashRig(const Shape& shape, uint64_t member_size, size_t spares = 0) {
    Rig rig(shape, member_size);
    for (size_t i = 0; i < spares; ++i) rig.add_disk();
    begin_with(rig);
  }
  explicit CrashRig(const Rig& rig) { begin_with(rig); }

  // What is left of the disks.
  struct After {
    std::vector<std::unique_ptr<test::MemoryDevice>> disks;
    std::vector<BlockDevice*> devices;  // without LOST
  };
  After cut(size_t point, test::CrashKeep keep, size_t lost = SIZE_MAX) const {
    After after;
    for (size_t i = 0; i < disks.size(); ++i) {
      after.disks.push_back(
          std::make_unique<test::MemoryDevice>(disks[i]->name(), disks[i]->size()));
      log.materialise(*disks[i], point, keep, *after.disks.back());
      if (i != lost) after.devices.push_back(after.disks.back().get());
    }
    return after;
  }

  test::CrashLog log;
  std::vector<std::unique_ptr<test::CrashDevice>> disks;
  std::vector<BlockDevice*> devices;

 private:
  void begin_with(const Rig& rig) {
    for (const auto& disk : rig.disks) {
      disks.push_back(std::make_unique<test::CrashDevice>(log, disk->name(), *disk));
      devices.push_back(disks.back().get());
    }
  }
};

// Rewrites the superblock of a disk.
template <class Change>
void change(Rig& rig, size_t disk, Change change) {
  MemberMetadata sb = rig.superblock(disk);
  change(sb);
  must(rig.disks[disk]->write(sb.super_offset, must(encode_superblock(sb))));
}

// A random write to both.
inline void write_random(test::Random& random, Array& array, test::ByteModel& model) {
  const auto range = test::random_range(random, model.size(), 512, 48 * KiB);
  const auto bytes = test::random_bytes(random, range.length);
  must(array.write(range.offset, bytes, random.one_in(4) ? Fua::yes : Fua::no));
  model.write(range.offset, bytes);
}

inline void must_equal(const test::ByteModel& model, Array& array) {
  const auto difference = model.difference(array);
  if (difference) FAIL(*difference);
}

// Waits for what the array does by itself after a while; simulated machines can be slow.
template <class Predicate>
void eventually(Predicate ready) {
  for (int i = 0; i < 200 && !ready(); ++i) sleep_for(std::chrono::seconds(1));
  REQUIRE(ready());
}
inline void no_dirty_bits(Array& array) {
  eventually([&] { return array.status().bitmap->dirty_bits == 0; });
}

inline void must_agree(Array& array) {
  must(array.check());
  CHECK(array.wait_sync());
  CHECK(array.status().mismatches == 0);
}

}  // namespace volfs::md
