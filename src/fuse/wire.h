// SPDX-License-Identifier: GPL-2.0-or-later
// Requests for data as the kernel words them, for every transport.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <span>

#include "data_path.h"

namespace volfs::fuse {

// A request as it came. ARGUMENTS are those of the operation, without the header. MEMORY is that
// of its data: of a write, RECEIVED bytes of it are filled; of a read, it is the room there is.
struct WireRequest {
  const fuse_in_header& header;
  std::span<const std::byte> arguments;
  std::span<std::byte> memory;
  size_t received = 0;
};

// Fills REQUEST in and gives the file that is to handle it, if it is a read, write or fsync of an
// open file; null: it is libfuse's.
File* take_data_request(const WireRequest& wire, DataRequest& request);

}  // namespace volfs::fuse
