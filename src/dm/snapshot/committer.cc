// SPDX-License-Identifier: GPL-2.0-or-later
#include "committer.h"

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>

#include "persistent_store.h"
#include "volfs/io_batch.h"

namespace volfs::dm {
namespace {

// What one store has to record in a commit, from all requests together.
struct Work {
  PersistentStore* store = nullptr;
  std::vector<Exception> exceptions;
  size_t recorded = 0;
  size_t staged = 0;
  Status status;

  std::span<const Exception> rest() const { return std::span(exceptions).subspan(recorded); }
  bool open() const { return status.has_value() && recorded < exceptions.size(); }
};

// Adds an operation of each open work to a batch, runs it, and notes who failed.
template <class Add>
void together(std::vector<Work>& works, Add add) {
  IoBatch batch;
  std::vector<Work*> of_op;
  for (Work& work : works) {
    if (!work.open()) continue;
    add(batch, work);
    of_op.push_back(&work);
  }
  if (batch.run()) return;
  for (size_t i = 0; i < of_op.size(); ++i)
    if (batch.error(i) != 0)
      of_op[i]->status = fail_sys(batch.error(i), of_op[i]->store->device().name());
}

// Fills one area of each store: data and the empty next area first, then the exceptions.
void record_areas(std::vector<Work>& works) {
  for (Work& work : works) {
    if (!work.open()) continue;
    work.staged = work.store->stage(work.rest());
    work.status = work.store->prepare_area();
  }
  const auto flush = [](IoBatch& batch, Work& work) { batch.flush(work.store->device()); };
  together(works, flush);
  together(works, [](IoBatch& batch, Work& work) { work.store->write_staged(batch); });
  together(works, flush);
  for (Work& work : works) {
    if (!work.open()) continue;
    work.store->staged_done();
    work.recorded += work.staged;
  }
}

}  // namespace

void Committer::commit(std::span<Request> requests) {
  const std::lock_guard lock(mutex_);
  for (Request& request : requests) queue_.push_back(&request);
  const auto done = [requests] {
    return std::all_of(requests.begin(), requests.end(), [](const Request& r) { return r.done; });
  };
  while (!done()) {
    if (leading_) {
      changed_.wait(mutex_);
      continue;
    }
    leading_ = true;
    const std::vector<Request*> batch = std::exchange(queue_, {});
    mutex_.unlock();
    carry_out(batch);
    mutex_.lock();
    for (Request* request : batch) request->done = true;
    leading_ = false;
    changed_.notify_all();
  }
}

void Committer::carry_out(std::span<Request* const> requests) {
  std::vector<Work> works;
  for (const Request* request : requests) {
    PersistentStore* store = request->store->persistent();
    if (!store) continue;
    auto work = std::find_if(works.begin(), works.end(),
                             [store](const Work& w) { return w.store == store; });
    if (work == works.end()) {
      works.push_back({});
      work = works.end() - 1;
      work->store = store;
      if (store->failed()) work->status = fail_sys(EIO, store->device().name());
    }
    work->exceptions.insert(work->exceptions.end(), request->exceptions.begin(),
                            request->exceptions.end());
  }
  // In the order in which the chunks were allocated, as far as they are here: a merge goes
  // through the list backwards, and consecutive chunks together.
  for (Work& work : works)
    std::sort(work.exceptions.begin(), work.exceptions.end(),
              [](const Exception& a, const Exception& b) { return a.new_chunk < b.new_chunk; });
  while (std::any_of(works.begin(), works.end(), [](const Work& w) { return w.open(); }))
    record_areas(works);
  for (Work& work : works)
    if (!work.status) work.store->staged_failed();
  for (Request* request : requests)
    for (const Work& work : works)
      if (work.store == request->store && !work.status)
        request->status = fail(Error(work.status.error()));
}

}  // namespace volfs::dm
