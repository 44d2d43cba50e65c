// SPDX-License-Identifier: GPL-2.0-or-later
#include "dm/snapshot/persistent_store.h"

#include <doctest/doctest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "dm/snapshot/committer.h"
#include "support/fault_device.h"
#include "support/memory_device.h"
#include "support/random.h"
#include "volfs/dm/snapshot.h"

using namespace volfs;
using namespace volfs::dm;
using test::FaultDevice;
using test::FaultOp;
using test::MemoryDevice;

namespace {

constexpr uint64_t origin_size = 64 * MiB;

struct Opened {
  Result<PersistentStore::Loaded> loaded;
  std::vector<Exception> exceptions;
  PersistentStore& store() { return *loaded->store; }
};

Opened open(BlockDevice& device, uint64_t chunk_size = 4096,
            PersistentStore::IfBlank if_blank = PersistentStore::IfBlank::initialise) {
  Opened opened{fail_invalid(""), {}};
  ExceptionTable table;
  opened.loaded = PersistentStore::open(device, chunk_size, origin_size, 512, if_blank,
                                        [&](const Exception& e) {
                                          opened.exceptions.push_back(e);
                                          return table.insert(e);
                                        });
  return opened;
}

// Allocates and commits COUNT exceptions for old chunks from FIRST on.
void commit(PersistentStore& store, uint64_t first, uint64_t count) {
  std::vector<Exception> exceptions;
  for (uint64_t i = 0; i < count; ++i) {
    const auto place = store.allocate();
    REQUIRE(place.has_value());
    exceptions.push_back({first + i, *place});
  }
  Committer committer;
  Committer::Request request{.store = &store, .exceptions = exceptions};
  committer.commit(std::span(&request, 1));
  REQUIRE(request.status.has_value());
}

template <class T>
void poke(MemoryDevice& device, uint64_t offset, T value) {
  device.poke(offset, std::as_bytes(std::span(&value, 1)));
}

// A store of 4 KiB chunks with three exceptions, ready to be spoiled.
struct Spoilt {
  MemoryDevice device{"cow", 4 * MiB};
  Spoilt() {
    auto opened = open(device);
    REQUIRE(opened.loaded.has_value());
    commit(opened.store(), 100, 3);
  }
  std::string error(int code) {
    auto opened = open(device);
    REQUIRE_FALSE(opened.loaded.has_value());
    CHECK(opened.loaded.error().code() == code);
    return opened.loaded.error().text();
  }
};

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a new store has the bytes that Linux writes") {
  MemoryDevice device("cow", 4 * MiB);
  test::Random random(1);
  std::vector<std::byte> noise(64 * KiB);
  random.fill(noise);
  device.poke(512, noise);  // a blank store is one whose first four bytes are zero
  auto opened = open(device, 8 * KiB);
  REQUIRE(opened.loaded.has_value());
  commit(opened.store(), 7, 1);
  std::vector<std::byte> expected(16 * KiB);
  const unsigned char header[16] = {'S', 'n', 'A', 'p', 1, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0};
  const unsigned char exception[16] = {7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0};
  std::memcpy(expected.data(), header, 16);
  std::memcpy(expected.data() + 8 * KiB, exception, 16);
  CHECK(device.peek(0, 16 * KiB) == expected);
  const auto info = inspect_store(device);
  REQUIRE(info.has_value());
  CHECK(info->kind == StoreInfo::Kind::store);
  CHECK(info->valid);
  CHECK(info->chunk_size == 8 * KiB);
}

