// SPDX-License-Identifier: GPL-2.0-or-later
// Counts how often the process asks for memory, to show that the data path does not.
#pragma once

#include <cstdint>

namespace volfs::test {

// Calls of malloc and aligned_alloc, by operator new too, of all threads so far. A program that
// links this is counted from its start, in sanitizer builds from the first call.
uint64_t allocations();

}  // namespace volfs::test
