// SPDX-License-Identifier: GPL-2.0-or-later
// Reading and writing volumes through the kernel.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "mounted.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

constexpr uint64_t disk_size = 4 * MiB + 3 * 512;

// A mount with one plain volume "disk" of an odd size, one with blocks of 4096 bytes, one that is
// read-only and one that goes through queues.
struct Disks {
  MemoryDevice disk{"disk", disk_size};
  MemoryDevice big{"big", MiB, {.limits = {.logical_block = 4096, .physical_block = 4096}}};
  MemoryDevice fixed{"fixed", MiB, {.read_only = true}};
  MemoryDevice behind{"behind", 2 * MiB};
  QueuedDevice queued{"queued", behind};
  Mounted mount;
  std::shared_ptr<engine::Volume> volume;

  explicit Disks(fuse::Options options = {}) : mount(std::move(options)) {
    volume = *mount.catalog().add("disk", disk);
    REQUIRE(mount.catalog().add("big", big).has_value());
    REQUIRE(mount.catalog().add("vg0/fixed", fixed).has_value());
    REQUIRE(mount.catalog().add("queued", queued).has_value());
    mount.start();
  }
};

// Memory for O_DIRECT.
struct Aligned {
  explicit Aligned(size_t size) : bytes(static_cast<std::byte*>(std::aligned_alloc(4096, size))) {}
  ~Aligned() { std::free(bytes); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  std::byte* const bytes;
};

TEST_CASE("what is written anywhere is read back, and stands on the device") {
  Disks disks;
  for (const char* name : {"disk", "big", "queued"}) {
    CAPTURE(name);
    const Fd file(disks.mount.path(name), O_RDWR);
    uint64_t seed = 1;
    for (const uint64_t offset : {0, 1, 511, 512, 4095, 4096, 70000}) {
      for (const size_t size : {1UL, 3UL, 512UL, 4096UL, 5000UL, 300000UL}) {
        const auto data = pattern(size, ++seed);
        REQUIRE(pwrite(file, data.data(), size, static_cast<off_t>(offset)) ==
                static_cast<ssize_t>(size));
        CHECK(pread_all(file, offset, size) == data);
        BlockDevice& device = disks.mount.catalog().find(name)->device();
        MemoryDevice& memory =
            &device == &disks.queued ? disks.behind : static_cast<MemoryDevice&>(device);
        CHECK(memory.peek(offset, size) == data);
      }
    }
  }
  CHECK(disks.queued.submitted.load() > 0);
}

TEST_CASE("O_DIRECT reads and writes pass by the page cache and agree with it") {
  Disks disks;
  for (const char* name : {"disk", "big", "queued"}) {
    CAPTURE(name);
    const Fd direct(disks.mount.path(name), O_RDWR | O_DIRECT);
    const Fd cached(disks.mount.path(name), O_RDWR);
    const auto data = pattern(MiB / 2, 7);
    const Aligned memory(MiB / 2);
    std::memcpy(memory.bytes, data.data(), data.size());
    REQUIRE(pread_all(cached, 0, 4096).size() == 4096);  // what is cached must not stay
    REQUIRE(pwrite(direct, memory.bytes, data.size(), 0) == static_cast<ssize_t>(data.size()));
    CHECK(pread_all(cached, 0, data.size()) == data);
    REQUIRE(pwrite(cached, "new", 3, 5000) == 3);
    CHECK(std::memcmp(pread_all(direct, 5000, 3).data(), "new", 3) == 0);
    // FUSE asks for no alignment, so odd direct requests are right, too.
    REQUIRE(pwrite(direct, "odd", 3, 4095) == 3);
    CHECK(std::memcmp(pread_all(cached, 4095, 3).data(), "odd", 3) == 0);
  }
}

TEST_CASE("a shared mapping of a volume is its data") {
  Disks disks;
  for (const int flags : {O_RDWR, O_RDWR | O_DIRECT}) {
    CAPTURE(flags);
    const Fd file(disks.mount.path("disk"), flags);
    void* map = mmap(nullptr, MiB, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED && (flags & O_DIRECT) != 0 && errno == ENODEV) {
      MESSAGE("this kernel has no shared mappings of files opened with O_DIRECT");
      continue;
    }
    REQUIRE(map != MAP_FAILED);
    auto* bytes = static_cast<char*>(map);
    std::memcpy(bytes + 12345, "mapped", 6);
    REQUIRE(msync(map, MiB, MS_SYNC) == 0);
    CHECK(std::memcmp(disks.disk.peek(12345, 6).data(), "mapped", 6) == 0);
    REQUIRE(pwrite(file, "written", 7, 54321) == 7);
    CHECK(std::memcmp(bytes + 54321, "written", 7) == 0);
    munmap(map, MiB);
  }
}

TEST_CASE("a volume ends as a block device does") {
  Disks disks;
  for (const int flags : {O_RDWR, O_RDWR | O_DIRECT}) {
    CAPTURE(flags);
    const Fd file(disks.mount.path("disk"), flags);
    const auto end = static_cast<off_t>(disk_size);
    char buffer[2000] = {};
    CHECK(pread(file, buffer, sizeof buffer, end - 1000) == 1000);
    CHECK(pread(file, buffer, sizeof buffer, end) == 0);
    CHECK(pread(file, buffer, sizeof buffer, end + 5000) == 0);
    CHECK(pwrite(file, buffer, sizeof buffer, end - 1000) == 1000);
    CHECK(error_of(pwrite(file, buffer, sizeof buffer, end)) == ENOSPC);
    CHECK(error_of(pwrite(file, buffer, 1, end + 100000)) == ENOSPC);
    CHECK(lseek(file, 0, SEEK_END) == end);
    struct stat status{};
    REQUIRE(fstat(file, &status) == 0);
    CHECK(status.st_size == end);
  }
}

TEST_CASE("fsync, fdatasync and synchronous writes flush the device, a last close too") {
  Disks disks;
  {
    const Fd file(disks.mount.path("disk"), O_RDWR);
    REQUIRE(pwrite(file, "x", 1, 0) == 1);
    const uint64_t before = disks.disk.flushes();
    REQUIRE(fsync(file) == 0);
    CHECK(disks.disk.flushes() == before + 1);
    REQUIRE(fdatasync(file) == 0);
    CHECK(disks.disk.flushes() == before + 2);
  }
  for (const int sync : {O_SYNC, O_DSYNC}) {
    const Fd file(disks.mount.path("disk"), O_RDWR | sync);
    const uint64_t before = disks.disk.flushes();
    REQUIRE(pwrite(file, "x", 1, 0) == 1);
    CHECK(disks.disk.flushes() > before);
  }
  disks.mount.stop();
  const uint64_t written = disks.disk.flushes();
  CHECK(written >= 4);
}

TEST_CASE("a last close after writing flushes before the server ends") {
  Disks disks;
  {
    const Fd file(disks.mount.path("disk"), O_RDWR);
    REQUIRE(pwrite(file, "x", 1, 0) == 1);
  }
  disks.mount.stop();
  CHECK(disks.disk.flushes() == 1);
}

TEST_CASE("holes are found, punched and zeroed") {
  Disks disks;
  const Fd file(disks.mount.path("disk"), O_RDWR);
  CHECK(error_of(lseek(file, 0, SEEK_DATA)) == ENXIO);
  CHECK(lseek(file, 5, SEEK_HOLE) == 5);
  const auto data = pattern(64 * KiB, 3);
  REQUIRE(pwrite(file, data.data(), data.size(), MiB) == static_cast<ssize_t>(data.size()));
  CHECK(lseek(file, 0, SEEK_DATA) == static_cast<off_t>(MiB));
  CHECK(lseek(file, MiB, SEEK_HOLE) == static_cast<off_t>(MiB + 64 * KiB));
  CHECK(error_of(lseek(file, disk_size, SEEK_DATA)) == ENXIO);
  struct stat status{};
  REQUIRE(fstat(file, &status) == 0);
  CHECK(status.st_blocks == 128);

  const off_t at = MiB + 16 * KiB;
  REQUIRE(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 16 * KiB) == 0);
  CHECK(pread_all(file, at, 16 * KiB) == std::vector<std::byte>(16 * KiB));
  CHECK(lseek(file, MiB, SEEK_HOLE) == at);
  REQUIRE(fstat(file, &status) == 0);
  CHECK(status.st_blocks == 96);
  REQUIRE(fallocate(file, FALLOC_FL_ZERO_RANGE, MiB + 1, 1000) == 0);
  CHECK(pread_all(file, MiB + 1, 1000) == std::vector<std::byte>(1000));
  CHECK(pread_all(file, MiB, 1)[0] == data[0]);
  CHECK(pread_all(file, MiB + 1001, 1)[0] == data[1001]);