TEST_CASE("the store goes on after a restart where it was, over full areas, for every chunk size") {
  for (const uint64_t chunk : {512u, 4096u, 16384u, 65536u, 131072u}) {
    CAPTURE(chunk);
    const uint64_t per_area = chunk / 16;
    MemoryDevice device("cow", (3 * per_area + 10) * chunk);
    std::vector<Exception> expected;
    uint64_t old_chunk = 0;
    const auto add = [&](PersistentStore& store, uint64_t count) {
      for (uint64_t i = 0; i < count; ++i) {
        uint64_t place = 2;
        if (!expected.empty()) {
          place = expected.back().new_chunk + 1;
          if ((place - 1) % (per_area + 1) == 0) ++place;
        }
        expected.push_back({old_chunk + i, place});
      }
      commit(store, old_chunk, count);
      old_chunk += count;
    };
    // The last step ends exactly at the end of the second area.
    for (const uint64_t count : {uint64_t{0}, uint64_t{1}, per_area / 2, per_area / 2 - 1,
                                 uint64_t{1}, per_area - 1, uint64_t{5}}) {
      if (origin_size / chunk <= old_chunk + count) break;
      auto opened = open(device, chunk);
      REQUIRE(opened.loaded.has_value());
      REQUIRE(opened.exceptions.size() == expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        CHECK(opened.exceptions[i].old_chunk == expected[i].old_chunk);
        CHECK(opened.exceptions[i].new_chunk == expected[i].new_chunk);
      }
      const auto usage = opened.store().usage();
      CHECK(usage.metadata == (expected.size() / per_area + 2) * chunk);
      CHECK(usage.allocated == expected.size() * chunk + usage.metadata);
      if (count > 0) add(opened.store(), count);
    }
  }
}

TEST_CASE("a chunk size in the header overrides the one asked for") {
  MemoryDevice device("cow", 4 * MiB);
  REQUIRE(open(device, 32 * KiB).loaded.has_value());
  auto opened = open(device, 4 * KiB);
  REQUIRE(opened.loaded.has_value());
  CHECK(opened.store().chunk_size() == 32 * KiB);
  CHECK(open(device, 0).store().chunk_size() == 32 * KiB);
}

TEST_CASE("a store that is full says so before an area fills that has no successor") {
  // Room for the header, one area and exactly its 32 chunks: Linux could not load that store if
  // the area were full.
  MemoryDevice device("cow", (2 + 32) * 512);
  auto opened = open(device, 512);
  REQUIRE(opened.loaded.has_value());
  commit(opened.store(), 0, 31);
  CHECK_FALSE(opened.store().allocate().has_value());
  CHECK(open(device, 512).exceptions.size() == 31);
  // One chunk more, for the next area, and it can be used.
  MemoryDevice larger("cow", (3 + 32) * 512);
  auto second = open(larger, 512);
  commit(second.store(), 0, 32);
  CHECK_FALSE(second.store().allocate().has_value());
  CHECK(open(larger, 512).exceptions.size() == 32);
}

TEST_CASE("chunks that are given back are given out again") {
  MemoryDevice device("cow", 1 * MiB);
  auto opened = open(device, 512);
  commit(opened.store(), 0, 30);
  const auto first = opened.store().allocate();
  const auto second = opened.store().allocate();
  const auto third = opened.store().allocate();
  CHECK(*first == 32);
  CHECK(*second == 33);
  CHECK(*third == 35);  // 34 is the second area
  opened.store().give_back(*first, 2);
  opened.store().give_back(*third, 1);
  for (const uint64_t chunk : {32, 33, 35, 36}) CHECK(*opened.store().allocate() == chunk);
}

TEST_CASE("removing the last exceptions goes back over areas, and an empty store is as new") {
  MemoryDevice device("cow", 1 * MiB);
  auto opened = open(device, 512);
  commit(opened.store(), 0, 70);  // 32 + 32 + 6
  std::vector<Exception> last;
  uint64_t left = 70;
  while (true) {
    REQUIRE(opened.store().last(5, last).has_value());
    if (last.empty()) break;
    for (size_t i = 0; i < last.size(); ++i) CHECK(last[i].old_chunk == left - 1 - i);
    const size_t take = std::min<size_t>(last.size(), 3);
    REQUIRE(opened.store().remove_last(take).has_value());
    left -= take;
    CHECK(open(device, 512).exceptions.size() == left);
  }
  CHECK(left == 0);
  const auto usage = opened.store().usage();
  CHECK(usage.allocated == usage.metadata);
  CHECK(usage.metadata == 2 * 512);
  // It can be used again.
  commit(opened.store(), 500, 40);
  CHECK(open(device, 512).exceptions.size() == 40);
}

