// SPDX-License-Identifier: GPL-2.0-or-later
// Many operations at once: one submit, one wait. Operations on devices that have a queue
// (O_DIRECT images over io_uring) are under way together, also those of devices that only remap
// to such; those on cached images are done inline, except reads that turn out not to be cached
// (BlockDevice::read_cached).
// A batch belongs to one thread and allocates nothing up to 16 operations.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/inline_vector.h"
#include "volfs/slices.h"

namespace volfs {

// One operation on its way through a queue. Owned by who submits it, who keeps it, the list of
// slices and the memory in place until done() was called.
struct IoOp {
  enum class Kind : uint8_t { read, write, write_fua, flush };
  Kind kind = Kind::read;
  BlockDevice* device = nullptr;
  uint64_t offset = 0;
  IoSpan iov;
  int error = 0;  // an errno when done; 0: all bytes were moved
  struct Done {
    virtual void done(IoOp& op) = 0;

   protected:
    ~Done() = default;
  };
  Done* completion = nullptr;
  uint64_t scratch[4] = {};  // for the queue's use while the operation is under way
};

// A thread's asynchronous way to images; backing/ implements it. Only its own thread may call it.
class IoQueue {
 public:
  // The operation has passed the device's check(). It goes out with the next push() or reap();
  // its completion comes from reap(), on this thread, never from submit() or push().
  virtual void submit(IoOp& op) = 0;
  virtual void push() = 0;
  // Calls done() of what has completed; with Wait::yes waits for at least one if any is under way.
  virtual void reap(Wait wait) = 0;
  // Readable (poll) when reap has something to do.
  virtual int wait_fd() const = 0;
  virtual size_t in_flight() const = 0;

 protected:
  ~IoQueue() = default;
};

class IoBatch final : private IoOp::Done {
 public:
  struct Owner {
    // The last operation of a started batch has completed; on the batch's thread.
    virtual void batch_done(IoBatch& batch) = 0;

   protected:
    ~Owner() = default;
  };

  IoBatch();
  ~IoBatch();
  IoBatch(const IoBatch&) = delete;
  IoBatch& operator=(const IoBatch&) = delete;

  // Add an operation. The list of slices must stay until the batch is done. At most max_ops.
  void read(BlockDevice& device, uint64_t offset, IoSpan iov);
  void write(BlockDevice& device, uint64_t offset, IoSpan iov, Fua fua = Fua::no);
  void flush(BlockDevice& device);
  // Adds what a mapping says for a read or write of the list: one operation a device and
  // contiguous range, no matter how the range is scattered in memory; zero extents are filled
  // at once, error extents fail the batch. Call on an empty batch, at most once.
  void transfer(Op op, const Mapping& mapping, IoSpan iov, Fua fua = Fua::no);

  // Carries all out and waits. The first error, told as the device's door tells it.
  Status run();
  // Submits what can be queued and does the rest. True: all is done, see status(). False: the
  // owner is told later, from the queue's reap().
  bool start(Owner& owner);

  // After the end: the first error in the order of adding, and that of each operation.
  Status status() const;
  int error(size_t op) const { return ops_[op].error; }
  size_t size() const { return ops_.size(); }
  const IoOp& op(size_t i) const { return ops_[i]; }
  // Makes the batch empty again; nothing may be under way.
  void clear();

 private:
  struct Lowered;
  void add(IoOp::Kind kind, BlockDevice& device, uint64_t offset, IoSpan iov);
  void done(IoOp& op) override;
  void perform(IoOp& op);
  IoQueue* queue_for(IoOp& op, bool may_wait, bool* done);
  bool lower(IoOp& op);
  void end_lowered();
  void submit_all(bool may_wait);

  InlineVector<IoOp, 16> ops_;
  InlineVector<iovec, 48> pieces_;  // the slices of transfer()
  IoQueue* queue_ = nullptr;
  Owner* owner_ = nullptr;
  size_t pending_ = 0;
  std::vector<std::unique_ptr<Lowered>> lowered_;
  int extent_error_ = 0;
  std::optional<Error> first_error_;  // of an operation done inline: it has the text
  size_t first_error_op_ = 0;
};

}  // namespace volfs
