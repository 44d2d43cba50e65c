// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/io_batch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <list>

#include "support/byte_model.h"
#include "support/fault_device.h"
#include "support/memory_device.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

// A queue that carries operations out when it is asked, in an order of its own.
class ShuffledQueue final : public IoQueue {
 public:
  explicit ShuffledQueue(uint64_t seed) : random_(seed) {}
  void submit(IoOp& op) override { fresh_.push_back(&op); }
  void push() override {
    under_way_.splice(under_way_.end(), fresh_);
    most = std::max(most, under_way_.size());
  }
  void reap(Wait wait) override {
    push();
    uint64_t some = random_.below(3) + (wait == Wait::yes ? 1 : 0);
    while (some-- > 0 && !under_way_.empty()) {
      auto at = under_way_.begin();
      std::advance(at, static_cast<ptrdiff_t>(random_.below(under_way_.size())));
      IoOp& op = **at;
      under_way_.erase(at);
      carry_out(op);
      op.completion->done(op);
    }
  }
  int wait_fd() const override { return -1; }
  size_t in_flight() const override { return fresh_.size() + under_way_.size(); }
  size_t pushed() const { return under_way_.size(); }
  size_t most = 0;  // operations that were ever under way together

 private:
  static void carry_out(IoOp& op);
  Random random_;
  std::list<IoOp*> fresh_, under_way_;
};

// A device whose requests go through a queue; what is behind it is only the queue's.
class QueuedDevice final : public BlockDevice {
 public:
  QueuedDevice(BlockDevice& below, IoQueue& queue, Service service = Service::queued)
      : BlockDevice(below.name(), below.size()), below_(below), queue_(queue), service_(service) {}
  BlockDevice& below() { return below_; }
  int read_directly = 0;
  bool cached = false;

 private:
  Status do_read(uint64_t offset, IoSpan iov) override {
    ++read_directly;
    return below_.read(offset, iov);
  }
  bool do_read_cached(uint64_t offset, IoSpan iov) override {
    return cached && below_.read(offset, iov).has_value();
  }
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override {
    return below_.write(offset, iov, fua);
  }
  Status do_flush() override { return below_.flush(); }
  Service do_service(Op) const override { return service_; }
  IoQueue* do_queue() override { return &queue_; }

  BlockDevice& below_;
  IoQueue& queue_;
  const Service service_;
};

// Remaps to two devices by turns, and tells how often it was asked to do so by itself.
class RemapDevice final : public BlockDevice {
 public:
  RemapDevice(BlockDevice& a, BlockDevice& b) : BlockDevice("remap", a.size()), a_(a), b_(b) {}
  int by_itself = 0;
  bool suspended = false;

 private:
  bool do_map(Op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override {
    if (suspended && wait == Wait::no) return false;
    if (wait == Wait::yes) ++by_itself;
    while (length > 0) {
      const uint64_t part = std::min<uint64_t>(length, 1024 - offset % 1024);
      out.add(offset / 1024 % 2 == 0 ? a_ : b_, offset, part);
      offset += part;
      length -= part;
    }
    return true;
  }
  void do_for_each_below(const Visit& visit) const override {
    visit(a_);
    visit(b_);
  }

  BlockDevice &a_, &b_;
};

void ShuffledQueue::carry_out(IoOp& op) {
  BlockDevice& below = static_cast<QueuedDevice*>(op.device)->below();
  Status status;
  if (op.kind == IoOp::Kind::read) status = below.read(op.offset, op.iov);
  if (op.kind == IoOp::Kind::write) status = below.write(op.offset, op.iov);
  if (op.kind == IoOp::Kind::write_fua) status = below.write(op.offset, op.iov, Fua::yes);
  if (op.kind == IoOp::Kind::flush) status = below.flush();
  op.error = status ? 0 : status.error().code();
}

struct Told final : IoBatch::Owner {
  void batch_done(IoBatch&) override { ++times; }
  int times = 0;
};

// Cuts LENGTH bytes at OFFSET of a striped volume into extents, as raid0 would.
void map_striped(std::span<BlockDevice* const> disks, uint64_t chunk, uint64_t offset,
                 uint64_t length, Mapping& out) {
  while (length > 0) {
    const uint64_t stripe = offset / chunk, within = offset % chunk;
    const uint64_t part = std::min(length, chunk - within);
    out.add(*disks[stripe % disks.size()], stripe / disks.size() * chunk + within, part);
    offset += part;
    length -= part;
  }
}

}  // namespace

