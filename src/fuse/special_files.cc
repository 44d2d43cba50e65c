// SPDX-License-Identifier: GPL-2.0-or-later
#include "special_files.h"

#include <fuse_lowlevel.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

namespace volfs::fuse {
namespace {

using Kind = DataRequest::Kind;

// A write of at least so many bytes may be the first piece of a longer one: the kernel takes 256
// pages at a time, and the memory may begin within a page.
constexpr size_t maybe_cut = ControlFile::most_bytes - 4096;

void give(DataRequest& request, std::string_view text, uint64_t offset) {
  const size_t from = std::min<uint64_t>(offset, text.size());
  const size_t count = std::min(text.size() - from, request.memory.size());
  if (count > 0) std::memcpy(request.memory.data(), text.data() + from, count);
  request.finish(0, count);
}

}  // namespace

unsigned File::poll(fuse_pollhandle* handle) {
  if (handle) fuse_pollhandle_destroy(handle);
  return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM;
}

void InfoText::handle(DataRequest& request, ServingContext&) {
  if (request.kind == Kind::read)
    give(request, content_, request.offset);
  else
    request.finish(request.kind == Kind::flush ? 0 : EBADF, 0);
}

void ControlFile::handle(DataRequest& request, ServingContext&) {
  switch (request.kind) {
    case Kind::read:
      return shared_->read(request);
    case Kind::write:
      return shared_->write(request);
    default:
      return request.finish(request.kind == Kind::flush ? 0 : EINVAL, 0);
  }
}

void ControlFile::release() {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->submit_partial();
    shared_->closed.store(true);
  }
  delete this;
}

void ControlFile::Shared::write(DataRequest& request) {
  int error = 0;
  {
    const std::lock_guard lock(mutex);
    const std::string_view text(reinterpret_cast<const char*>(request.memory.data()),
                                request.memory.size());
    const bool continues = !partial.empty() && request.offset == partial_end;
    if (!continues) submit_partial();
    if (partial.size() + text.size() > most_bytes) {
      partial.clear();
      error = EFBIG;
      // Whoever wrote on past the short write finds the reason where the reply would be.
      reply =
          R"({"ok":false,"error":{"code":"EFBIG","errno":27,"message":"the request is too long; expected 1048576 bytes at most","place":""}})"
          "\n";
      reply_begun = false;
    } else if (waiting.size() >= most_requests) {
      error = EBUSY;
    } else {
      partial += text;
      partial_end = request.offset + text.size();
      if (continues || text.size() < maybe_cut) submit_partial();
    }
  }
  request.finish(error, error == 0 ? request.memory.size() : 0);
}

void ControlFile::Shared::read(DataRequest& request) {
  {
    const std::lock_guard lock(mutex);
    submit_partial();
    if (running) {
      path.park(request);
      readers.push_back(&request);
      return;
    }
  }
  answer(request);
}

void ControlFile::Shared::answer(DataRequest& request) {
  const std::lock_guard lock(mutex);
  if (!std::exchange(reply_begun, true)) reply_base = request.offset;
  // An offset before the base is that of somebody who went back to the beginning.
  if (request.offset < reply_base) reply_base = request.offset;
  give(request, reply, request.offset - reply_base);
}

// With the mutex held, as submit.
void ControlFile::Shared::submit_partial() {
  if (!partial.empty()) submit(std::exchange(partial, {}));
}

void ControlFile::Shared::submit(std::string text) {
  waiting.push_back(std::move(text));
  if (std::exchange(running, true)) return;
  path.workers().submit(this, [self = shared_from_this()] { self->work(); });
}

void ControlFile::Shared::work() {
  std::vector<DataRequest*> told;
  while (true) {
    std::string text;
    {
      const std::lock_guard lock(mutex);
      if (waiting.empty()) {
        running = false;
        told.swap(readers);
        break;
      }
      text = std::move(waiting.front());
      waiting.pop_front();
    }
    std::string result =
        handler(std::move(text), [this] { return closed.load() || ending.load(); });
    const std::lock_guard lock(mutex);
    reply = std::move(result);
    reply_begun = false;
  }
  // In the order of their offsets, so that the first one sets where the reply begins.
  std::sort(told.begin(), told.end(),
            [](const DataRequest* a, const DataRequest* b) { return a->offset < b->offset; });
  for (DataRequest* request : told)
    if (path.unpark(*request)) answer(*request);
}

// Events -----------------------------------------------------------------------------------------

void EventFile::handle(DataRequest& request, ServingContext&) {
  if (request.kind != Kind::read) {
    request.finish(request.kind == Kind::flush ? 0 : EBADF, 0);
    return;
  }
  const std::lock_guard lock(mutex_);
  if (ready()) return read(request);
  if (request.nonblocking) return request.finish(EAGAIN, 0);
  drop_cancelled();
  request.interruptible = true;
  path_.park(request);
  readers_.push_back(&request);
}

// With the mutex held and something to read: lines, or the end.
void EventFile::read(DataRequest& request) {
  const size_t most = request.memory.size();
  if (rest_.empty()) rest_ = hub_.take(place_, most);
  const size_t count = std::min(rest_.size(), most);
  std::memcpy(request.memory.data(), rest_.data(), count);
  rest_.erase(0, count);
  request.finish(0, count);
}

// Those whose reader was interrupted would keep their memory until the next event.
void EventFile::drop_cancelled() {
  std::erase_if(readers_, [this](DataRequest* request) {
    return path_.was_cancelled(*request) && !path_.unpark(*request);
  });
}

void EventFile::woken() {
  const std::lock_guard lock(mutex_);
  while (!readers_.empty() && ready()) {
    DataRequest& request = *readers_.front();
    readers_.pop_front();
    if (path_.unpark(request)) read(request);
  }
  if (!handle_ || !ready()) return;
  fuse_lowlevel_notify_poll(handle_);
  set_handle(nullptr);
}

void EventFile::set_handle(fuse_pollhandle* handle) {
  if (handle_) fuse_pollhandle_destroy(handle_);
  handle_ = handle;
}

unsigned EventFile::poll(fuse_pollhandle* handle) {
  const std::lock_guard lock(mutex_);
  if (handle) set_handle(handle);
  unsigned events = 0;
  if (ready()) events |= POLLIN | POLLRDNORM;
  if (rest_.empty() && !hub_.has(place_) && hub_.finished(place_)) events |= POLLHUP;
  return events;
}

void EventFile::release() {
  hub_.leave(*this);
  {
    const std::lock_guard lock(mutex_);
    drop_cancelled();
    set_handle(nullptr);
  }
  delete this;
}

}  // namespace volfs::fuse
