// SPDX-License-Identifier: GPL-2.0-or-later
#include "data_path.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <mutex>

#include "killed.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::fuse {
namespace {

using Kind = DataRequest::Kind;

bool moves_data(Kind kind) {
  return kind == Kind::read || kind == Kind::write;
}

// Whether it may be carried out after nobody waits for it any more.
bool harmless(Kind kind) {
  return kind == Kind::read || kind == Kind::flush;
}

// How the extents of a mapping can be served.
struct Ways {
  bool blocking = false;  // one of them may wait long
  bool queued = false;    // one of them has a queue
  bool at_once = false;   // one of them is done in the calling thread
  bool works = false;     // one of them is not an image
};

Ways ways(const Mapping& mapping, Op op) {
  Ways all;
  for (const Extent& extent : mapping.extents()) {
    if (extent.kind != Extent::Kind::device) continue;
    switch (extent.device->service(op)) {
      case Service::inline_:
        all.at_once = true;
        break;
      case Service::queued:
        all.queued = true;
        break;
      case Service::blocking:
        all.blocking = true;
        break;
    }
    extent.device->for_each_below([&all](BlockDevice&) { all.works = true; });
  }
  return all;
}

IoClass class_of(Kind kind) {
  switch (kind) {
    case Kind::read:
      return IoClass::read;
    case Kind::write:
      return IoClass::write;
    case Kind::flush:
      return IoClass::flush;
    case Kind::punch_hole:
    case Kind::zero_range:
      break;
  }
  return IoClass::discard;
}

Status carry_out(BlockDevice& bytes, const DataRequest& request) {
  const auto memory = request.memory.first(moves_data(request.kind) ? request.length : 0);
  switch (request.kind) {
    case Kind::read:
      return bytes.read(request.offset, memory);
    case Kind::write:
      return bytes.write(request.offset, memory, request.durable ? Fua::yes : Fua::no);
    case Kind::flush:
      return bytes.flush();
    case Kind::punch_hole:
      // Where nothing can be freed a hole would only cost: an origin would copy all of it to its
      // snapshots, which the trim of a file system would fill. Linux refuses it there, too.
      VOLFS_TRY(bytes.check(Op::write_zeroes, request.offset, request.length));
      if (bytes.limits().discard_granularity == 0) return fail_sys(EOPNOTSUPP, "");
      return bytes.write_zeroes(request.offset, request.length, Unmap::yes);
    case Kind::zero_range:
      return bytes.write_zeroes(request.offset, request.length, Unmap::no);
  }
  return fail_sys(EOPNOTSUPP, "");
}

}  // namespace

namespace {
thread_local uint64_t in_hand = 0;
}  // namespace

void set_request_in_hand(uint64_t id) {
  in_hand = id;
}
uint64_t request_in_hand() {
  return in_hand;
}

void VolumeFile::handle(DataRequest& request, ServingContext& context) {
  path_.start(request, *this, context);
}

void VolumeFile::drop() {
  if (references_.fetch_sub(1) > 1) return;
  const bool last = state_->opens.fetch_sub(1) == 1;
  if (last && state_->grown.exchange(false) && path_.wrong_size) path_.wrong_size(*volume_);
  if (!last || !state_->dirty.exchange(false)) {
    volume_->close();
    delete this;
    return;
  }
  // What was written reaches the images' storage soon after the last close; nobody waits for it
  // but the end of the server.
  path_.workers().submit(volume_.get(), [this] {
    if (auto status = volume_->bytes().flush(); !status)
      log_error("flush at the last close: {}", status.error().text());
    volume_->close();
    delete this;
  });
}

DataPath::~DataPath() {
  assert(waiting_ == nullptr);
}

// Cuts the request to the size of the volume, as a block device does: reads end there, writes
// past it find no space, and what would make it larger by zeros makes no sense. False if it was
// answered.
bool DataPath::clip(DataRequest& request) {
  const uint64_t size = request.file_->volume().size();
  if (request.kind == Kind::flush) return true;
  if (moves_data(request.kind)) {
    request.length = request.memory.size();
    const uint64_t room = request.offset >= size ? 0 : size - request.offset;
    if (room < request.length) {
      if (request.whole) request.file_->state().grown.store(true);
      if (room == 0 && request.length > 0 && request.kind == Kind::write) {
        request.finish(ENOSPC, 0);
        return false;
      }
      request.length = room;
    }
  } else {
    const uint64_t room = request.offset >= size ? 0 : size - request.offset;
    if (room == 0 || (request.whole && request.length > room)) {
      request.finish(EINVAL, 0);
      return false;
    }
    request.length = std::min(request.length, room);
  }
  if (request.length > 0) return true;
  request.finish(0, 0);
  return false;
}

void DataPath::start(DataRequest& request, VolumeFile& file, ServingContext& context) {
  request.file_ = &file;
  if (!clip(request)) return;
  request.begun_ = file.volume().counters().begin();
  if (request.kind == Kind::write && !file.direct()) {
    // The kernel sends an fsync of its own after a synchronous write through the page cache.
    request.durable = false;
  }
  if (moves_data(request.kind))
    start_mapped(request, context);
  else
    to_worker(request);
}

void DataPath::start_mapped(DataRequest& request, ServingContext& context) {
  const Op op = request.kind == Kind::read ? Op::read : Op::write;
  BlockDevice& bytes = request.file_->volume().bytes();
  bool here = bytes.map(op, request.offset, request.length, Wait::no, request.mapping_);
  if (here) {
    const Ways way = ways(request.mapping_, op);
    // A durable write waits for the disk. And a thread with operations under way must not enter
    // code that could wait for their leases.
    here = !way.blocking && !(request.durable && way.at_once) && !(way.works && context.busy());
  }
  if (!here) {
    request.mapping_.clear();
    to_worker(request);
    return;
  }
  request.slice_ = {request.memory.data(), request.length};
  request.batch_.transfer(op, request.mapping_, {&request.slice_, 1},
                          request.durable ? Fua::yes : Fua::no);
  if (request.batch_.start(request)) {
    finish_mapped(request);
    return;
  }
  // A thread has one queue for all images.
  for (size_t i = 0; i < request.batch_.size(); ++i)
    if (IoQueue* queue = request.batch_.op(i).device->queue()) context.queue = queue;
}

