// SPDX-License-Identifier: GPL-2.0-or-later
// The power goes at every point of a workload, with any part of what was not flushed: what was
// flushed is right, and a snapshot that nobody writes to never changes.
#include "support/crash_device.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "support/random.h"
#include "world.h"

using namespace volfs;
using namespace volfs::test;

namespace {

constexpr uint64_t sectors = 96;
constexpr uint64_t size = sectors * sector_size;

// A sector filled with one number, so that what is read says which write it is of.
void fill(std::span<std::byte> sector, uint64_t id) {
  for (size_t i = 0; i < sector.size(); i += 8) std::memcpy(sector.data() + i, &id, 8);
}

// The number, or none if the sector is not of one write.
uint64_t id_of(std::span<const std::byte> sector) {
  uint64_t first;
  std::memcpy(&first, sector.data(), 8);
  for (size_t i = 8; i < sector.size(); i += 8)
    if (std::memcmp(sector.data(), sector.data() + i, 8) != 0) return UINT64_MAX;
  return first;
}

using Ids = std::vector<uint64_t>;

Ids ids_of(BlockDevice& device) {
  std::vector<std::byte> bytes(size);
  const Status status = device.read(0, bytes);
  if (!status) FAIL(status.error().text());
  Ids ids;
  for (uint64_t i = 0; i < sectors; ++i)
    ids.push_back(id_of(std::span(bytes).subspan(i * sector_size, sector_size)));
  return ids;
}

// What a volume may hold after a power cut: of each sector what was flushed last, or anything
// written since. Points are sizes of the log.
class Track {
 public:
  explicit Track(const Ids& start) : history_(sectors) {
    for (uint64_t i = 0; i < sectors; ++i) history_[i].push_back({0, 0, start[i]});
  }
  void wrote(uint64_t sector, uint64_t id, size_t begin, size_t end) {
    history_[sector].push_back({begin, end, id});
  }
  void flushed(size_t begin, size_t end) { flushes_.push_back({begin, end, 0}); }
  Ids latest() const {
    Ids ids;
    for (const auto& writes : history_) ids.push_back(writes.back().id);
    return ids;
  }
  bool allowed(uint64_t sector, uint64_t id, size_t point) const {
    size_t covered = 0;  // by the last flush that was done
    for (const Event& flush : flushes_)
      if (flush.end <= point) covered = flush.begin;
    const auto& writes = history_[sector];
    for (size_t i = writes.size(); i-- > 0;) {
      if (writes[i].begin > point) continue;
      if (writes[i].id == id) return true;
      if (writes[i].end <= covered) return false;
    }
    return false;
  }
  void check(const Ids& ids, size_t point) const {
    for (uint64_t i = 0; i < sectors; ++i)
      if (!allowed(i, ids[i], point)) FAIL("point " << point << ": sector " << i << ": " << ids[i]);
  }

 private:
  struct Event {
    size_t begin, end;
    uint64_t id;
  };
  std::vector<std::vector<Event>> history_;
  std::vector<Event> flushes_;
};

struct Workload {
  explicit Workload(uint64_t seed) : random(seed) {}

  void write(BlockDevice& device, Track& track) {
    const Range range = random_range(random, size, sector_size, 12 * KiB);
    std::vector<std::byte> bytes(range.length);
    const uint64_t first = range.offset / sector_size, count = range.length / sector_size;
    for (uint64_t i = 0; i < count; ++i)
      fill(std::span(bytes).subspan(i * sector_size, sector_size), next_id + i);
    const size_t begin = log.size();
    REQUIRE(device.write(range.offset, bytes).has_value());
    for (uint64_t i = 0; i < count; ++i) track.wrote(first + i, next_id + i, begin, log.size());
    next_id += count;
  }
  void flush(BlockDevice& device, Track& track) {
    const size_t begin = log.size();
    REQUIRE(device.flush().has_value());
    track.flushed(begin, log.size());
  }

  Random random;
  CrashLog log;
  uint64_t next_id = 1000;
};

MemoryDevice& numbered(MemoryDevice& device) {
  for (uint64_t i = 0; i < sectors; ++i) {
    std::vector<std::byte> sector(sector_size);
    fill(sector, i + 1);
    device.poke(i * sector_size, sector);
  }
  return device;
}

// The disks after a power cut, and tables over them.
struct After {
  After(const CrashLog& log, size_t point, CrashKeep keep, const CrashDevice& of_base,
        std::initializer_list<const CrashDevice*> of_cows)
      : base(of_base.name(), of_base.size()) {
    log.materialise(of_base, point, keep, base);
    for (const CrashDevice* cow : of_cows) {
      cows.push_back(std::make_unique<MemoryDevice>(cow->name(), cow->size()));
      log.materialise(*cow, point, keep, *cows.back());
      world.add(*cows.back());
    }
  }
  std::unique_ptr<dm::MappedDevice> show(const char* type, const std::string& cow) {
    auto map = std::make_unique<dm::MappedDevice>(cow + "-shown");
    const std::string error = world.set(*map, type, world.snapshot_args(cow, "P", 4096));
    if (error != "") FAIL(error);
    return map;
  }
  MemoryDevice base;
  std::vector<std::unique_ptr<MemoryDevice>> cows;
  World world{base};
};

// Calls CHECK(point, keep) for the plain prefix, for the least, and for some seeded choices.
template <class Check>
void for_each_crash(const CrashLog& log, size_t from, Random& random, Check check) {
  for (size_t point = from; point <= log.size(); ++point) {
    check(point, CrashKeep::all());
    check(point, CrashKeep::none());
    for (int i = 0; i < 2; ++i) check(point, CrashKeep::some(random.next()));
  }
}

}  // namespace