TEST_CASE("a transfer deals any scatter list out to any extents, one operation a device") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  constexpr uint64_t chunk = 2048, size = 96 * KiB;
  MemoryDevice a("a", size), b("b", size), c("c", size);
  ShuffledQueue queue(seed);
  QueuedDevice queued(b, queue);
  BlockDevice* const disks[] = {&a, &queued, &c};
  ByteModel model(3 * size);
  const uint64_t rounds = test_iterations(600);
  for (uint64_t round = 0; round < rounds; ++round) {
    const Range range = random_range(random, model.size(), 512, 64 * KiB);
    ScatterList list(random, range.length, 40);
    Mapping mapping;
    map_striped(disks, chunk, range.offset, range.length, mapping);
    const bool read = random.one_in(2);
    if (!read) list.set(random_bytes(random, range.length));
    IoBatch batch;
    batch.transfer(read ? Op::read : Op::write, mapping, list.iov(),
                   random.one_in(4) ? Fua::yes : Fua::no);
    REQUIRE(batch.size() <= 3);
    if (random.one_in(2)) {
      REQUIRE(batch.run());
    } else {
      Told told;
      if (!batch.start(told)) {
        REQUIRE(told.times == 0);
        REQUIRE(queue.pushed() > 0);
        while (queue.in_flight() > 0) queue.reap(Wait::yes);
        REQUIRE(told.times == 1);
      }
      REQUIRE(batch.status());
    }
    if (read)
      REQUIRE_FALSE(first_difference(list.bytes(), model.bytes(range.offset, range.length)));
    else
      model.write(range.offset, list.bytes());
    REQUIRE(list.guards_intact());
  }
}

TEST_CASE("zero extents fill what is read and drop what is written") {
  MemoryDevice a("a", MiB);
  const std::vector<std::byte> ones(1536, std::byte{1});
  std::vector<std::byte> bytes = ones;
  const auto map = [&a](Mapping& mapping) {
    mapping.add(a, 0, 512);
    mapping.add_zero(512);
    mapping.add(a, 512, 512);
  };
  {
    Mapping mapping;
    map(mapping);
    IoBatch batch;
    batch.transfer(Op::write, mapping, OneSlice(std::span(bytes)));
    CHECK(batch.size() == 1);
    REQUIRE(batch.run());
  }
  CHECK(a.peek(0, 1025)[1023] == std::byte{1});
  CHECK(a.peek(0, 1025)[1024] == std::byte{0});
  Mapping mapping;
  map(mapping);
  IoBatch batch;
  batch.transfer(Op::read, mapping, OneSlice(std::span(bytes)));
  REQUIRE(batch.run());
  CHECK(bytes[511] == std::byte{1});
  CHECK(bytes[512] == std::byte{0});
  CHECK(bytes[1023] == std::byte{0});
  CHECK(bytes[1024] == std::byte{1});
}

TEST_CASE("error extents fail the batch, and the rest is done all the same") {
  MemoryDevice a("a", MiB);
  std::vector<std::byte> ones(1024, std::byte{1});
  Mapping mapping;
  mapping.add_error(ENXIO, 512);
  mapping.add(a, 0, 512);
  IoBatch batch;
  batch.transfer(Op::write, mapping, OneSlice(std::span(ones)));
  auto status = batch.run();
  REQUIRE_FALSE(status);
  CHECK(status.error().code() == ENXIO);
  CHECK(a.peek(0, 1)[0] == std::byte{1});
}

TEST_CASE("the first error in the order of adding is told, with the device's own text") {
  MemoryDevice a("a", MiB), b("b", MiB), c("c", MiB);
  FaultDevice bad(b), worse(c);
  bad.fail_nth(FaultOp::read, 0, ETIMEDOUT);
  worse.fail_nth(FaultOp::read, 0, EIO);
  ShuffledQueue queue(1);
  QueuedDevice queued(worse, queue);
  std::vector<std::byte> x(512), y(512), z(512), beyond(512);
  const OneSlice to_x{std::span(x)}, to_y{std::span(y)}, to_z{std::span(z)},
      to_beyond{std::span(beyond)};
  IoBatch batch;
  batch.read(a, 0, to_x);
  batch.read(bad, 512, to_y);
  batch.read(queued, 1024, to_z);
  batch.read(queued, MiB, to_beyond);
  auto status = batch.run();
  REQUIRE_FALSE(status);
  CHECK(status.error().text() == "b: read 512 at 512: Connection timed out");
  CHECK(batch.error(0) == 0);
  CHECK(batch.error(1) == ETIMEDOUT);
  CHECK(batch.error(2) == EIO);
  CHECK(batch.error(3) == EINVAL);
  batch.clear();
  worse.fail_nth(FaultOp::read, 0, EIO);
  batch.read(queued, 1024, to_z);
  batch.flush(a);
  CHECK(batch.run().error().text() == "c: read 512 at 1024: Input/output error");
  batch.clear();
  batch.read(a, 0, to_x);
  CHECK(batch.run());
}