  CHECK(error_of(fallocate(file, 0, 0, 4096)) == EOPNOTSUPP);
  CHECK(error_of(fallocate(file, FALLOC_FL_COLLAPSE_RANGE, 0, 4096)) == EOPNOTSUPP);
  // As on a block device: nothing is beyond the end, what keeps the size is cut off there.
  CHECK(error_of(fallocate(file, FALLOC_FL_ZERO_RANGE, disk_size - 512, 4096)) == EINVAL);
  CHECK(error_of(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, disk_size, 4096)) ==
        EINVAL);
  const off_t last = static_cast<off_t>(disk_size) - 4096;
  for (const int mode : {FALLOC_FL_ZERO_RANGE, FALLOC_FL_PUNCH_HOLE}) {
    REQUIRE(pwrite(file, data.data(), 4096, last) == 4096);
    REQUIRE(fallocate(file, mode | FALLOC_FL_KEEP_SIZE, last + 512, 8192) == 0);
    CHECK(pread_all(file, last + 512, 3584) == std::vector<std::byte>(3584));
    CHECK(pread_all(file, last + 511, 1)[0] == data[511]);
  }
  REQUIRE(fstat(file, &status) == 0);
  CHECK(status.st_size == static_cast<off_t>(disk_size));
}

TEST_CASE("ioctls of block devices are answered as far as the kernel lets them through") {
  Disks disks;
  const Fd file(disks.mount.path("disk"), O_RDONLY);
  uint64_t size = 0;
  REQUIRE(ioctl(file, BLKGETSIZE64, &size) == 0);
  CHECK(size == disk_size);
  // The number of these does not tell that they return something.
  int value = 77;
  CHECK(error_of(ioctl(file, BLKSSZGET, &value)) == ENOTTY);
  CHECK(error_of(ioctl(file, BLKROGET, &value)) == ENOTTY);
  CHECK(value == 77);
}

