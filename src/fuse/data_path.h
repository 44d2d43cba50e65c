// SPDX-License-Identifier: GPL-2.0-or-later
// The data path: carries out reads, writes, flushes and zeroing of volumes. It does not know how
// a request came; a transport (threads on /dev/fuse, rings) fills in a DataRequest and is told the
// answer.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "volfs/engine/catalog.h"
#include "volfs/io_batch.h"
#include "volfs/mapping.h"
#include "volfs/sync.h"
#include "volfs/worker_pool.h"

struct fuse_pollhandle;

namespace volfs::fuse {

class DataPath;
class DataRequest;
class VolumeFile;

// What the data path knows of the thread that brings a request. A thread that has operations
// under way must call reap() of its queue; one may not run it down while it waits elsewhere.
struct ServingContext {
  IoQueue* queue = nullptr;  // the last queue in which something was started
  bool busy() const { return queue && queue->in_flight() > 0; }
};

// libfuse does not tell the number of the request that it hands on, by which cancel() finds it: the
// transport says it of the calling thread. 0: none.
void set_request_in_hand(uint64_t id);
uint64_t request_in_hand();

// An open file of any kind.
class File {
 public:
  virtual ~File() = default;
  // Carries REQUEST out, now or later; the request is told.
  virtual void handle(DataRequest& request, ServingContext& context) = 0;
  // The last reference of the kernel is gone; ends the object, now or later.
  virtual void release() { delete this; }
  // poll(2): what it is ready for now, as POLLIN and so on. HANDLE, which may be null, is told with
  // fuse_lowlevel_notify_poll when that changes; the file owns it.
  virtual unsigned poll(fuse_pollhandle* handle);
};

class DataRequest : private IoBatch::Owner {
 public:
  enum class Kind : uint8_t { read, write, flush, punch_hole, zero_range };

  // What is asked; the transport fills it in. MEMORY is that of the data of a read or write and
  // stays until recycle(); LENGTH is that of the range otherwise.
  Kind kind = Kind::read;
  bool durable = false;  // a write that is on stable storage when it is answered
  bool whole = false;    // writes and zeroing that nobody would continue: no part of it fits
  uint64_t offset = 0;
  uint64_t length = 0;
  std::span<std::byte> memory;
  uint64_t id = 0;             // by which cancel() finds it; 0: not to be found
  pid_t asker = 0;             // the thread that waits for it; 0: unknown
  bool nonblocking = false;    // the file was opened so, or was set to it
  bool interruptible = false;  // any signal ends it while it waits, as on a pipe

  // The answer, exactly once and by any thread. ERROR is an errno; COUNT the bytes moved, which
  // for a read are the first of MEMORY.
  virtual void reply(int error, size_t count) = 0;
  // The request goes to a worker, where cancel() may have it answered while MEMORY is still in use:
  // a transport whose memory is used anew after an answer puts other memory in its place now. False
  // if there is none.
  virtual bool about_to_wait() { return true; }
  // The request object is no longer used: after reply(), or later when it was cancelled.
  virtual void recycle() = 0;

  // For files that answer by themselves.
  void finish(int error, size_t count) {
    reply(error, count);
    recycle();
  }

 protected:
  virtual ~DataRequest() = default;

 private:
  friend class DataPath;
  void batch_done(IoBatch& batch) override;

  enum class State : uint8_t { idle, queued, running, cancelled };
  VolumeFile* file_ = nullptr;
  TimePoint begun_{};
  iovec slice_{};
  Mapping mapping_;
  IoBatch batch_;
  State state_ = State::idle;  // this and the links: guarded by DataPath::mutex_
  DataRequest* previous_ = nullptr;
  DataRequest* next_ = nullptr;
};

// What is known of a volume while it is open anywhere, by all its open files together.
struct VolumeState {
  std::atomic<uint64_t> opens{0};
  std::atomic<bool> dirty{false};  // written since the last flush
  // The kernel's cache took a write beyond the end, and since then a wrong size for the right one.
  std::atomic<bool> grown{false};
};

// One open of a volume.
class VolumeFile final : public File {
 public:
  // VOLUME was opened (Volume::open); release() closes it.
  VolumeFile(DataPath& path, std::shared_ptr<engine::Volume> volume,
             std::shared_ptr<VolumeState> state, bool direct)
      : path_(path), volume_(std::move(volume)), state_(std::move(state)), direct_(direct) {
    state_->opens.fetch_add(1);
  }

  void handle(DataRequest& request, ServingContext& context) override;
  void release() override { drop(); }
  // A request that was answered early, its asker having been killed, still uses the file, and the
  // volume is open as long as it does. The first reference is the kernel's.
  void hold() { references_.fetch_add(1, std::memory_order_relaxed); }
  void drop();
  DataPath& path() const { return path_; }
  engine::Volume& volume() const { return *volume_; }
  VolumeState& state() const { return *state_; }
  // Whether the page cache is bypassed. The kernel then leaves O_SYNC to us.
  bool direct() const { return direct_; }

 private:
  DataPath& path_;
  const std::shared_ptr<engine::Volume> volume_;
  const std::shared_ptr<VolumeState> state_;
  const bool direct_;
  std::atomic<uint32_t> references_{1};
};

class DataPath {
 public:
  // WORKERS outlives this.
  explicit DataPath(WorkerPool& workers) : workers_(workers) {}
  ~DataPath();

  // Carries REQUEST out as its mapping says: at once in the calling thread, through its queue, or
  // on a worker.
  void start(DataRequest& request, VolumeFile& file, ServingContext& context);
  // Answers the request ID with EINTR if it still waits and that does no harm: its thread was
  // killed. What has begun to write is not cancelled. An interrupt may overtake its request: it is
  // kept until that comes to wait.
  void cancel(uint64_t id);
  // For files whose requests wait for something else: between park and unpark, cancel() finds the
  // request. unpark is false if it was cancelled; it is recycled then.
  void park(DataRequest& request);
  bool unpark(DataRequest& request);
  // Whether a parked request was cancelled, and only waits for unpark.
  bool was_cancelled(const DataRequest& request);
  WorkerPool& workers() { return workers_; }
  // Set if the kernel may keep to itself that the asker was interrupted before its request came to
  // us, as by io_uring: then its signals are looked at when it is to wait.
  std::atomic<bool> interrupts_get_lost{false};
  // Told, by any thread, after the last close of a volume whose size the kernel has wrong.
  std::function<void(const engine::Volume&)> wrong_size;

 private:
  friend class DataRequest;
  static bool clip(DataRequest& request);
  void start_mapped(DataRequest& request, ServingContext& context);
  void finish_mapped(DataRequest& request);
  void finish(DataRequest& request, const Status& status);
  void to_worker(DataRequest& request);
  bool begin_work(DataRequest& request);
  static void wait_to_be_let_in(const DataRequest& request);
  void work(DataRequest& request);
  void link(DataRequest& request);
  static bool is_to_end(const DataRequest& request);
  void end_early(DataRequest& request);
  void unlink(DataRequest& request);

  WorkerPool& workers_;
  Mutex mutex_;                     // guards the list and its members' state
  DataRequest* waiting_ = nullptr;  // those on workers, and the parked
  // The last interrupts of requests that were not waiting; most of those had ended.
  std::array<uint64_t, 64> overtook_{};
  size_t next_overtook_ = 0;
};

}  // namespace volfs::fuse
