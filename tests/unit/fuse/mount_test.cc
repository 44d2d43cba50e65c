// SPDX-License-Identifier: GPL-2.0-or-later
#include "mount.h"

#include <doctest/doctest.h>
#include <sys/sysmacros.h>

namespace volfs::fuse {
namespace {

TEST_CASE("fuse.conf allows others only by a line of its own") {
  CHECK(conf_allows_other("user_allow_other\n"));
  CHECK(conf_allows_other("# x\n  user_allow_other \nmount_max = 5\n"));
  CHECK(!conf_allows_other("#user_allow_other\n"));
  CHECK(!conf_allows_other("user_allow_others\n"));
  CHECK(!conf_allows_other(""));
}

TEST_CASE("a mount is found in mountinfo by its path, the last one counts") {
  const std::string info =
      "36 35 98:0 /mnt1 / rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "40 36 0:50 / /mnt/a\\040b rw,nosuid shared:3 master:2 - fuse.volfs x rw,user_id=0\n"
      "41 36 0:51 / /mnt/c rw - fuse.volfs x rw\n"
      "42 41 0:52 / /mnt/c rw - tmpfs tmpfs rw\n"
      "torn line\n";
  CHECK(is_mounted(info, "/mnt/a b", "fuse.volfs"));
  CHECK(!is_mounted(info, "/mnt/a", "fuse.volfs"));
  CHECK(!is_mounted(info, "/mnt/c", "fuse.volfs"));
  CHECK(is_mounted(info, "/", "ext3"));
}

TEST_CASE("a mount is found where it was moved to, by its numbers") {
  const std::string info =
      "40 36 0:50 / /mnt/a\\040b rw,nosuid shared:3 master:2 - fuse.volfs x rw,user_id=0\n"
      "torn line\n"
      "41 36 0:51 / /mnt/bound rw - fuse.volfs x rw\n"
      "42 41 0:51 / /mnt/c rw - fuse.volfs x rw\n";
  CHECK(place_of(info, {.id = 40, .device = makedev(0, 50)}) == "/mnt/a b");
  CHECK(place_of(info, {.id = 42, .device = makedev(0, 51)}) == "/mnt/c");
  CHECK(place_of(info, {.id = 0, .device = makedev(0, 51)}) == "/mnt/bound");
  CHECK(place_of(info, {.id = 40, .device = makedev(0, 51)}).empty());
  CHECK(place_of(info, {.id = 43, .device = makedev(0, 51)}).empty());
  const MountIdentity here = mount_at("/proc");
  CHECK(here.device != 0);
  CHECK(place_of(mountinfo(), here) == "/proc");
  CHECK(mount_at("/nonexistent/path").device == 0);
}

TEST_CASE("options name the source and the type, and leave read-only to the server") {
  Options options;
  options.source = "a,b\\c\nd";
  options.options = {"ro", "allow_other", "", "dev"};
  CHECK(mount_options(options) ==
        "fsname=a\\,b\\\\c d,subtype=volfs,default_permissions,allow_other,dev");
}

}  // namespace
}  // namespace volfs::fuse