TEST_CASE("a failed read through a queue is tried again the device's own way") {
  Disks disks;
  const auto data = pattern(4096, 9);
  disks.behind.poke(0, data);
  const Fd file(disks.mount.path("queued"), O_RDONLY | O_DIRECT);
  disks.queued.fail_next = true;
  CHECK(pread_all(file, 0, 4096) == data);
  CHECK(disks.queued.submitted.load() == 1);
}

TEST_CASE("a read-only volume is not opened for writing and is read") {
  Disks disks;
  const std::string path = disks.mount.path("vg0/fixed");
  CHECK(error_of(open(path.c_str(), O_RDWR | O_CLOEXEC)) == EROFS);
  CHECK(error_of(open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC)) == EROFS);
  CHECK(error_of(truncate(path.c_str(), 0)) == EROFS);
  const Fd file(path, O_RDONLY);
  CHECK(pread_all(file, 0, 4096).size() == 4096);
}

TEST_CASE("threads that write the bytes of one sector lose none") {
  Disks disks;
  constexpr int threads = 4, rounds = 40;
  std::vector<std::thread> writers;
  for (int t = 0; t < threads; ++t) {
    writers.emplace_back([&disks, t] {
      const Fd file(disks.mount.path("big"), O_RDWR | (t % 2 == 0 ? O_DIRECT : 0));
      for (int i = 0; i < rounds; ++i) {
        const char byte = static_cast<char>(t * rounds + i);
        // Every thread has every fourth byte of a block of 4096.
        if (pwrite(file, &byte, 1, 4 * i + t) != 1) return;
      }
    });
  }
  for (auto& each : writers) each.join();
  const auto stands = disks.big.peek(0, threads * rounds);
  for (int t = 0; t < threads; ++t)
    for (int i = 0; i < rounds; ++i)
      CHECK(stands[4 * i + t] == static_cast<std::byte>(t * rounds + i));
}

TEST_CASE("the writeback cache keeps nothing back from fsync") {
  Disks disks({.writeback_cache = true});
  const Fd file(disks.mount.path("disk"), O_RDWR);
  for (int i = 0; i < 1000; ++i) REQUIRE(pwrite(file, "ab", 2, i * 3) == 2);
  REQUIRE(fsync(file) == 0);
  CHECK(disks.disk.peek(999 * 3, 2) == std::vector{std::byte{'a'}, std::byte{'b'}});
  // The kernel takes a write past the end into its cache and learns at fsync that there is no room.
  REQUIRE(pwrite(file, "lost", 4, static_cast<off_t>(disk_size)) == 4);
  CHECK(error_of(fsync(file)) == ENOSPC);
}

}  // namespace
}  // namespace volfs::test