void DataRequest::batch_done(IoBatch&) {
  file_->path().finish_mapped(*this);
}

void DataPath::finish_mapped(DataRequest& request) {
  const Status status = request.batch_.status();
  request.batch_.clear();
  request.mapping_.clear();
  if (!status && request.kind == Kind::read) {
    // The device may know another way to the data: a mirror, parity.
    to_worker(request);
    return;
  }
  finish(request, status);
}

void DataPath::finish(DataRequest& request, const Status& status) {
  VolumeFile& file = *request.file_;
  file.volume().counters().end(class_of(request.kind), request.begun_,
                               request.kind == Kind::flush ? 0 : request.length, !status);
  if (request.kind != Kind::read && request.kind != Kind::flush) {
    file.volume().touched();
    if (!file.state().dirty.load(std::memory_order_relaxed)) file.state().dirty.store(true);
  }
  int error = 0;
  if (!status) {
    error = status.error().code();
    log_debug("{}: {}", file.volume().path(), status.error().text());
  } else if (request.whole && request.length < request.memory.size()) {
    error = ENOSPC;
  }
  request.finish(error, error == 0 ? request.length : 0);
}

void DataPath::link(DataRequest& request) {
  const bool interrupted =
      interrupts_get_lost.load(std::memory_order_relaxed) &&
      (request.interruptible ? was_signalled(request.asker) : was_killed(request.asker));
  const std::lock_guard lock(mutex_);
  request.state_ = DataRequest::State::queued;
  request.previous_ = nullptr;
  request.next_ = waiting_;
  if (waiting_) waiting_->previous_ = &request;
  waiting_ = &request;
  if (interrupted) return end_early(request);
  if (next_overtook_ == 0 || request.id == 0) return;
  if (std::find(overtook_.begin(), overtook_.end(), request.id) != overtook_.end() &&
      is_to_end(request))
    end_early(request);
}

void DataPath::unlink(DataRequest& request) {
  (request.previous_ ? request.previous_->next_ : waiting_) = request.next_;
  if (request.next_) request.next_->previous_ = request.previous_;
  request.state_ = DataRequest::State::idle;
}

void DataPath::to_worker(DataRequest& request) {
  if (!request.about_to_wait()) return finish(request, fail_sys(ENOMEM, "memory for a request"));
  request.file_->hold();
  link(request);
  workers_.submit(&request.file_->volume(), [&request] {
    VolumeFile* const file = request.file_;
    file->path().work(request);
    file->drop();
  });
}

// False if there is nothing to do any more.
bool DataPath::begin_work(DataRequest& request) {
  const std::lock_guard lock(mutex_);
  if (request.state_ == DataRequest::State::cancelled) {
    unlink(request);
    return false;
  }
  request.state_ = DataRequest::State::running;
  return true;
}

// Waits, for what changes data, until the devices let I/O through: as long as nothing was changed a
// killed asker need not wait on. What they let through can be held up again, and is carried out
// then when they go on.
void DataPath::wait_to_be_let_in(const DataRequest& request) {
  BlockDevice& device = request.file_->volume().device();
  const uint64_t begin = round_down(request.offset, device.logical_block());
  Mapping gates;
  device.map(Op::read, begin, request.offset + request.length - begin, Wait::yes, gates);
}

void DataPath::work(DataRequest& request) {
  if (!harmless(request.kind)) wait_to_be_let_in(request);
  if (!begin_work(request)) return request.recycle();
  // What completes before a flush begins is covered by it; a write meanwhile sets the mark again.
  if (request.kind == Kind::flush) request.file_->state().dirty.store(false);
  const Status status = carry_out(request.file_->volume().bytes(), request);
  if (request.kind == Kind::flush && !status) request.file_->state().dirty.store(true);
  if (unpark(request)) finish(request, status);
}

void DataPath::park(DataRequest& request) {
  request.file_ = nullptr;  // no volume's, unlike before maybe
  link(request);
}

bool DataPath::unpark(DataRequest& request) {
  {
    const std::lock_guard lock(mutex_);
    const bool cancelled = request.state_ == DataRequest::State::cancelled;
    unlink(request);
    if (!cancelled) return true;
  }
  request.recycle();
  return false;
}

bool DataPath::was_cancelled(const DataRequest& request) {
  const std::lock_guard lock(mutex_);
  return request.state_ == DataRequest::State::cancelled;
}

void DataPath::cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  DataRequest* request = waiting_;
  while (request && request->id != id) request = request->next_;
  if (request && is_to_end(*request)) return end_early(*request);
  if (!request) overtook_[next_overtook_++ % overtook_.size()] = id;
}

// Of a request whose asker was interrupted: signals that do not end the program do not end its I/O
// either, as on a disk.
bool DataPath::is_to_end(const DataRequest& request) {
  return request.interruptible || was_killed(request.asker);
}

// With mutex_ held.
void DataPath::end_early(DataRequest& request) {
  using State = DataRequest::State;
  if (request.state_ == State::queued ||
      (request.state_ == State::running && harmless(request.kind))) {
    request.state_ = State::cancelled;
    // The file is open until the answer.
    if (request.file_) request.file_->volume().counters().drop();
    request.reply(EINTR, 0);
  }
}

}  // namespace volfs::fuse
