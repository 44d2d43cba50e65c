// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <filesystem>

#include "support/byte_model.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/backing/thread_queue.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

// Each of many operations with memory of its own.
struct Work final : IoOp::Done {
  void done(IoOp&) override { ++times; }
  IoOp op;
  std::optional<ScatterList> list;
  int times = 0;
};

bool no_ring() {
  if (thread_queue()) return false;
  MESSAGE("skipped: io_uring is not to be had");
  return true;
}

void finish_all(IoQueue& queue) {
  while (queue.in_flight() > 0) queue.reap(Wait::yes);
}

size_t open_files() {
  const auto all = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_CASE("more operations than the ring holds, with any memory, all move their bytes") {
  if (no_ring()) return;
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  const TempDir dir;
  IoQueue& queue = *thread_queue();
  for (const bool direct : {true, false}) {
    constexpr uint64_t slot = 8192, count = 700;
    auto image = FileImage::open("disk", dir.file("disk.img", slot * count), {.direct = direct});
    REQUIRE(image);
    ByteModel model(slot * count);
    for (const auto kind : {IoOp::Kind::write, IoOp::Kind::read}) {
      std::deque<Work> works(count);
      for (uint64_t i = 0; i < count; ++i) {
        Work& work = works[i];
        work.list.emplace(random, slot);
        work.op.kind = kind;
        work.op.device = image->get();
        work.op.offset = i * slot;
        work.op.iov = work.list->iov();
        work.op.completion = &work;
        if (kind == IoOp::Kind::write) {
          work.list->set(random_bytes(random, slot));
          model.write(i * slot, work.list->bytes());
          if (random.one_in(16)) work.op.kind = IoOp::Kind::write_fua;
        }
        queue.submit(work.op);
        if (random.one_in(50)) queue.push();
        if (random.one_in(50)) queue.reap(Wait::no);
      }
      finish_all(queue);
      for (uint64_t i = 0; i < count; ++i) {
        REQUIRE(works[i].times == 1);
        REQUIRE(works[i].op.error == 0);
        REQUIRE(works[i].list->guards_intact());
        REQUIRE_FALSE(first_difference(works[i].list->bytes(), model.bytes(i * slot, slot)));
      }
    }
    CHECK_FALSE(model.difference(**image));
  }
}

TEST_CASE("one operation of more bytes and slices than a system call or a bounce takes") {
  if (no_ring()) return;
  const TempDir dir;
  constexpr uint64_t length = 2 * MiB;
  Random random(test_seed());
  for (const bool direct : {true, false}) {
    auto image = FileImage::open("disk", dir.file("disk.img", length), {.direct = direct});
    REQUIRE(image);
    const auto bytes = random_bytes(random, length);
    ScatterList out(random, length, 3000), in(random, length, 3000);
    out.set(bytes);
    Work write, read;
    write.op = {.kind = IoOp::Kind::write, .device = image->get(), .iov = out.iov()};
    write.op.completion = &write;
    thread_queue()->submit(write.op);
    finish_all(*thread_queue());
    REQUIRE(write.op.error == 0);
    read.op = {.kind = IoOp::Kind::read, .device = image->get(), .iov = in.iov()};
    read.op.completion = &read;
    thread_queue()->submit(read.op);
    finish_all(*thread_queue());
    REQUIRE(read.op.error == 0);
    CHECK_FALSE(first_difference(in.bytes(), bytes));
    CHECK(in.guards_intact());
  }
}

TEST_CASE("the queue's descriptor is readable when there is something to reap") {
  if (no_ring()) return;
  const TempDir dir;
  auto image = FileImage::open("disk", dir.file("disk.img", MiB), {.direct = true});
  REQUIRE(image);
  std::vector<std::byte> bytes(4096);
  const OneSlice list{std::span(bytes)};
  Work work;
  work.op = {.kind = IoOp::Kind::write, .device = image->get(), .iov = list};
  work.op.completion = &work;
  IoQueue& queue = *thread_queue();
  queue.submit(work.op);
  queue.push();
  while (work.times == 0) {
    pollfd wait{.fd = queue.wait_fd(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&wait, 1, 60'000) == 1);
    queue.reap(Wait::no);
  }
  CHECK(work.op.error == 0);
}

TEST_CASE("who is told may submit, and even wait for, more") {
  if (no_ring()) return;
  const TempDir dir;
  auto image = FileImage::open("disk", dir.file("disk.img", MiB), {.direct = true});
  REQUIRE(image);
  struct Chain final : IoOp::Done {
    void done(IoOp& op) override {
      if (--left == 0) return;
      if (left % 2 == 0) {
        IoBatch nested;
        std::vector<std::byte> bytes(8192);
        const OneSlice one{std::span(bytes).first(4096)}, two{std::span(bytes).last(4096)};
        nested.read(*op.device, 0, one);
        nested.read(*op.device, 4096, two);
        if (!nested.run()) ++failures;
      }
      thread_queue()->submit(op);
    }
    int left = 20, failures = 0;
  } chain;
  std::vector<std::byte> bytes(4096);
  const OneSlice list{std::span(bytes)};
  IoOp op{.kind = IoOp::Kind::write, .device = image->get(), .iov = list};
  op.completion = &chain;
  thread_queue()->submit(op);
  finish_all(*thread_queue());
  CHECK(chain.left == 0);
  CHECK(chain.failures == 0);
}

TEST_CASE("an image that was cut off fails queued reads past its end") {
  if (no_ring()) return;
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  for (const bool direct : {true, false}) {
    std::filesystem::resize_file(path, MiB);
    auto image = FileImage::open("disk", path, {.direct = direct});
    REQUIRE(image);
    std::filesystem::resize_file(path, 64 * KiB);
    std::vector<std::byte> bytes(4096);
    const OneSlice list{std::span(bytes)};
    for (const auto kind : {IoOp::Kind::read, IoOp::Kind::write}) {
      Work work;
      work.op = {.kind = kind, .device = image->get(), .offset = 128 * KiB, .iov = list};
      work.op.completion = &work;
      thread_queue()->submit(work.op);
      finish_all(*thread_queue());
      CHECK(work.op.error == EIO);
    }
    CHECK(std::filesystem::file_size(path) == 64 * KiB);
  }
}

TEST_CASE("a cold read of a buffered image goes through the ring, and a batch of flushes, too") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  Random random(test_seed());
  const auto bytes = random_bytes(random, MiB);
  struct Told final : IoBatch::Owner {
    void batch_done(IoBatch&) override { ++times; }
    int times = 0;
  } told;
  for (const bool allowed : {true, false}) {
    allow_thread_queues(allowed);
    if (!allowed) close_thread_queue();
    auto image = FileImage::open("disk", path, {});
    auto other = FileImage::open("other", dir.file("other.img", MiB), {.direct = true});
    REQUIRE(image);
    REQUIRE(other);
    REQUIRE((*image)->write(0, bytes));
    IoBatch flushes;
    flushes.flush(**image);
    flushes.flush(**other);
    REQUIRE(flushes.run());
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
    ::close(fd);
    std::vector<std::byte> back(64 * KiB);
    const OneSlice list{std::span(back)};
    IoBatch batch;
    batch.read(**image, 128 * KiB, list);
    told.times = 0;
    if (!batch.start(told)) {
      CHECK(allowed);
      while (told.times == 0) thread_queue()->reap(Wait::yes);
    }
    REQUIRE(batch.status());
    CHECK_FALSE(first_difference(back, std::span(bytes).subspan(128 * KiB, 64 * KiB)));
    // Now it is cached, mostly: either way the bytes are right.
    (void)(*image)->read_cached(128 * KiB, list);
    CHECK((*image)->read(128 * KiB, list));
    CHECK_FALSE(first_difference(back, std::span(bytes).subspan(128 * KiB, 64 * KiB)));
  }
  CHECK(thread_queue() == nullptr);
  allow_thread_queues(true);
}

TEST_CASE("a thread's ring ends with the thread") {
  if (no_ring()) return;
  const size_t before = open_files();
  for (int i = 0; i < 20; ++i) {
    auto thread = Thread::start("ring", [] {
      if (!thread_queue()) FAIL("no ring in a thread");
    });
    REQUIRE(thread);
  }
  CHECK(open_files() == before);
  close_thread_queue();
  CHECK(open_files() == before - 1);
}
