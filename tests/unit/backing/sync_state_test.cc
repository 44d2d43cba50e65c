// SPDX-License-Identifier: GPL-2.0-or-later
// Flushes, and the errors of full and limited file systems.
#include <doctest/doctest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>

#include "backing/image_file.h"
#include "support/byte_model.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

TEST_CASE("a failed flush fails all later ones of the file, until it is opened again") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  {
    auto one = FileImage::open("one", path, {.length = 4096});
    auto two = FileImage::open("two", path, {.offset = 4096});
    REQUIRE(one);
    REQUIRE(two);
    CHECK((*one)->flush());
    (*one)->file().sync_failed(EIO);
    for (auto* image : {&*one, &*two}) {
      const Status status = (*image)->flush();
      REQUIRE_FALSE(status);
      CHECK(status.error().code() == EIO);
    }
    CHECK((*two)->flush().error().text() == "two: flush: Input/output error");
    const std::vector<std::byte> bytes(512);
    CHECK((*one)->write(0, bytes));
  }
  auto again = FileImage::open("one", path, {});
  REQUIRE(again);
  CHECK((*again)->flush());
}

TEST_CASE("threads flush and write with FUA at once") {
  const TempDir dir;
  auto image = FileImage::open("disk", dir.file("disk.img", MiB), {});
  REQUIRE(image);
  std::atomic<int> failures{0};
  {
    std::vector<Thread> threads;
    for (uint64_t t = 0; t < 6; ++t) {
      auto thread = Thread::start("flusher", [&, t] {
        const std::vector<std::byte> bytes(512, static_cast<std::byte>(t));
        for (int i = 0; i < 20; ++i) {
          if (!(*image)->write(t * 512, bytes, t % 2 == 0 ? Fua::yes : Fua::no)) ++failures;
          if (!(*image)->flush()) ++failures;
        }
      });
      REQUIRE(thread);
      threads.push_back(std::move(*thread));
    }
  }
  CHECK(failures == 0);
}

TEST_CASE("a write past the limit of file sizes fails and kills nobody") {
  const TempDir dir;
  auto image = FileImage::open("disk", dir.file("disk.img", MiB), {});
  REQUIRE(image);
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit limit{.rlim_cur = 64 * KiB, .rlim_max = before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  const std::vector<std::byte> bytes(4096, std::byte{1});
  const Status past = (*image)->write(128 * KiB, bytes);
  const Status within = (*image)->write(0, bytes);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  REQUIRE_FALSE(past);
  CHECK(past.error().text() == "disk: write 4096 at 131072: File too large");
  CHECK(within);
}

TEST_CASE("a full file system fails the write that met it, and nothing else") {
  const TempDir dir;
  const std::string mounted = dir.path("small");
  std::filesystem::create_directory(mounted);
  if (::mount("volfs-test", mounted.c_str(), "tmpfs", 0, "size=1m") != 0) {
    MESSAGE("skipped: a tmpfs cannot be mounted here");
    return;
  }
  struct Unmount {
    ~Unmount() { ::umount2(path.c_str(), MNT_DETACH); }
    std::string path;
  } const unmount{mounted};
  auto image = FileImage::open("disk", mounted + "/disk.img", {.create = 4 * MiB, .direct = true});
  REQUIRE(image);
  CHECK_FALSE((*image)->direct());
  CHECK((*image)->service(Op::read) == Service::inline_);
  const std::vector<std::byte> bytes(512 * KiB, std::byte{1});
  REQUIRE((*image)->write(0, bytes));
  const std::vector<std::byte> more(MiB, std::byte{2});
  const Status full = (*image)->write(2 * MiB, more);
  REQUIRE_FALSE(full);
  CHECK(full.error().code() == ENOSPC);
  CHECK(full.error().text() == "disk: write 1048576 at 2097152: No space left on device");
  CHECK_FALSE(first_difference(read_bytes(**image, 0, 512 * KiB), bytes));
  CHECK((*image)->write(0, std::span(bytes).first(4096)));
  CHECK((*image)->flush());
  CHECK((*image)->discard(2 * MiB, MiB));
  CHECK((*image)->write(2 * MiB, std::span(more).first(4096)));
}
