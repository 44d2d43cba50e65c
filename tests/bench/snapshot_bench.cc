// SPDX-License-Identifier: GPL-2.0-or-later
// What snapshots cost, over disks of memory, so that it is their own cost: as ratios to the plain
// origin, all in one run. One line a figure.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "dm/snapshot/committer.h"
#include "dm/snapshot/persistent_store.h"
#include "support/memory_device.h"
#include "support/random.h"
#include "volfs/dm/mapped_device.h"
#include "volfs/dm/snapshot.h"
#include "volfs/dm/table.h"

using namespace volfs;
using test::MemoryDevice;
using test::Random;

namespace {

constexpr uint64_t size = 256 * MiB;
constexpr uint64_t block = 4 * KiB;
constexpr uint64_t chunk = 4 * KiB;

void need(const Status& status) {
  if (status) return;
  fmt::print(stderr, "snapshot_bench: {}\n", status.error().text());
  std::exit(1);
}

double seconds_since(TimePoint start) {
  return std::chrono::duration<double>(now() - start).count();
}

// What this process has computed so far, whatever else the machine does.
double processor_seconds() {
  struct rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct World {
  MemoryDevice base{"base", size}, cow{"cow", dm::full_store_size(size, chunk)};
  dm::OriginRegistry registry;
  dm::MappedDevice plain{"plain"}, origin{"origin"}, snapshot{"snapshot"};

  World() {
    std::vector<std::byte> piece(1 * MiB, std::byte{1});
    for (uint64_t at = 0; at < size; at += piece.size()) {
      base.poke(at, piece);
      cow.poke(at, piece);  // memory that is there already, as on a disk
    }
    cow.poke_zeros(0, block);
    set(plain, "linear base 0");
  }
  void take() {
    set(snapshot, fmt::format("snapshot base cow P {}", chunk / sector_size));
    set(origin, "snapshot-origin base");
  }
  void set(dm::MappedDevice& map, const std::string& row) {
    const auto rows = dm::parse_table(fmt::format("0 {} {}", size / sector_size, row));
    const auto resolve = [this](std::string_view name) -> Result<BlockDevice*> {
      return name == "base" ? &base : &cow;
    };
    need(map.load(*rows, resolve, {.origins = &registry}));
    need(map.resume());
  }
};

std::vector<uint64_t> places() {
  std::vector<uint64_t> all(size / block);
  for (size_t i = 0; i < all.size(); ++i) all[i] = i * block;
  Random random(1);
  for (size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[random.below(i)]);
  return all;
}

// Blocks a second.
double write_all(BlockDevice& device, const std::vector<uint64_t>& at) {
  const std::vector<std::byte> data(block, std::byte{2});
  const auto start = now();
  for (const uint64_t offset : at) need(device.write(offset, data));
  return static_cast<double>(at.size()) / seconds_since(start);
}
double read_all(BlockDevice& device, const std::vector<uint64_t>& at) {
  std::vector<std::byte> data(block);
  const auto start = now();
  for (const uint64_t offset : at) need(device.read(offset, data));
  return static_cast<double>(at.size()) / seconds_since(start);
}

void copying() {
  const auto at = places();
  World world;
  const double plain_write = write_all(world.plain, at), plain_read = read_all(world.plain, at);
  world.take();
  const double unchanged = read_all(world.snapshot, at);
  const double first = write_all(world.origin, at), steady = write_all(world.origin, at);
  const double origin_read = read_all(world.origin, at), changed = read_all(world.snapshot, at);
  fmt::print("plain origin, 4 KiB at random: {:.0f} writes/s, {:.0f} reads/s\n", plain_write,
             plain_read);
  fmt::print("origin, first write of a chunk: {:.1f} times the cost of a plain write\n",
             plain_write / first);
  fmt::print("origin, later writes:           {:.2f}\n", plain_write / steady);
  fmt::print("origin, reads:                  {:.2f} times the cost of a plain read\n",
             plain_read / origin_read);
  fmt::print("snapshot, reads of unchanged:   {:.2f}\n", plain_read / unchanged);
  fmt::print("snapshot, reads of changed:     {:.2f}\n", plain_read / changed);

  const auto start = now();
  need(world.snapshot.suspend());
  world.set(world.origin, fmt::format("snapshot-merge base cow P {}", chunk / sector_size));
  for (uint32_t seen = 0;;) {
    const std::string status = world.origin.status();
    const size_t slash = status.find('/'), blank = status.find(' ', slash);
    const size_t begin = status.rfind(' ', slash) + 1;
    if (status.substr(begin, slash - begin) == status.substr(blank + 1, status.size() - blank - 2))
      break;
    seen = world.origin.wait_event(seen, now() + std::chrono::milliseconds(5));
  }
  fmt::print("merge of {} chunks at random places: {:.0f} MiB/s\n", at.size(),
             double{size} / MiB / seconds_since(start));
}

void table(uint64_t count) {
  MemoryDevice cow("cow", (count + count / 256 + 1000) * chunk);
  const auto open = [&](dm::ExceptionTable& table) {
    auto loaded = dm::PersistentStore::open(
        cow, chunk, UINT64_MAX / 2, 512, dm::PersistentStore::IfBlank::initialise,
        [&](const dm::Exception& e) { return table.insert(e); });
    if (!loaded) need(fail(Error(loaded.error())));
    return std::move(*loaded);
  };
  {
    dm::ExceptionTable none;
    const auto loaded = open(none);
    std::vector<dm::Exception> exceptions;
    exceptions.reserve(count);
    for (uint64_t i = 0; i < count; ++i)
      exceptions.push_back({i * 7919 % (count * 2), *loaded.store->allocate()});
    dm::Committer committer;
    dm::Committer::Request request{.store = loaded.store.get(), .exceptions = exceptions};
    committer.commit(std::span(&request, 1));
    need(request.status);
  }
  dm::ExceptionTable table;
  const auto start = now();
  const double before = processor_seconds();
  const auto loaded = open(table);
  const double took = processor_seconds() - before;
  fmt::print(
      "{} exceptions, no two consecutive: loaded in {:.2f} s ({:.2f} s of the processor), "
      "{:.1f} bytes each, {} MiB\n",
      table.chunks(), seconds_since(start), took,
      static_cast<double>(table.memory()) / static_cast<double>(table.chunks()),
      table.memory() / MiB);
  if (table.memory() > 300 * MiB || took > 5) std::exit(1);
}

}  // namespace

int main() {
  copying();
  table(10000000);
  return 0;
}
