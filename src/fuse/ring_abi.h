// SPDX-License-Identifier: GPL-2.0-or-later
// FUSE over io_uring as Linux 6.14 and later speak it: what the headers of older systems lack. From
// include/uapi/linux/fuse.h (7.42) and Documentation/filesystems/fuse/fuse-io-uring.rst.
#pragma once

#include <cstddef>
#include <cstdint>

namespace volfs::fuse {

// INIT's second word of flags: the kernel offers it when its parameter enable_uring is set, and
// the server's answer takes it.
inline constexpr uint32_t init_over_io_uring = 1U << (41 - 32);
// The least size of a payload, whatever max_write is.
inline constexpr size_t least_payload = 8192;

// The commands of IORING_OP_URING_CMD on /dev/fuse, in rings with SQEs of 128 bytes. The first
// gives an entry's memory to the kernel: addr points to two iovecs, of header and payload; len
// is 2. It completes with the first request. The other gives back an answer, and completes with the
// next.
enum class RingCommand : uint32_t { register_entry = 1, commit_and_fetch = 2 };

// sqe->cmd
struct RingCommandArguments {
  uint64_t flags;
  uint64_t commit_id;  // the unique number of the request that is answered
  uint16_t qid;        // the queue: one for each possible CPU, which sends its requests there
  uint8_t padding[6];
};
static_assert(sizeof(RingCommandArguments) == 24);

// The header of an entry. IN_OUT holds fuse_in_header, then fuse_out_header. ARGUMENTS are the
// operation's first argument, without which some come; all that follows it is in the payload, as is
// every argument of an answer.
struct RingHeader {
  std::byte in_out[128];
  std::byte arguments[128];
  uint64_t flags;
  uint64_t commit_id;
  uint32_t payload_size;  // of the request, then of the answer
  uint32_t padding;
  uint64_t reserved;
};
static_assert(sizeof(RingHeader) == 288);
static_assert(offsetof(RingHeader, payload_size) == 272);

}  // namespace volfs::fuse
