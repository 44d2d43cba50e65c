// SPDX-License-Identifier: GPL-2.0-or-later
#include "wire.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace volfs::fuse {
namespace {

template <class Arguments>
bool take_arguments(const WireRequest& wire, Arguments& out) {
  if (wire.arguments.size() < sizeof out) return false;
  std::memcpy(&out, wire.arguments.data(), sizeof out);
  return true;
}

// Kernel and libfuse carry it as a number.
File* file_of(uint64_t handle) {
  return std::bit_cast<File*>(static_cast<uintptr_t>(handle));
}

}  // namespace

File* take_data_request(const WireRequest& wire, DataRequest& request) {
  request.id = wire.header.unique;
  request.asker = static_cast<pid_t>(wire.header.pid);
  request.durable = request.whole = request.nonblocking = request.interruptible = false;
  switch (wire.header.opcode) {
    case FUSE_READ: {
      fuse_read_in read;
      if (!take_arguments(wire, read)) return nullptr;
      request.kind = DataRequest::Kind::read;
      request.offset = read.offset;
      request.nonblocking = (read.flags & O_NONBLOCK) != 0;
      request.memory = wire.memory.first(std::min<size_t>(read.size, wire.memory.size()));
      return file_of(read.fh);
    }
    case FUSE_WRITE: {
      fuse_write_in write;
      if (!take_arguments(wire, write)) return nullptr;
      request.kind = DataRequest::Kind::write;
      request.offset = write.offset;
      request.memory = wire.memory.first(std::min<size_t>(write.size, wire.received));
      request.durable = (write.flags & O_DSYNC) != 0;
      // From the page cache: the kernel does not look at the count.
      request.whole = (write.write_flags & FUSE_WRITE_CACHE) != 0;
      return file_of(write.fh);
    }
    case FUSE_FSYNC: {
      fuse_fsync_in fsync;
      if (!take_arguments(wire, fsync)) return nullptr;
      request.kind = DataRequest::Kind::flush;
      request.memory = {};
      return file_of(fsync.fh);
    }
    default:
      return nullptr;
  }
}

}  // namespace volfs::fuse
