// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>

#include <vector>

#include "support/allocations.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/backing/thread_queue.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

struct Nobody final : IoBatch::Owner {
  void batch_done(IoBatch&) override {}
};

// Four requests of 64 KiB, striped by 16 KiB over two images.
void run_requests(FileImage& a, FileImage& b, Op op, Fua fua, bool start) {
  static std::byte memory[64 * KiB];
  FileImage* const images[] = {&a, &b};
  for (uint64_t request = 0; request < 4; ++request) {
    Mapping mapping;
    for (uint64_t i = 0; i < 4; ++i) {
      Mapping below;
      if (!images[i % 2]->map(op, request * 32 * KiB + i / 2 * 16 * KiB, 16 * KiB, Wait::no, below))
        FAIL("map waits");
      for (const Extent& extent : below.extents())
        mapping.add(*extent.device, extent.offset, extent.length);
    }
    IoBatch batch;
    batch.transfer(op, mapping, OneSlice(std::span<std::byte>(memory)), fua);
    Nobody nobody;
    bool done = true;
    if (start)
      done = batch.start(nobody);
    else if (!batch.run())
      FAIL("run");
    while (!done && thread_queue()->in_flight() > 0) thread_queue()->reap(Wait::yes);
    if (!batch.status()) FAIL("status");
  }
}

uint64_t allocations_of(FileImage& a, FileImage& b, Op op, Fua fua, bool start) {
  run_requests(a, b, op, fua, start);  // what is made at the first use is not counted
  const uint64_t before = allocations();
  run_requests(a, b, op, fua, start);
  return allocations() - before;
}

}  // namespace

TEST_CASE("mapped reads and writes of images allocate nothing") {
  const TempDir dir;
  for (const bool direct : {false, true}) {
    auto a = FileImage::open("a", dir.file("a.img", MiB), {.direct = direct});
    auto b = FileImage::open("b", dir.file("b.img", MiB), {.direct = direct});
    REQUIRE(a);
    REQUIRE(b);
    for (const bool start : {false, true}) {
      INFO("direct ", direct, ", started ", start);
      CHECK(allocations_of(**a, **b, Op::write, Fua::no, start) == 0);
      CHECK(allocations_of(**a, **b, Op::write, Fua::yes, start) == 0);
      CHECK(allocations_of(**a, **b, Op::read, Fua::no, start) == 0);
    }
    const uint64_t before = allocations();
    const Status flushed = (*a)->flush();
    CHECK(allocations() == before);
    CHECK(flushed.has_value());
  }
  const uint64_t before = allocations();
  std::vector<int>* volatile kept = new std::vector<int>(3);  // so that it is not optimised away
  delete kept;
  CHECK(allocations() - before == 2);
}