TEST_CASE("wherever the power goes during copying, snapshots and origin hold what was flushed") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=" << seed);
  Workload work(seed);
  MemoryDevice start("base", size);
  CrashDevice base(work.log, "base", numbered(start));
  CrashDevice still(work.log, "still", 256 * KiB), used(work.log, "used", 1 * MiB);
  World world(base);
  world.add(still);
  world.add(used);
  dm::MappedDevice origin("origin"), still_map("s"), used_map("u");
  REQUIRE(world.set_origin(origin) == "");
  REQUIRE(world.take(origin, still_map, "still", "P", 512) == "");
  REQUIRE(world.take(origin, used_map, "used", "P", 4096) == "");
  const size_t taken = work.log.size();
  const Ids frozen = ids_of(still_map);
  Track origin_track(frozen), used_track(frozen);
  const uint64_t steps = test_iterations(60);
  for (uint64_t i = 0; i < steps; ++i) switch (work.random.below(5)) {
      case 0:
      case 1:
        work.write(origin, origin_track);
        break;
      case 2:
        work.write(used_map, used_track);
        break;
      case 3:
        work.flush(origin, origin_track);
        break;
      default:
        work.flush(used_map, used_track);
    }
  REQUIRE(ids_of(origin) == origin_track.latest());
  REQUIRE(ids_of(used_map) == used_track.latest());
  REQUIRE(ids_of(still_map) == frozen);
  for_each_crash(work.log, taken, work.random, [&](size_t point, CrashKeep keep) {
    After after(work.log, point, keep, base, {&still, &used});
    const auto still_after = after.show("snapshot", "still");
    const auto used_after = after.show("snapshot", "used");
    REQUIRE(ids_of(*still_after) == frozen);
    const Ids used_ids = ids_of(*used_after);
    used_track.check(used_ids, point);
    origin_track.check(ids_of(after.base), point);
    if (!work.random.one_in(6)) return;
    // Life goes on: the whole origin is overwritten, and what was shared is copied.
    dm::MappedDevice origin_after("origin");
    REQUIRE(after.world.set_origin(origin_after) == "");
    for (uint64_t at = 0; at < size; at += 4 * sector_size)
      REQUIRE(origin_after.write_zeroes(at, 4 * sector_size).has_value());
    REQUIRE(ids_of(*still_after) == frozen);
    REQUIRE(ids_of(*used_after) == used_ids);
  });
}

TEST_CASE("wherever the power goes during a merge, the volume holds what was flushed") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=" << seed);
  Workload work(seed);
  MemoryDevice start("base", size);
  CrashDevice base(work.log, "base", numbered(start));
  CrashDevice still(work.log, "still", 256 * KiB), merged(work.log, "merged", 512 * KiB);
  World world(base);
  world.add(still);
  world.add(merged);
  auto origin = std::make_unique<dm::MappedDevice>("origin");
  auto still_map = std::make_unique<dm::MappedDevice>("s");
  auto merged_map = std::make_unique<dm::MappedDevice>("m");
  REQUIRE(world.set_origin(*origin) == "");
  // Chunks of 1 KiB: 64 exceptions an area, so the merge goes back over areas.
  REQUIRE(world.take(*origin, *merged_map, "merged", "P", 1024) == "");
  Track unused(ids_of(*origin));
  for (int i = 0; i < 12; ++i) {
    work.write(*origin, unused);
    work.write(*merged_map, unused);
  }
  REQUIRE(world.take(*origin, *still_map, "still", "P", 2048) == "");
  const Ids frozen = ids_of(*still_map);
  REQUIRE(merged_map->flush().has_value());
  Track track(ids_of(*merged_map));
  merged_map.reset();
  // The merge begins with the resume and goes on beside the writes.
  REQUIRE(
      world.load(*origin, "snapshot-merge", world.snapshot_args("merged", "P", 1024)).has_value());
  const size_t began = work.log.size();
  REQUIRE(origin->resume().has_value());
  for (uint64_t i = 0; i < test_iterations(15); ++i) {
    work.write(*origin, track);
    if (work.random.one_in(3)) work.flush(*origin, track);
  }
  wait_until_merged(*origin);
  REQUIRE(ids_of(*origin) == track.latest());
  REQUIRE(ids_of(*still_map) == frozen);
  REQUIRE(ids_of(base) == track.latest());
  origin.reset();
  still_map.reset();
  for_each_crash(work.log, began, work.random, [&](size_t point, CrashKeep keep) {
    After after(work.log, point, keep, base, {&still, &merged});
    const auto still_after = after.show("snapshot", "still");
    REQUIRE(ids_of(*still_after) == frozen);
    const auto merging = after.show("snapshot-merge", "merged");
    const Ids ids = ids_of(*merging);
    track.check(ids, point);
    wait_until_merged(*merging);
    REQUIRE(ids_of(*merging) == ids);
    REQUIRE(ids_of(after.base) == ids);
    REQUIRE(ids_of(*still_after) == frozen);
  });
}
