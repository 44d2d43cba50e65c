// SPDX-License-Identifier: GPL-2.0-or-later
// BlockDevice: the one interface to bytes. Images, device-mapper targets, arrays and everything
// between are block devices. The public functions are not virtual: they check range, alignment
// and permission, trace, and put the device's name in front of an error; then they call the
// private hook that an implementation overrides.
//
// Threads: every public function may be called by any number of threads at once. Concurrent
// operations on overlapping ranges have no order; each 512-byte sector ends with the data of one.
// Lifetime: devices do not own those below them; the engine owns all and takes them down from
// the top.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "volfs/error.h"
#include "volfs/mapping.h"
#include "volfs/slices.h"
#include "volfs/sync.h"

namespace volfs {

class IoQueue;

// What a device likes, as the kernel's queue limits. Bytes.
struct Limits {
  uint32_t logical_block = 512;        // what offsets and lengths must be multiples of
  uint32_t physical_block = 512;       // what is written without read-modify-write
  uint32_t io_min = 512;               // smallest request without a penalty (a chunk)
  uint32_t io_opt = 0;                 // best request (a stripe); 0: no opinion
  uint32_t discard_granularity = 512;  // 0: discard is not supported (EOPNOTSUPP)

  // What a device on top of both must obey.
  static Limits stack(const Limits& a, const Limits& b);
};

enum class Wait : bool { no, yes };
// Force unit access: the write is on stable storage, with the metadata that reaches it, when it
// returns.
enum class Fua : bool { no, yes };
// Whether write_zeroes may (and should try to) free the space; it reads as zeros either way.
enum class Unmap : bool { no, yes };

// How a device serves a request, so that a server knows which thread may carry it.
enum class Service : uint8_t {
  inline_,   // at once, from memory: the caller's thread; but see read_cached()
  queued,    // through the calling thread's IoQueue
  blocking,  // plain blocking code that may wait long: a worker
};

// What is known of the allocation at an offset: whether it holds data (else it is a hole that
// reads as zeros), and for how many bytes that goes on at least.
struct Allocation {
  bool data = true;
  uint64_t length = 0;
};

class BlockDevice {
 public:
  using Visit = std::function<void(BlockDevice&)>;

  virtual ~BlockDevice();
  BlockDevice(const BlockDevice&) = delete;
  BlockDevice& operator=(const BlockDevice&) = delete;

  std::string name() const;
  uint64_t size() const { return size_.load(std::memory_order_acquire); }
  uint32_t logical_block() const { return logical_block_.load(std::memory_order_relaxed); }
  bool read_only() const { return read_only_.load(std::memory_order_relaxed); }
  Limits limits() const { return do_limits(); }

  // OFFSET and the list's length are multiples of logical_block() and lie within size(), else
  // EINVAL. The memory needs no alignment. A failed read leaves the memory undefined; a failed
  // write leaves each sector old or new. Errors: EIO and what else the device below says,
  // EROFS for a write to a read-only device, ENOSPC.
  Status read(uint64_t offset, IoSpan iov);
  Status read(uint64_t offset, std::span<std::byte> to) { return read(offset, OneSlice(to)); }
  Status write(uint64_t offset, IoSpan iov, Fua fua = Fua::no);
  Status write(uint64_t offset, std::span<const std::byte> from, Fua fua = Fua::no) {
    return write(offset, OneSlice(from), fua);
  }
  // At return, all writes that completed before the call are on stable storage, and the
  // metadata that reaches them.
  Status flush();
  // Tells that the bytes are not needed; afterwards they read as anything. EOPNOTSUPP where not
  // supported.
  Status discard(uint64_t offset, uint64_t length);
  // Afterwards the bytes read as zeros.
  Status write_zeroes(uint64_t offset, uint64_t length, Unmap unmap = Unmap::yes);
  // Alignment as for read.
  Result<Allocation> allocation(uint64_t offset, uint64_t length);

  // Appends to OUT where the bytes live for OP, followed down to images and to devices that work
  // by themselves, and what keeps that true. False if it would have to wait and WAIT says no;
  // OUT then holds extents of no meaning, and must be cleared. What cannot be done (out of range,
  // read-only, a missing device) becomes error extents. Allocates nothing up to 24 extents.
  bool map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out);

  // How this device serves OP itself, when it is the device of an extent.
  Service service(Op op) const { return do_service(op); }
  // Reads if that needs no waiting. False: it was not done, because it would have to wait for a
  // disk, cannot be tried, or failed; the read then goes to queue() if there is one, so that a slow
  // disk holds no thread, or else to read(), which tells the error. The memory is undefined then.
  // IoBatch does all this for devices whose service is inline_.
  bool read_cached(uint64_t offset, IoSpan iov);
  // The calling thread's way to submit without waiting; null if there is none (use read/write).
  IoQueue* queue() { return do_queue(); }
  // The check at the door, for those who submit to a queue. Errors as read and write.
  Status check(Op op, uint64_t offset, uint64_t length) const;

  // Calls VISIT for each device directly below: the order of a table, a device maybe twice.
  void for_each_below(const Visit& visit) const { do_for_each_below(visit); }

 protected:
  BlockDevice(std::string name, uint64_t size, const Limits& limits = {}, bool read_only = false);
  void set_name(std::string name);
  void set_size(uint64_t size) { size_.store(size, std::memory_order_release); }
  void set_limits(const Limits& limits);
  void set_read_only(bool read_only) { read_only_.store(read_only, std::memory_order_relaxed); }

 private:
  // The default is right for what works by itself and for an image: the extent is the device.
  virtual bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out);
  // The defaults are right for what only remaps: they carry out what map() says.
  virtual Status do_read(uint64_t offset, IoSpan iov);
  virtual Status do_write(uint64_t offset, IoSpan iov, Fua fua);
  virtual bool do_read_cached(uint64_t, IoSpan) { return false; }
  virtual Status do_discard(uint64_t offset, uint64_t length);
  virtual Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap);
  virtual Result<Allocation> do_allocation(uint64_t offset, uint64_t length);
  // The default flushes all that is below.
  virtual Status do_flush();
  // The default is blocking if anything below may wait, else inline.
  virtual Service do_service(Op op) const;
  virtual IoQueue* do_queue() { return nullptr; }
  virtual void do_for_each_below(const Visit& visit) const;
  virtual Limits do_limits() const;

  Status checked(Status result, const char* what, uint64_t offset, uint64_t length);
  Result<Allocation> allocation_of(const Extent& extent) const;
  Result<bool> add_alike(uint64_t offset, uint64_t length, size_t& seen, Allocation& sum);
  Status add_in_order(uint64_t offset, uint64_t length, Allocation& sum);

  mutable Mutex mutex_;  // guards name_ and limits_
  std::string name_;
  Limits limits_;
  std::atomic<uint64_t> size_;
  std::atomic<uint32_t> logical_block_;
  std::atomic<bool> read_only_;
};

// Sees every operation that passes a door, when it is done. Any thread; must not call devices.
class TraceSink {
 public:
  virtual void done(const BlockDevice& device, const char* what, uint64_t offset, uint64_t length,
                    const Status& status) = 0;

 protected:
  ~TraceSink() = default;
};
// Null ends tracing. Not owned; stays valid until no operation is under way.
void set_trace_sink(TraceSink* sink);

}  // namespace volfs
