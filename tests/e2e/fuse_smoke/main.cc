// SPDX-License-Identifier: GPL-2.0-or-later
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace {

// Where the kernel is told to offer io_uring to new mounts.
constexpr const char* ring_switch = "/sys/module/fuse/parameters/enable_uring";

// The text that was there; empty if it cannot be changed.
std::string set_ring_switch(const char* text) {
  std::string before;
  std::getline(std::ifstream(ring_switch), before);
  if (before != text && !(std::ofstream(ring_switch) << text << std::flush)) return {};
  return before;
}

}  // namespace

// VOLFS_TRANSPORT=ring: all by io_uring.
int main(int argc, char** argv) {
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    std::printf("skipped: /dev/fuse: %s\n", std::strerror(errno));
    return 77;
  }
  close(fd);
  const char* transport = std::getenv("VOLFS_TRANSPORT");
  if (!transport || std::strcmp(transport, "ring") != 0) return doctest::Context(argc, argv).run();
  const std::string before = set_ring_switch("Y");
  if (before.empty()) {
    std::printf("skipped: only root can say: echo Y > %s, on Linux 6.14 or later\n", ring_switch);
    return 77;
  }
  const int result = doctest::Context(argc, argv).run();
  set_ring_switch(before.c_str());
  return result;
}