TEST_CASE(
    "after a merge that stopped half-way, new exceptions never take the place of those left") {
  MemoryDevice device("cow", 1 * MiB);
  auto opened = open(device);
  // Committed in another order than that of their places: those left are the highest.
  std::vector<uint64_t> places;
  for (int i = 0; i < 8; ++i) places.push_back(*opened.store().allocate());
  for (size_t i = 0; i < places.size(); ++i) {
    const Exception exception{i, places[places.size() - 1 - i]};
    Committer committer;
    Committer::Request request{.store = &opened.store(), .exceptions = {&exception, 1}};
    committer.commit(std::span(&request, 1));
    REQUIRE(request.status.has_value());
  }
  std::vector<Exception> last;
  REQUIRE(opened.store().last(5, last).has_value());
  REQUIRE(opened.store().remove_last(5).has_value());
  const std::set<uint64_t> left(places.end() - 3, places.end());
  // As it says, in the words of a merge: what would be used if all had come in order.
  CHECK(opened.store().usage().allocated == 5 * 4096);
  for (int i = 0; i < 20; ++i) CHECK_FALSE(left.contains(*opened.store().allocate()));
  auto again = open(device);
  REQUIRE(again.exceptions.size() == 3);
  for (int i = 0; i < 20; ++i) CHECK_FALSE(left.contains(*again.store().allocate()));
}

TEST_CASE("an invalid store is opened as such, and what is dropped is invalid") {
  MemoryDevice device("cow", 1 * MiB);
  auto opened = open(device);
  commit(opened.store(), 0, 3);
  REQUIRE(opened.store().drop().has_value());
  auto again = open(device);
  REQUIRE(again.loaded.has_value());
  CHECK_FALSE(again.loaded->valid);
  CHECK(again.exceptions.empty());
}

TEST_CASE("a store is refused with the chunk that is wrong") {
  SUBCASE("magic") {
    Spoilt spoilt;
    poke<uint32_t>(spoilt.device, 0, 0x12345678);
    CHECK(contains(spoilt.error(EUCLEAN), "cow: chunk 0: magic 0x12345678"));
  }
  SUBCASE("version") {
    Spoilt spoilt;
    poke<uint32_t>(spoilt.device, 8, 2);
    CHECK(contains(spoilt.error(EINVAL), "cow: chunk 0: store version 2"));
  }
  SUBCASE("chunk size 0") {
    Spoilt spoilt;
    poke<uint32_t>(spoilt.device, 12, 0);
    CHECK(contains(spoilt.error(EINVAL), "cow: chunk 0: chunk size 0"));
  }
  SUBCASE("chunk size not a power of two") {
    Spoilt spoilt;
    poke<uint32_t>(spoilt.device, 12, 24);
    CHECK(contains(spoilt.error(EINVAL), "cow: chunk 0: chunk size 12KiB"));
  }
  SUBCASE("chunk size of two gigabytes") {
    Spoilt spoilt;
    poke<uint32_t>(spoilt.device, 12, 1u << 22);
    CHECK(contains(spoilt.error(EINVAL), "cow: chunk 0: chunk size 2GiB"));
  }
  SUBCASE("chunk size of which the device has not two") {
    Spoilt spoilt;
    poke<uint32_t>(spoilt.device, 12, 8192);
    CHECK(contains(spoilt.error(EINVAL), "no room for two chunks"));
  }
  SUBCASE("new chunk beyond the end") {
    Spoilt spoilt;
    poke<uint64_t>(spoilt.device, 4096 + 24, 1024);
    CHECK(contains(spoilt.error(EUCLEAN), "cow: chunk 1: exception 1: new chunk 1024 is beyond"));
  }
  SUBCASE("new chunk of 64 bits") {
    Spoilt spoilt;
    poke<uint64_t>(spoilt.device, 4096 + 24, UINT64_MAX);
    CHECK(contains(spoilt.error(EUCLEAN), "cow: chunk 1: exception 1: new chunk"));
  }
  SUBCASE("new chunk that is an area") {
    Spoilt spoilt;
    poke<uint64_t>(spoilt.device, 4096 + 40, 258);
    CHECK(contains(spoilt.error(EUCLEAN), "exception 2: new chunk 258 is an area"));
  }
  SUBCASE("old chunk beyond the origin") {
    Spoilt spoilt;
    poke<uint64_t>(spoilt.device, 4096 + 16, origin_size / 4096);
    CHECK(contains(spoilt.error(EUCLEAN), "exception 1: old chunk 16384 is beyond"));
  }
  SUBCASE("old chunk twice") {
    Spoilt spoilt;
    poke<uint64_t>(spoilt.device, 4096 + 16, 100);
    CHECK(contains(spoilt.error(EUCLEAN), "exception 1: old chunk 100 appears twice"));
  }
  SUBCASE("a full area at the end of the device") {
    MemoryDevice device("cow", (2 + 32) * 512);
    auto opened = open(device, 512);
    commit(opened.store(), 0, 31);
    poke<uint64_t>(device, 512 + 31 * 16, 31);
    poke<uint64_t>(device, 512 + 31 * 16 + 8, 33);
    auto again = open(device, 512);
    REQUIRE_FALSE(again.loaded.has_value());
    CHECK(contains(again.loaded.error().text(), "chunk 1: the area is full"));
  }
  SUBCASE("nothing there, and nothing shall be made") {
    MemoryDevice device("cow", 1 * MiB);
    auto opened = open(device, 4096, PersistentStore::IfBlank::as_empty);
    REQUIRE(opened.loaded.has_value());
    CHECK(opened.loaded->valid);
    CHECK(opened.store().usage().allocated == 2 * 4096);
    CHECK(device.pages() == 0);
  }
}

