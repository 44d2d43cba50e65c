// SPDX-License-Identifier: GPL-2.0-or-later
// The mounted directory: what is in it, what is refused, the files of .volfs, and who waits for
// whom.
#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <thread>

#include "mounted.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

std::vector<std::string> names(const std::string& path) {
  std::vector<std::string> all;
  DIR* directory = opendir(path.c_str());
  REQUIRE(directory);
  while (const dirent* entry = readdir(directory)) all.emplace_back(entry->d_name);
  closedir(directory);
  std::sort(all.begin(), all.end());
  return all;
}

std::string read_text(const std::string& path) {
  const Fd file(path, O_RDONLY);
  const auto bytes = pread_all(file, 0, 10 * MiB);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Sends a request on an open control file and reads the reply, in pieces of PIECE bytes.
std::string talk(int file, const std::string& request, size_t piece = 65536) {
  if (write(file, request.data(), request.size()) != static_cast<ssize_t>(request.size()))
    return "write failed";
  std::string reply;
  std::string buffer(piece, '\0');
  while (true) {
    const ssize_t n = read(file, buffer.data(), buffer.size());
    if (n < 0) return "read failed";
    if (n == 0) return reply;
    reply.append(buffer, 0, static_cast<size_t>(n));
  }
}

struct Volumes {
  MemoryDevice disk{"disk", MiB};
  MemoryDevice root{"root", MiB};
  Mounted mount;

  explicit Volumes(fuse::Options options = {}) : mount(std::move(options)) {
    REQUIRE(mount.catalog().add("disk", disk).has_value());
    REQUIRE(mount.catalog().add("vg0/root", root).has_value());
  }
};

TEST_CASE("the directory shows volumes, their groups and .volfs") {
  Volumes volumes;
  volumes.mount.info.push_back({"mdstat", [] { return std::string("none\n"); }});
  volumes.mount.start();
  const Mounted& mount = volumes.mount;
  CHECK(names(mount.directory()) == std::vector<std::string>{".", "..", ".volfs", "disk", "vg0"});
  CHECK(names(mount.path("vg0")) == std::vector<std::string>{".", "..", "root"});
  CHECK(names(mount.path(".volfs")) == std::vector<std::string>{".", "..", "control", "mdstat"});
  struct stat status{};
  REQUIRE(stat(mount.path("vg0/root").c_str(), &status) == 0);
  CHECK(status.st_mode == (S_IFREG | 0640));
  CHECK(status.st_uid == getuid());
  CHECK(status.st_size == static_cast<off_t>(MiB));
  CHECK(status.st_blksize >= 4096);
  REQUIRE(stat(mount.path("vg0").c_str(), &status) == 0);
  CHECK(status.st_mode == (S_IFDIR | 0750));
  CHECK(error_of(stat(mount.path("nothing").c_str(), &status)) == ENOENT);
  struct statvfs room{};
  REQUIRE(statvfs(mount.directory().c_str(), &room) == 0);
  CHECK(room.f_blocks * room.f_frsize == 2 * MiB);
  CHECK(room.f_bfree == 0);

  std::ifstream mounts("/proc/mounts");
  const std::string text{std::istreambuf_iterator<char>(mounts), {}};
  CHECK(text.find("a\\040test,\\040of\\040files " + mount.directory() + " fuse.volfs") !=
        std::string::npos);
}

TEST_CASE("what only volfs' own commands may change is refused") {
  Volumes volumes;
  volumes.mount.start();
  const Mounted& mount = volumes.mount;
  const std::string disk = mount.path("disk");
  const std::string other = mount.path("other");
  CHECK(error_of(unlink(disk.c_str())) == EPERM);
  CHECK(error_of(rename(disk.c_str(), other.c_str())) == EPERM);
  CHECK(error_of(mkdir(other.c_str(), 0700)) == EPERM);
  CHECK(error_of(rmdir(mount.path("vg0").c_str())) == EPERM);
  CHECK(error_of(symlink("x", other.c_str())) == EPERM);
  CHECK(error_of(link(disk.c_str(), other.c_str())) == EPERM);
  CHECK(error_of(mkfifo(other.c_str(), 0600)) == EPERM);
  CHECK(error_of(open(other.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)) == EPERM);
  CHECK(error_of(truncate(disk.c_str(), 4096)) == EPERM);
  CHECK(error_of(truncate(disk.c_str(), 2 * MiB)) == EPERM);
  CHECK(truncate(disk.c_str(), MiB) == 0);
  CHECK(error_of(chmod(disk.c_str(), 0600)) == EPERM);
  CHECK(chmod(disk.c_str(), 0640) == 0);
  CHECK(error_of(chown(disk.c_str(), getuid() + 1, getgid())) == EPERM);
  CHECK(utimensat(AT_FDCWD, disk.c_str(), nullptr, 0) == 0);
  char value[16];
  CHECK(error_of(getxattr(disk.c_str(), "user.x", value, sizeof value)) == EOPNOTSUPP);
  CHECK(error_of(setxattr(disk.c_str(), "user.x", "1", 1, 0)) == EOPNOTSUPP);
}

TEST_CASE("opening with O_TRUNC leaves data and size as they are, as on a block device") {
  Volumes volumes;
  const auto data = pattern(4096, 5);
  volumes.disk.poke(0, data);
  volumes.mount.start();
  const Fd file(volumes.mount.path("disk"), O_RDWR | O_TRUNC);
  CHECK(lseek(file, 0, SEEK_END) == static_cast<off_t>(MiB));
  CHECK(pread_all(file, 0, 4096) == data);
}

TEST_CASE("a read-only mount refuses writers and still answers control requests") {
  Volumes volumes({.options = {"ro"}, .read_only = true});
  volumes.mount.start();
  const Mounted& mount = volumes.mount;
  CHECK(error_of(open(mount.path("disk").c_str(), O_RDWR | O_CLOEXEC)) == EROFS);
  CHECK(error_of(mkdir(mount.path("other").c_str(), 0700)) == EROFS);
  const Fd control(mount.path(".volfs/control"), O_RDWR);
  CHECK(talk(control, "hello") == "hello");
}

TEST_CASE("an info file has the content of the moment when it was opened") {
  Volumes volumes;
  int made = 0;
  volumes.mount.info.push_back(
      {"long", [&made] { return std::string(300000, static_cast<char>('a' + made++)); }});
  volumes.mount.info.push_back(
      {"bad", []() -> Result<std::string> { return fail_sys(EIO, "cannot tell"); }});
  volumes.mount.start();
  const std::string path = volumes.mount.path(".volfs/long");
  const Fd first(path, O_RDONLY);
  CHECK(read_text(path) == std::string(300000, 'b'));
  char byte = 0;
  REQUIRE(pread(first, &byte, 1, 299999) == 1);
  CHECK(byte == 'a');
  CHECK(error_of(open(path.c_str(), O_RDWR | O_CLOEXEC)) == EACCES);
  CHECK(error_of(open(volumes.mount.path(".volfs/bad").c_str(), O_RDONLY | O_CLOEXEC)) == EIO);
}

TEST_CASE("the control file answers each request on the same open file") {
  Volumes volumes;
  volumes.mount.control = [](std::string text) { return "<" + text + ">"; };
  volumes.mount.start();
  const Fd control(volumes.mount.path(".volfs/control"), O_RDWR);
  const Fd second(volumes.mount.path(".volfs/control"), O_RDWR);
  CHECK(talk(control, "one") == "<one>");
  CHECK(talk(control, "two", 2) == "<two>");
  CHECK(talk(second, "three") == "<three>");
  // By offset, too.
  REQUIRE(pwrite(control, "four", 4, 0) == 4);
  char buffer[16] = {};
  CHECK(pread(control, buffer, sizeof buffer, 0) == 6);
  CHECK(std::string(buffer, 6) == "<four>");
  CHECK(pread(control, buffer, 3, 2) == 3);
  CHECK(std::string(buffer, 3) == "our");
}

TEST_CASE("a long request arrives whole although the kernel cuts it") {
  Volumes volumes;
  volumes.mount.control = [](std::string text) {
    return std::to_string(text.size()) + text.substr(text.size() - 3);
  };
  volumes.mount.start();
  const Fd control(volumes.mount.path(".volfs/control"), O_RDWR);
  for (const size_t size : {MiB, MiB - 1, MiB - 4096, MiB - 4097, uint64_t{4097}}) {
    for (const size_t shift : {0, 1, 4095}) {
      CAPTURE(size);
      CAPTURE(shift);
      std::string memory(size + 8192, 'x');
      const size_t begin = 4096 - reinterpret_cast<uintptr_t>(memory.data()) % 4096 + shift;
      memory.replace(begin + size - 3, 3, "end");
      REQUIRE(write(control, memory.data() + begin, size) == static_cast<ssize_t>(size));
      char reply[32] = {};
      REQUIRE(read(control, reply, sizeof reply) > 0);
      CHECK(std::string(reply) == std::to_string(size) + "end");
    }
  }
  const std::string large(2 * MiB, 'x');
  CHECK(write(control, large.data(), large.size()) < static_cast<ssize_t>(large.size()));
}

TEST_CASE("a request without a reader is carried out") {
  Volumes volumes;
  std::string last;
  volumes.mount.control = [&last](std::string text) { return last = std::move(text); };
  volumes.mount.start();
  {
    const Fd control(volumes.mount.path(".volfs/control"), O_WRONLY);
    REQUIRE(write(control, "do it", 5) == 5);
  }
  volumes.mount.stop();
  CHECK(last == "do it");
}

TEST_CASE("what waits on a suspended volume holds up neither others nor control") {
  Volumes volumes;
  MemoryDevice memory("memory", MiB);
  GatedDevice gated("gated", memory);
  REQUIRE(volumes.mount.catalog().add("gated", gated).has_value());
  Gate control_gate;
  volumes.mount.control = [&control_gate](std::string text) {
    if (text == "wait") {
      control_gate.enter();
      control_gate.exit();
    }
    return text;
  };
  volumes.mount.start();
  const Mounted& mount = volumes.mount;
  gated.suspend();
  control_gate.close();
  std::vector<std::thread> waiting;
  std::atomic<int> good{0};
  for (int i = 0; i < 64; ++i) {
    waiting.emplace_back([&, i] {
      const Fd file(mount.path("gated"), O_RDWR | (i % 2 == 0 ? O_DIRECT : 0));
      char buffer[4096] = {};
      const auto offset = static_cast<off_t>(i) * 8192;
      const ssize_t n = i % 4 == 1 ? pwrite(file, buffer, sizeof buffer, offset)
                                   : pread(file, buffer, sizeof buffer, offset);
      if (n == sizeof buffer) ++good;
    });
  }
  const Fd busy(mount.path(".volfs/control"), O_RDWR);
  std::thread waiter([&] {
    if (talk(busy, "wait") == "wait") ++good;
  });
  for (int i = 0; i < 20; ++i) {
    const Fd file(mount.path("disk"), O_RDWR);
    REQUIRE(pwrite(file, "x", 1, i) == 1);
    REQUIRE(fsync(file) == 0);
    const Fd control(mount.path(".volfs/control"), O_RDWR);
    CHECK(talk(control, "still there") == "still there");
    struct stat status{};
    CHECK(stat(mount.path("gated").c_str(), &status) == 0);
    CHECK(names(mount.directory()).size() == 6);
  }
  CHECK(good.load() == 0);
  gated.resume();
  control_gate.open();
  for (auto& each : waiting) each.join();
  waiter.join();
  CHECK(good.load() == 65);
}

TEST_CASE("a killed program does not wait for an info file that takes long") {
  Gate gate;
  Volumes volumes;
  volumes.mount.info.push_back({"slow", [&gate]() -> Result<std::string> {
                                  gate.enter();
                                  gate.exit();
                                  return std::string("at last");
                                }});
  volumes.mount.start();
  gate.close();
  std::string program = "cat", path = volumes.mount.path(".volfs/slow");
  char* arguments[] = {program.data(), path.data(), nullptr};
  pid_t child = 0;
  REQUIRE(posix_spawnp(&child, "cat", nullptr, nullptr, arguments, environ) == 0);
  sleep_for(std::chrono::milliseconds(300));
  int status = 0;
  CHECK(waitpid(child, &status, WNOHANG) == 0);
  REQUIRE(kill(child, SIGKILL) == 0);
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  gate.open();
  const Fd file(path, O_RDONLY);
  CHECK(pread_all(file, 0, 100).size() == 7);
}

TEST_CASE("serving threads that wait in a device are replaced") {
  Volumes volumes({.threads = 2});
  InlineWaiter waiter("waiter", MiB);
  REQUIRE(volumes.mount.catalog().add("waiter", waiter).has_value());
  volumes.mount.start();
  waiter.gate.close();
  std::vector<std::thread> waiting;
  std::atomic<int> good{0};
  for (int i = 0; i < 24; ++i) {
    waiting.emplace_back([&, i] {
      const Fd file(volumes.mount.path("waiter"), O_RDONLY | O_DIRECT);
      char buffer[512];
      if (pread(file, buffer, sizeof buffer, i * 512) == sizeof buffer) ++good;
    });
  }
  for (int i = 0; i < 50; ++i) {
    const Fd file(volumes.mount.path("disk"), O_RDWR | O_DIRECT);
    REQUIRE(pwrite(file, "x", 1, i) == 1);
  }
  CHECK(good.load() == 0);
  waiter.gate.open();
  for (auto& each : waiting) each.join();
  CHECK(good.load() == 24);
}

TEST_CASE("names that come and go are seen at once, although the kernel keeps them") {
  Volumes volumes;
  volumes.mount.start();
  const std::string path = volumes.mount.path("late");
  struct stat status{};
  MemoryDevice late("late", MiB);
  for (int i = 0; i < 5; ++i) {
    CHECK(error_of(stat(path.c_str(), &status)) == ENOENT);
    REQUIRE(volumes.mount.catalog().add("late", late).has_value());
    // The kernel is told by another thread.
    for (int tries = 0; tries < 5000 && stat(path.c_str(), &status) != 0; ++tries)
      sleep_for(std::chrono::milliseconds(2));
    CHECK(stat(path.c_str(), &status) == 0);
    REQUIRE(volumes.mount.catalog().remove("late").has_value());
    for (int tries = 0; tries < 5000 && stat(path.c_str(), &status) == 0; ++tries)
      sleep_for(std::chrono::milliseconds(2));
  }
}

TEST_CASE("after a lazy unmount open files are served until the last close") {
  Volumes volumes;
  volumes.mount.start();
  auto file = std::make_unique<Fd>(volumes.mount.path("disk"), O_RDWR);
  volumes.mount.ask_to_stop();
  struct stat status{};
  for (int tries = 0; tries < 5000; ++tries) {
    if (stat(volumes.mount.path("disk").c_str(), &status) != 0) break;
    sleep_for(std::chrono::milliseconds(2));
  }
  CHECK(error_of(stat(volumes.mount.path("disk").c_str(), &status)) == ENOENT);
  REQUIRE(pwrite(*file, "late", 4, 0) == 4);
  CHECK(pread_all(*file, 0, 4).size() == 4);
  file.reset();
  volumes.mount.wait();
  CHECK(volumes.disk.flushes() == 1);
}

TEST_CASE("an unmount by others ends the server") {
  Volumes volumes;
  volumes.mount.start();
  if (geteuid() != 0) return;
  REQUIRE(umount2(volumes.mount.directory().c_str(), 0) == 0);
  volumes.mount.wait();
}

TEST_CASE("a mount that cannot be says why") {
  engine::Catalog catalog({});
  const auto message = [&catalog](const std::string& mountpoint) {
    auto server = fuse::Server::mount(catalog, {.mountpoint = mountpoint});
    return server ? std::string("mounted") : server.error().text();
  };
  CHECK(message("/nonexistent/place") ==
        "/nonexistent/place: mount point: No such file or directory");
  CHECK(message("/dev/null") == "/dev/null: mount point: Not a directory");
  Volumes volumes;
  volumes.mount.start();
  CHECK(message(volumes.mount.directory()) ==
        volumes.mount.directory() + ": volfs is already mounted here");
  auto bad = fuse::Server::mount(catalog, {.mountpoint = "/tmp", .options = {"nonsense"}});
  REQUIRE(!bad.has_value());
  CHECK(bad.error().text().starts_with("/tmp: mount options: "));
}

}  // namespace
}  // namespace volfs::test
