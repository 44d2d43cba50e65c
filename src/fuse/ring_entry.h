// SPDX-License-Identifier: GPL-2.0-or-later
// One place in a queue of the kernel's: memory for a request, and the request that is in it.
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "data_path.h"
#include "ring_abi.h"

namespace volfs::fuse {

class RingEntry;
class RingQueue;

// The requests of one possible CPU, as the kernel counts them.
struct RingLane {
  uint16_t qid = 0;
  unsigned live = 0;  // entries that the kernel knows
  unsigned held = 0;  // of these, those whose request is not answered yet
};

// A request for data in an entry. It may outlive its answer, on a worker, and then leaves the entry
// to another one.
class RingRequest final : public DataRequest {
 public:
  explicit RingRequest(RingEntry& entry) : entry_(entry) {}

  // The entry has a new request. False if the last one is still in use: the object is left to
  // itself, and must not be touched any more.
  bool begin_or_leave();

  void reply(int error, size_t count) override;
  void recycle() override;
  bool about_to_wait() override;

 private:
  enum class Use : uint8_t { free, busy, left };
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  RingEntry& entry_;
  std::unique_ptr<std::byte, Free> kept_;  // for a read on a worker, which copies at its answer
  std::atomic<Use> use_{Use::free};
};

// What a completion of the ring is of.
struct Awaited {
  enum class Kind : uint8_t { entry, wake, images };
  explicit Awaited(Kind of) : kind(of) {}
  const Kind kind;
};

class RingEntry : public Awaited {
 public:
  // PAYLOAD is a multiple of the page size. Null if there is no memory.
  static std::unique_ptr<RingEntry> make(RingQueue& queue, RingLane& lane, size_t payload);
  ~RingEntry();
  RingEntry(const RingEntry&) = delete;
  RingEntry& operator=(const RingEntry&) = delete;

  RingLane& lane() const { return lane_; }
  RingQueue& queue() const { return queue_; }
  // Header and payload, to be registered; stays.
  const iovec* memory() const { return memory_; }
  std::span<std::byte> payload() const {
    return {static_cast<std::byte*>(memory_[1].iov_base), memory_[1].iov_len};
  }
  uint64_t unique() const { return unique_; }
  // Bytes that the answer has besides its header.
  size_t answer_size() const { return header().payload_size; }

  // What came. False if it makes no sense.
  bool take(fuse_in_header& in);
  std::span<const std::byte> arguments() const { return {header().arguments, arguments_size_}; }
  size_t received() const { return received_; }
  // All of it in one piece, as /dev/fuse gives it; up to the answer.
  std::span<std::byte> in_one_piece();
  // An object for the request.
  RingRequest& request();

  // Writes the answer, whose ARGUMENTS already are in the payload, or are put there; then commit
  // it.
  void answer(int error, size_t size);
  // The same from libfuse's pieces: header first. False if it does not fit.
  bool answer_with(const iovec* iov, int count);

  RingEntry* next = nullptr;  // in the list that it is in: of answers to commit, or waited for
  // The leader's:
  bool used = false;  // whether it ever had a request
  bool held = false;  // whether it has one that is not answered
  uint64_t file = 0;  // the inode number, if its request is one on a regular file that may wait

 private:
  RingEntry(RingQueue& queue, RingLane& lane, std::byte* memory, size_t payload);
  RingHeader& header() const { return *static_cast<RingHeader*>(memory_[0].iov_base); }

  RingQueue& queue_;
  RingLane& lane_;
  iovec memory_[2];
  uint64_t unique_ = 0;
  size_t arguments_size_ = 0;
  size_t received_ = 0;
  RingRequest* request_;
};

}  // namespace volfs::fuse