TEST_CASE("exceptions that a torn write left behind the end never come to life") {
  MemoryDevice device("cow", 4 * MiB);
  {
    auto opened = open(device, 16 * KiB);
    commit(opened.store(), 0, 10);
  }
  // In the same block, and far behind in the area.
  for (const uint64_t index : {40u, 700u}) {
    poke<uint64_t>(device, 16 * KiB + index * 16, 999);
    poke<uint64_t>(device, 16 * KiB + index * 16 + 8, 30);
  }
  MemoryDevice read_only("cow", 4 * MiB, {.read_only = true});
  read_only.copy_from(device);
  MemoryDevice before("cow", 4 * MiB);
  before.copy_from(device);
  CHECK(open(read_only, 16 * KiB).exceptions.size() == 10);
  CHECK(read_only.same_contents(before));
  {
    auto opened = open(device, 16 * KiB);
    CHECK(opened.exceptions.size() == 10);
    commit(opened.store(), 10, 30);
  }
  CHECK(open(device, 16 * KiB).exceptions.size() == 40);
}

TEST_CASE("after a write that failed nothing more is recorded") {
  MemoryDevice memory("cow", 4 * MiB);
  FaultDevice device(memory);
  auto opened = open(device);
  commit(opened.store(), 0, 2);
  device.fail_nth(FaultOp::write, 0, EIO);
  const Exception exception{50, *opened.store().allocate()};
  Committer committer;
  for (int i = 0; i < 2; ++i) {
    Committer::Request request{.store = &opened.store(), .exceptions = {&exception, 1}};
    committer.commit(std::span(&request, 1));
    REQUIRE_FALSE(request.status.has_value());
    CHECK(request.status.error().code() == EIO);
  }
  CHECK(open(memory).exceptions.size() == 2);
}

TEST_CASE("a large store is loaded") {
  const uint64_t count = test::test_iterations(100000);
  const uint64_t chunk = 4096;
  MemoryDevice device("cow", (count + count / 256 + 1000) * chunk);
  ExceptionTable table;
  {
    auto opened = open(device);
    REQUIRE(opened.loaded.has_value());
    // As sparse as can be: no two are consecutive.
    std::vector<Exception> exceptions;
    for (uint64_t i = 0; i < count; ++i)
      exceptions.push_back({i * 7919 % (count * 2), *opened.store().allocate()});
    Committer committer;
    Committer::Request request{.store = &opened.store(), .exceptions = exceptions};
    committer.commit(std::span(&request, 1));
    REQUIRE(request.status.has_value());
  }
  const auto start = now();
  auto loaded =
      PersistentStore::open(device, chunk, UINT64_MAX / 2, 512, PersistentStore::IfBlank::as_empty,
                            [&](const Exception& e) { return table.insert(e); });
  const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(now() - start);
  if (!loaded) FAIL(loaded.error().text());
  CHECK(table.chunks() == count);
  MESSAGE(count << " exceptions: " << table.memory() / 1024 << " KiB, loaded in " << took.count()
                << " ms");
}
