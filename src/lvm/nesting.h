// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

namespace volfs::lvm {

// How deep LVs may stand on LVs. lvm2's own stacks are below 10.
inline constexpr unsigned max_nesting = 64;

}  // namespace volfs::lvm