TEST_CASE("a batch holds more operations than fit into it") {
  MemoryDevice a("a", MiB);
  ShuffledQueue queue(test_seed());
  QueuedDevice queued(a, queue);
  std::vector<std::byte> bytes(100 * 512);
  Random(1).fill(bytes);
  std::vector<iovec> lists(100);
  IoBatch batch;
  for (size_t i = 0; i < 100; ++i) {
    lists[i] = {bytes.data() + i * 512, 512};
    batch.write(i % 3 == 0 ? static_cast<BlockDevice&>(a) : queued, i * 512, {&lists[i], 1});
  }
  REQUIRE(batch.run());
  CHECK(a.peek(0, bytes.size()) == bytes);
}

TEST_CASE(
    "a cached read is had at once, one that is not goes to the queue, none to a lone waiter's") {
  MemoryDevice a("a", MiB);
  ShuffledQueue queue(1);
  QueuedDevice image(a, queue, Service::inline_);
  std::vector<std::byte> x(512), y(512);
  const OneSlice to_x{std::span(x)}, to_y{std::span(y)};
  Told told;
  {
    image.cached = true;
    IoBatch batch;
    batch.read(image, 0, to_x);
    CHECK(batch.start(told));
    CHECK(batch.status());
  }
  {
    image.cached = false;
    IoBatch batch;
    batch.read(image, 0, to_x);
    CHECK_FALSE(batch.start(told));
    CHECK(queue.in_flight() == 1);
    queue.reap(Wait::yes);
    CHECK(told.times == 1);
    CHECK(image.read_directly == 0);
  }
  {
    IoBatch batch;
    batch.read(image, 0, to_x);
    CHECK(batch.run());
    CHECK(image.read_directly == 1);
  }
  {
    IoBatch batch;
    batch.read(image, 0, to_x);
    batch.read(image, 512, to_y);
    CHECK(batch.run());
    CHECK(image.read_directly == 1);
  }
}

TEST_CASE("operations of devices that remap to queued ones are under way together") {
  MemoryDevice a("a", MiB), b("b", MiB);
  FaultDevice bad(b);
  ShuffledQueue queue(1);
  QueuedDevice queued_a(a, queue), queued_b(bad, queue);
  RemapDevice remap(queued_a, queued_b), another(queued_a, queued_b);
  const uint64_t seed = test_seed();
  Random random(seed);
  const auto first = random_bytes(random, 4096), second = random_bytes(random, 8192);
  std::vector<std::byte> x(4096), y(8192);
  const auto run = [&](bool write) {
    const OneSlice one{write ? std::span(first) : std::span<const std::byte>(x)};
    const OneSlice two{write ? std::span(second) : std::span<const std::byte>(y)};
    IoBatch batch;
    if (write) {
      batch.write(remap, 8192, one);
      batch.write(another, 65536, two, Fua::yes);
    } else {
      batch.read(remap, 8192, one);
      batch.read(another, 65536, two);
    }
    return batch.run();
  };
  REQUIRE(run(true));
  REQUIRE(run(false));
  CHECK(x == first);
  CHECK(y == second);
  CHECK(queue.most == 12);  // a piece of 1 KiB each
  CHECK(remap.by_itself + another.by_itself == 0);

  SUBCASE("one that would have to wait is done by itself") {
    remap.suspended = true;
    REQUIRE(run(false));
    CHECK(x == first);
    CHECK(remap.by_itself == 1);
    CHECK(another.by_itself == 0);
  }
  SUBCASE("one that fails is tried by the device in its own way, which tells why it failed") {
    bad.add({.op = FaultOp::read, .times = 1, .error = EIO});
    REQUIRE(run(false));
    CHECK(remap.by_itself + another.by_itself > 0);
    CHECK(x == first);
    CHECK(y == second);
    bad.add({.op = FaultOp::read, .error = EIO});
    const Status failed = run(false);
    REQUIRE_FALSE(failed);
    CHECK(failed.error().text() == "remap: b: read 1024 at 9216: Input/output error");
  }
}
