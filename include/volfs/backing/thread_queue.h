// SPDX-License-Identifier: GPL-2.0-or-later
// Each thread's io_uring for images. It is made at the first use and ends with the thread; what
// was submitted must have been reaped by then.
#pragma once

#include "volfs/io_batch.h"

namespace volfs {

// The calling thread's queue; null where io_uring is refused (many containers), switched off, or
// a simulated scheduler rules: then everything is done by blocking calls. Takes operations of
// FileImages only. wait_fd() is the ring.
IoQueue* thread_queue();

// Whether threads may make queues (at start: yes). Those there are stay.
void allow_thread_queues(bool allowed);

// Ends the calling thread's queue, which must be idle; the next use makes another. Call it
// before fork(): a ring does not survive in the child.
void close_thread_queue();

}  // namespace volfs
