// SPDX-License-Identifier: GPL-2.0-or-later
// The file operations other than those on data, as libfuse calls them.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "data_path.h"
#include "tree.h"
#include "volfs/sync.h"
#include "volfs/worker_pool.h"

struct fuse_conn_info;     // NOLINT(readability-identifier-naming)
struct fuse_lowlevel_ops;  // NOLINT(readability-identifier-naming)
struct fuse_req;
struct iovec;

namespace volfs::fuse {

// What a volume occupies changes by what other volumes do, too. Seconds.
inline constexpr double attribute_timeout = 1;
// st_blocks.
blkcnt_t blocks(uint64_t bytes);

class Operations {
 public:
  // All outlive this.
  Operations(Tree& tree, DataPath& path, const Options& options)
      : tree_(tree), path_(path), options_(options) {}

  // The table for libfuse, whose user data must be an Operations.
  static const fuse_lowlevel_ops& table();

  ControlHandler control;
  engine::EventHub* events = nullptr;
  // Set when the server ends: what only waits for something then ends, too.
  std::atomic<bool> ending{false};
  // Sends what libfuse answers or notifies; as writev(2).
  std::function<ssize_t(const iovec*, int)> send;

  // Flushes what was written and not flushed since: when the connection ends with a last close,
  // the kernel may not tell of it any more. No request is under way.
  void flush_written();

 private:
  friend struct Calls;
  using Item = Tree::Item;
  void init(fuse_conn_info& connection);
  void reply_attributes(fuse_req* request, const Item& item);
  void open(fuse_req* request, const Item& item, int flags);
  void open_volume(fuse_req* request, const Item& item, int flags);
  void reply_open(fuse_req* request, std::unique_ptr<File> file, uint32_t open_flags);
  void answer_later(fuse_req* request, const void* key,
                    std::function<std::function<void()>()> make);
  void open_info(fuse_req* request, const InfoFile& info);
  void seek(fuse_req* request, const Item& item, File& file, uint64_t offset, int whence);
  void set_attributes(fuse_req* request, const Item& item, const struct stat& wanted, int which,
                      bool by_handle);
  void allocate(fuse_req* request, File& file, int mode, uint64_t offset, uint64_t length);
  void statistics(fuse_req* request);
  bool read_only(const Item& item) const;
  std::shared_ptr<VolumeState> state_of(uint64_t inode);

  Tree& tree_;
  DataPath& path_;
  const Options& options_;
  Mutex mutex_;                                                        // guards states_
  std::unordered_map<uint64_t, std::shared_ptr<VolumeState>> states_;  // of what was ever open
};

}  // namespace volfs::fuse
