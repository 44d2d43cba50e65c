// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "support/byte_model.h"
#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/backing/thread_queue.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

std::unique_ptr<FileImage> open_image(const std::string& path, const ImageOptions& options = {}) {
  auto image = FileImage::open("disk", path, options);
  if (!image) FAIL(image.error().text());
  return std::move(*image);
}

Error open_error(const std::string& path, const ImageOptions& options = {}) {
  auto image = FileImage::open("disk", path, options);
  REQUIRE_FALSE(image);
  return image.error();
}

}  // namespace

TEST_CASE(
    "an image is made sparse with its size, for its owner only, and an old one is left as it is") {
  const TempDir dir;
  const std::string path = dir.path("disk.img");
  {
    auto image = open_image(path, {.create = GiB});
    CHECK(image->size() == GiB);
    REQUIRE(image->write(0, std::vector<std::byte>(4096, std::byte{1})));
  }
  struct stat st{};
  REQUIRE(::stat(path.c_str(), &st) == 0);
  CHECK((st.st_mode & 077) == 0);
  CHECK(st.st_size == static_cast<off_t>(GiB));
  CHECK(st.st_blocks * 512 < static_cast<off_t>(MiB));
  auto image = open_image(path, {.create = 512});
  CHECK(image->size() == GiB);
  CHECK(read_bytes(*image, 0, 512)[0] == std::byte{1});
  CHECK(create_image(path, MiB).error().code() == EEXIST);
  CHECK(create_image(dir.path("odd"), 1000).error().code() == EINVAL);
  CHECK(create_image(dir.path("none"), 0).error().code() == EINVAL);
  CHECK_FALSE(std::filesystem::exists(dir.path("odd")));
}

TEST_CASE("a size that is no multiple of 512 bytes is rounded down") {
  const TempDir dir;
  CHECK(open_image(dir.file("disk.img", 10 * 512 + 511))->size() == 10 * 512);
  CHECK(open_image(dir.file("empty.img", 0))->size() == 0);
}

TEST_CASE("what cannot be an image is refused, and the path is named") {
  const TempDir dir;
  CHECK(open_error(dir.path("missing")).code() == ENOENT);
  CHECK(open_error(dir.path("missing")).text() ==
        dir.path("missing") + ": No such file or directory");
  CHECK(open_error(dir.path("")).code() == EISDIR);
  REQUIRE(::mkfifo(dir.path("fifo").c_str(), 0600) == 0);
  CHECK(open_error(dir.path("fifo")).text() ==
        dir.path("fifo") + ": neither a regular file nor a block device");
  CHECK(open_error("/dev/null").code() == EINVAL);
  const std::string path = dir.file("disk.img", MiB);
  CHECK(open_error(path, {.offset = MiB, .length = 512}).text() ==
        path + ": 512 bytes at 1048576 do not lie in 1048576 bytes");
  CHECK(open_error(path, {.offset = 100}).text() ==
        path + ": offset 100: expected a multiple of 512");
  CHECK(open_error(path, {.partition = 1}).text() ==
        path + ": partition 1: there is no partition table");
}

TEST_CASE("a range of an image is an image") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  auto whole = open_image(path);
  auto part = open_image(path, {.offset = 4096, .length = 8192});
  CHECK(part->size() == 8192);
  CHECK(part->start() == 4096);
  REQUIRE(part->write(512, std::vector<std::byte>(512, std::byte{9})));
  CHECK(read_bytes(*whole, 4096 + 512, 512)[0] == std::byte{9});
  std::vector<std::byte> past(512);
  CHECK_FALSE(part->read(8192, past));
  auto rest = open_image(path, {.offset = 4096});
  CHECK(rest->size() == MiB - 4096);
}

TEST_CASE("all images of a file go one way, through the page cache or past it") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  const std::string link = dir.path("link.img");
  std::filesystem::create_symlink(path, link);
  {
    auto buffered = open_image(path, {.length = 4096});
    auto direct = open_image(link, {.direct = true, .offset = 4096});
    CHECK_FALSE(direct->direct());
    CHECK(&direct->file() == &buffered->file());
  }
  auto direct = open_image(path, {.direct = true, .offset = 4096, .length = 4096});
  if (!direct->direct()) return;
  auto also = open_image(link, {.read_only = true, .direct = true, .offset = 8192});
  CHECK(also->direct());
  CHECK(open_error(link, {.length = 4096}).code() == EINVAL);
  CHECK(open_error(link, {.read_only = true, .length = 4096}).text() ==
        link +
            ": another image of this file is used with O_DIRECT and this one cannot be: "
            "expected all images of a file with it, or none");
  direct.reset();
  CHECK(open_error(path).code() == EINVAL);
  also.reset();
  CHECK_FALSE(open_image(path)->direct());
}

TEST_CASE("images know whether they share bytes, whatever their file is called") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  std::filesystem::create_symlink(path, dir.path("soft"));
  std::filesystem::create_hard_link(path, dir.path("hard"));
  const auto first = open_image(path, {.length = 512 * KiB});
  for (const char* name : {"disk.img", "soft", "hard"}) {
    const auto last_block = open_image(dir.path(name), {.offset = 511 * KiB});
    CHECK(last_block->overlaps(*first));
    CHECK(first->overlaps(*last_block));
    CHECK_FALSE(open_image(dir.path(name), {.offset = 512 * KiB})->overlaps(*first));
  }
  CHECK_FALSE(open_image(dir.file("other.img", MiB))->overlaps(*first));
}

TEST_CASE("an image that was cut off fails what lies past its end, and is not made longer") {
  const TempDir dir;
  for (const bool direct : {false, true}) {
    const std::string path = dir.file("disk.img", MiB);
    auto image = open_image(path, {.direct = direct});
    std::vector<std::byte> bytes(4096, std::byte{1});
    std::filesystem::resize_file(path, 65536);
    auto read = image->read(65536, bytes);
    REQUIRE_FALSE(read);
    CHECK(read.error().code() == EIO);
    CHECK(read.error().text() == "disk: read 4096 at 65536: image ended at 65536");
    auto write = image->write(131072, bytes);
    REQUIRE_FALSE(write);
    CHECK(write.error().code() == EIO);
    CHECK(write.error().text() == "disk: write 4096 at 131072: image ended at 65536");
    CHECK_FALSE(image->write_zeroes(131072, 4096));
    CHECK_FALSE(image->discard(131072, 4096));
    CHECK_FALSE(image->allocation(131072, 4096));
    CHECK(std::filesystem::file_size(path) == 65536);
    CHECK(image->write(0, bytes));
    CHECK(image->read(0, bytes));
    CHECK(image->flush());
  }
}
