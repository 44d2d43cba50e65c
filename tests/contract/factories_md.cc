// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdexcept>

#include "factories.h"
#include "support/memory_device.h"
#include "volfs/md/array.h"
#include "volfs/md/mirror_log.h"
#include "volfs/md/raid_set.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

struct Holder {
  std::vector<std::unique_ptr<MemoryDevice>> disks;
  std::unique_ptr<md::MirrorLog> log;
  std::unique_ptr<md::Array> array;
};

template <class T>
T value(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

Subject array(int32_t level, uint32_t layout, uint32_t count, bool degraded, bool read_only) {
  auto holder = std::make_shared<Holder>();
  md::CreateOptions o;
  o.level = level;
  o.layout = layout;
  o.raid_disks = count;
  o.chunk = level == 1 || level < 0 ? 0 : 16 * KiB;
  o.size = 256 * KiB;
  o.assume_clean = true;
  o.uuid.bytes.fill(1);
  std::vector<BlockDevice*> devices;
  for (uint32_t i = 0; i < count; ++i) {
    holder->disks.push_back(std::make_unique<MemoryDevice>("disk" + std::to_string(i), 2 * MiB));
    devices.push_back(holder->disks.back().get());
    o.devices.push_back({.size = 2 * MiB});
    o.device_uuids.emplace_back();
    o.device_uuids.back().bytes.fill(static_cast<uint8_t>(i + 2));
  }
  if (auto made = md::write_new_members(value(md::plan_create(o)), devices); !made)
    throw std::runtime_error(made.error().text());
  if (degraded) devices.pop_back();
  md::ArrayOptions options;
  options.read_only = read_only;
  holder->array = value(md::Array::assemble(devices, options));
  return Subject::of(holder, *holder->array);
}

// A set with dm-raid's superblocks; a new one that counts as in sync.
Subject raid_set(int32_t level, uint32_t layout, uint32_t count, bool degraded, bool read_only) {
  auto holder = std::make_shared<Holder>();
  md::RaidSet set;
  set.geometry = {level, layout, count, level == 1 ? 0 : 16 * KiB};
  set.size = 768 * KiB;
  set.region_size = 16 * KiB;
  set.nosync = true;
  for (uint32_t i = 0; i < count; ++i) {
    for (const char* kind : {"meta", "data"})
      holder->disks.push_back(std::make_unique<MemoryDevice>(kind + std::to_string(i), 1 * MiB));
    set.members.push_back({holder->disks[2 * i].get(), holder->disks[2 * i + 1].get()});
  }
  if (degraded) set.members.back() = {};
  md::ArrayOptions options;
  options.read_only = read_only;
  holder->array = value(md::assemble_raid_set(set, options));
  return Subject::of(holder, *holder->array);
}

// A mirror with its log on a disk, new and not in sync.
Subject mirror(bool read_only) {
  auto holder = std::make_shared<Holder>();
  md::MirrorSet set;
  set.size = 768 * KiB;
  set.region_size = 16 * KiB;
  for (const char* name : {"left", "right", "log"})
    holder->disks.push_back(std::make_unique<MemoryDevice>(name, 1 * MiB));
  set.legs = {{holder->disks[0].get(), 0}, {holder->disks[1].get(), 4 * KiB}};
  set.log = holder->disks[2].get();
  md::ArrayOptions options;
  options.read_only = read_only;
  holder->log = value(md::MirrorLog::open(set, "mirror", read_only));
  holder->array = value(md::assemble_raid_set(holder->log->raid_set(), options));
  return Subject::of(holder, *holder->array);
}

}  // namespace

void add_arrays(Factories& all) {
  const auto add = [&](const std::string& name, int32_t level, uint32_t layout, uint32_t count,
                       bool degraded) {
    all.push_back({.name = name,
                   .make = [=] { return array(level, layout, count, degraded, false); },
                   .make_read_only = [=] { return array(level, layout, count, degraded, true); }});
  };
  add("linear array", md::level_linear, 0, 2, false);
  add("raid0 array", 0, 1, 3, false);
  add("raid1 array", 1, 0, 2, false);
  add("raid5 array", 5, 2, 3, false);
  add("degraded raid5 array", 5, 2, 3, true);
  add("raid6 array", 6, 2, 5, false);
  add("raid10 array", 10, 0x201, 3, false);
  const auto add_set = [&](const std::string& name, int32_t level, uint32_t layout, uint32_t count,
                           bool degraded) {
    all.push_back(
        {.name = name,
         .make = [=] { return raid_set(level, layout, count, degraded, false); },
         .make_read_only = [=] { return raid_set(level, layout, count, degraded, true); }});
  };
  add_set("raid1 set", 1, 0, 2, false);
  add_set("degraded raid5 set", 5, 2, 4, true);
  all.push_back({.name = "mirror with a log",
                 .make = [] { return mirror(false); },
                 .make_read_only = [] { return mirror(true); }});
}

}  // namespace volfs::test
