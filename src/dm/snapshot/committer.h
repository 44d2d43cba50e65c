// SPDX-License-Identifier: GPL-2.0-or-later
// Records exceptions durably, for all stores of one origin: who comes while a commit is under way
// waits and shares the next one with everybody else who does, and the stores share the waiting
// for their disks.
#pragma once

#include <span>
#include <vector>

#include "exception_store.h"
#include "exception_table.h"
#include "volfs/sync.h"

namespace volfs::dm {

class Committer {
 public:
  struct Request {
    ExceptionStore* store = nullptr;
    std::span<const Exception> exceptions;  // not empty
    Status status;                          // the result
    bool done = false;
  };

  Committer() = default;
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  // The data of the exceptions has been written, but need not be on stable storage. Returns when
  // every request is done. Any thread.
  void commit(std::span<Request> requests);

 private:
  void carry_out(std::span<Request* const> requests);

  Mutex mutex_;  // guards the next two and the requests' done
  CondVar changed_;
  std::vector<Request*> queue_;
  bool leading_ = false;
};

}  // namespace volfs::dm
