// SPDX-License-Identifier: GPL-2.0-or-later
#include <doctest/doctest.h>

#include "ring_transport.h"

namespace volfs::fuse {
namespace {

using Cpus = std::vector<unsigned>;

TEST_CASE("lists of CPUs are read as the kernel writes them") {
  CHECK(parse_cpu_list("0") == Cpus{0});
  CHECK(parse_cpu_list("0-3") == Cpus{0, 1, 2, 3});
  CHECK(parse_cpu_list("0-1,4,6-7") == Cpus{0, 1, 4, 6, 7});
}

TEST_CASE("what is no list of CPUs gives none") {
  for (const char* text : {"", "x", "3-1", "0-", "-1", "1;2", "0-99999999", "1,,2", "4294967296"}) {
    CAPTURE(text);
    CHECK(parse_cpu_list(text).empty());
  }
}

}  // namespace
}  // namespace volfs::fuse
