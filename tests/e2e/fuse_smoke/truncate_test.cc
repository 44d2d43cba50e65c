// SPDX-License-Identifier: GPL-2.0-or-later
// open(O_TRUNC) does nothing, as on a block device: not to data, not to sizes, and not to what the
// kernel keeps for others.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "mounted.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

constexpr auto disk_size = static_cast<off_t>(2 * MiB + 512);

struct Disk {
  MemoryDevice disk{"disk", disk_size};
  Mounted mount;
  explicit Disk(bool writeback_cache) : mount({.writeback_cache = writeback_cache}) {
    REQUIRE(mount.catalog().add("disk", disk).has_value());
    mount.start();
  }
  std::string path() const { return mount.path("disk"); }
  bool holds(uint64_t offset, const char* text) const {
    const size_t length = std::strlen(text);
    return std::memcmp(disk.peek(offset, length).data(), text, length) == 0;
  }
};

off_t size_of(const std::string& path) {
  struct stat status{};
  return stat(path.c_str(), &status) == 0 ? status.st_size : -1;
}

TEST_CASE("opening with O_TRUNC leaves what others have changed and not yet written") {
  for (const bool cached : {false, true}) {
    CAPTURE(cached);
    Disk disk(cached);
    const Fd file(disk.path(), O_RDWR);
    const std::vector<char> old(16 * KiB, '\xaa');
    REQUIRE(pwrite(file, old.data(), old.size(), 0) == static_cast<ssize_t>(old.size()));
    REQUIRE(fsync(file) == 0);
    void* const map = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    REQUIRE(map != MAP_FAILED);
    std::memcpy(map, "MMAP", 4);
    REQUIRE(pwrite(file, "PLAIN", 5, 8192) == 5);
    {
      const Fd other(disk.path(), O_WRONLY | O_TRUNC);
      CHECK(size_of(disk.path()) == disk_size);
      REQUIRE(pwrite(other, "other", 5, MiB) == 5);
    }
    {
      const Fd reader(disk.path(), O_RDONLY | O_TRUNC);
      CHECK(std::memcmp(pread_all(reader, 8192, 5).data(), "PLAIN", 5) == 0);
    }
    CHECK(std::memcmp(map, "MMAP\xaa", 5) == 0);
    CHECK(size_of(disk.path()) == disk_size);
    REQUIRE(msync(map, 4096, MS_SYNC) == 0);
    REQUIRE(fsync(file) == 0);
    CHECK(disk.holds(0, "MMAP\xaa"));
    CHECK(disk.holds(8192, "PLAIN\xaa"));
    CHECK(disk.holds(MiB, "other"));
    munmap(map, 4096);
  }
}

TEST_CASE("what is appended after O_TRUNC finds no space, and nothing is overwritten") {
  for (const bool cached : {false, true}) {
    CAPTURE(cached);
    Disk disk(cached);
    {
      const Fd file(disk.path(), O_RDWR);
      REQUIRE(pwrite(file, "first", 5, 0) == 5);
    }
    {
      const Fd emptied(disk.path(), O_WRONLY | O_TRUNC);
    }
    CHECK(size_of(disk.path()) == disk_size);
    {
      const Fd appended(disk.path(), O_WRONLY | O_APPEND);
      // The kernel's cache takes it, and learns later.
      if (cached) {
        CHECK(write(appended, "zzzz", 4) == 4);
        CHECK(error_of(fsync(appended)) == ENOSPC);
      } else {
        CHECK(error_of(write(appended, "zzzz", 4)) == ENOSPC);
        CHECK(size_of(disk.path()) == disk_size);
      }
    }
    CHECK(disk.holds(0, "first"));
    const Fd again(disk.path(), O_RDONLY | O_TRUNC);
    CHECK(size_of(disk.path()) == disk_size);
  }
}

TEST_CASE("a size that a cached write has changed is right again after the last close") {
  Disk disk(true);
  for (int round = 0; round < 2; ++round) {
    {
      const Fd file(disk.path(), O_RDWR);
      REQUIRE(pwrite(file, "lost", 4, disk_size + 100) == 4);
      CHECK(size_of(disk.path()) == disk_size + 104);  // the kernel's, who asks nobody
      CHECK(error_of(fsync(file)) == ENOSPC);
    }
    // The kernel is told by another thread.
    for (int tries = 0; tries < 5000 && size_of(disk.path()) != disk_size; ++tries)
      sleep_for(std::chrono::milliseconds(2));
    CHECK(size_of(disk.path()) == disk_size);
  }
}

TEST_CASE("truncating to another size is refused") {
  for (const bool cached : {false, true}) {
    CAPTURE(cached);
    Disk disk(cached);
    const Fd file(disk.path(), O_RDWR);
    for (const off_t size : {off_t{0}, off_t{4096}, disk_size + 4096}) {
      CAPTURE(size);
      CHECK(error_of(ftruncate(file, size)) == EPERM);
      // The kernel asks for truncate(2) to 0 as for O_TRUNC: then it does as little.
      CHECK(error_of(truncate(disk.path().c_str(), size)) == (size == 0 ? 0 : EPERM));
      CHECK(size_of(disk.path()) == disk_size);
    }
    CHECK(ftruncate(file, disk_size) == 0);
  }
}

}  // namespace
}  // namespace volfs::test
