// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/slices.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "support/byte_model.h"

using namespace volfs;
using namespace volfs::test;

TEST_CASE("copies to and from any part of any list move those bytes and no others") {
  const uint64_t seed = test_seed();
  INFO("VOLFS_SEED=", seed);
  Random random(seed);
  for (int round = 0; round < 500; ++round) {
    const uint64_t length = random.below(3000);
    ScatterList list(random, length);
    auto model = random_bytes(random, length);
    list.set(model);
    REQUIRE(total_length(list.iov()) == length);
    const uint64_t offset = random.below(length + 1), part = random.below(length - offset + 1);
    const auto at = model.begin() + static_cast<ptrdiff_t>(offset);
    std::vector<std::byte> out(part);
    copy_from_slices(list.iov(), offset, out);
    REQUIRE(std::equal(out.begin(), out.end(), at));
    if (random.one_in(2)) {
      zero_slices(list.iov(), offset, part);
      std::fill_n(at, part, std::byte{0});
    } else {
      const auto in = random_bytes(random, part);
      copy_to_slices(list.iov(), offset, in);
      std::ranges::copy(in, at);
    }
    REQUIRE(list.bytes() == model);
    REQUIRE(list.guards_intact());
  }
}

TEST_CASE("a cursor cuts a list into consecutive pieces, and then there are none") {
  std::byte memory[100];
  const iovec list[] = {{memory, 0}, {memory, 10}, {memory + 20, 0}, {memory + 30, 5}};
  SliceCursor cursor(list);
  iovec piece = cursor.next(4);
  CHECK(piece.iov_base == memory);
  CHECK(piece.iov_len == 4);
  piece = cursor.next(100);
  CHECK(piece.iov_base == memory + 4);
  CHECK(piece.iov_len == 6);
  cursor.skip(2);
  piece = cursor.next(100);
  CHECK(piece.iov_base == memory + 32);
  CHECK(piece.iov_len == 3);
  CHECK(cursor.next(100).iov_len == 0);
  cursor.skip(1);
  CHECK(cursor.next(100).iov_len == 0);
}
