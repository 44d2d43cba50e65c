// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/error.h"

#include <doctest/doctest.h>

#include <cerrno>

using namespace volfs;

namespace {
Status low() {
  return fail_sys(EIO, "read 4096 at 1048576");
}
Result<int> high() {
  VOLFS_TRY(in("pv1", low()));
  return 1;
}
Result<int> seven() {
  return 7;
}
Result<int> doubled() {
  VOLFS_TRY_ASSIGN(int value, seven());
  return 2 * value;
}
}  // namespace

TEST_CASE("an error reads from outside in and keeps its errno") {
  const auto result = in("vg0/root", high());
  REQUIRE(!result);
  CHECK(result.error().code() == EIO);
  CHECK(result.error().text() == "vg0/root: pv1: read 4096 at 1048576: Input/output error");
}

TEST_CASE("a value passes through") {
  CHECK(doubled().value() == 14);
}
