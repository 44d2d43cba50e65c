// SPDX-License-Identifier: GPL-2.0-or-later
// Images and other processes.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "support/temp_dir.h"
#include "volfs/backing/image.h"
#include "volfs/units.h"

using namespace volfs;
using namespace volfs::test;

namespace {

// Another process that holds an image open until the object goes.
class Other {
 public:
  Other(const std::string& path, bool read_only) {
    int ready[2], end[2];
    REQUIRE(::pipe(ready) == 0);
    REQUIRE(::pipe(end) == 0);
    child_ = ::fork();
    REQUIRE(child_ >= 0);
    if (child_ == 0) {
      ::close(end[1]);
      const auto image = FileImage::open("other", path, {.read_only = read_only});
      const char result = image ? 'y' : 'n';
      char byte;
      if (::write(ready[1], &result, 1) == 1) (void)!::read(end[0], &byte, 1);
      ::_exit(0);
    }
    ::close(ready[1]);
    ::close(end[0]);
    char result = 0;
    opened_ = ::read(ready[0], &result, 1) == 1 && result == 'y';
    ::close(ready[0]);
    end_ = end[1];
  }
  ~Other() {
    ::close(end_);
    int status = 0;
    ::waitpid(child_, &status, 0);
  }
  bool opened() const { return opened_; }

 private:
  pid_t child_ = -1;
  int end_ = -1;
  bool opened_ = false;
};

int code_of(const std::string& path, bool read_only) {
  auto image = FileImage::open("disk", path, {.read_only = read_only});
  return image ? 0 : image.error().code();
}

}  // namespace

TEST_CASE("a file has one writing process and no reader then, or many reading ones") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  {
    const Other writer(path, false);
    REQUIRE(writer.opened());
    auto image = FileImage::open("disk", path, {});
    REQUIRE_FALSE(image);
    CHECK(image.error().code() == EBUSY);
    CHECK(image.error().text() == path + ": in use by another program");
    auto reader = FileImage::open("disk", path, {.read_only = true});
    REQUIRE_FALSE(reader);
    CHECK(reader.error().text() == path + ": another program is writing to it");
  }
  {
    const Other reader(path, true);
    REQUIRE(reader.opened());
    CHECK(code_of(path, true) == 0);
    CHECK(code_of(path, false) == EBUSY);
  }
  CHECK(code_of(path, false) == 0);
}

TEST_CASE("a path of another name is the same file") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB), link = dir.path("link.img");
  REQUIRE(::symlink(path.c_str(), link.c_str()) == 0);
  const Other writer(path, false);
  CHECK(code_of(link, false) == EBUSY);
}

TEST_CASE("one process opens a file as often as it likes, and its claim is the strongest of them") {
  const TempDir dir;
  const std::string path = dir.file("disk.img", MiB);
  std::unique_ptr<FileImage> reader;
  {
    const Other other(path, true);
    CHECK(other.opened());
    auto opened = FileImage::open("reader", path, {.read_only = true});
    REQUIRE(opened);
    reader = std::move(*opened);
    // Our claim cannot become a writer's now, and stays a reader's.
    CHECK(code_of(path, false) == EBUSY);
    CHECK(code_of(path, true) == 0);
  }
  auto first = FileImage::open("first", path, {.length = 4096});
  auto second = FileImage::open("second", path, {.offset = 4096});
  REQUIRE(first);
  REQUIRE(second);
  CHECK(&(*first)->file() == &(*second)->file());
  std::vector<std::byte> bytes(4096, std::byte{5});
  CHECK((*second)->write(0, bytes));
  CHECK(reader->read(4096, bytes));
  CHECK_FALSE(reader->write(0, bytes));
  // A child of fork() would share the claim: only a lock that is asked for anew tells.
  const auto lockable = [&path] {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    struct flock range{};
    range.l_type = F_WRLCK;
    const bool got = ::fcntl(fd, F_OFD_SETLK, &range) == 0;
    ::close(fd);
    return got;
  };
  CHECK_FALSE(lockable());
  first->reset();
  CHECK_FALSE(lockable());
  second->reset();
  reader.reset();
  CHECK(lockable());
}
