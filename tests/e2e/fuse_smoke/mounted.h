// SPDX-License-Identifier: GPL-2.0-or-later
// A catalog of test devices, mounted in a directory of its own and served by this process.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "support/memory_device.h"
#include "volfs/engine/catalog.h"
#include "volfs/fuse/server.h"
#include "volfs/gate.h"
#include "volfs/io_batch.h"

namespace volfs::test {

// Passes everything on; while it is suspended, everything waits.
class GatedDevice final : public BlockDevice {
 public:
  GatedDevice(std::string name, BlockDevice& below)
      : BlockDevice(std::move(name), below.size()), below_(below) {}
  void suspend() { gate_.close(); }
  void resume() { gate_.open(); }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  void do_for_each_below(const Visit& visit) const override { visit(below_); }
  BlockDevice& below_;
  Gate gate_;
};

// A device with a queue for each thread; what is submitted completes when the test lets it.
class QueuedDevice final : public BlockDevice {
 public:
  QueuedDevice(std::string name, BlockDevice& below)
      : BlockDevice(std::move(name), below.size()), below_(below) {}
  std::atomic<uint64_t> submitted{0};
  std::atomic<bool> fail_next{false};  // the next operation through a queue ends with EIO

 private:
  friend class ThreadQueue;
  Status do_read(uint64_t offset, IoSpan iov) override { return below_.read(offset, iov); }
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override {
    return below_.write(offset, iov, fua);
  }
  Status do_flush() override { return below_.flush(); }
  Service do_service(Op) const override { return Service::queued; }
  IoQueue* do_queue() override;
  BlockDevice& below_;
};

// Works by itself in the calling thread and waits at a gate there: the worst that a serving
// thread may meet.
class InlineWaiter final : public BlockDevice {
 public:
  InlineWaiter(std::string name, uint64_t size) : BlockDevice(std::move(name), size) {}
  Gate gate;

 private:
  Status do_read(uint64_t offset, IoSpan iov) override;
  Status do_write(uint64_t, IoSpan, Fua) override { return {}; }
};

class Mounted {
 public:
  explicit Mounted(fuse::Options options = {});
  ~Mounted();

  engine::Catalog& catalog() { return catalog_; }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  const std::string& directory() const { return directory_; }
  // Mounts and serves what is in the catalog.
  void start();
  // Stops and waits until the server ended.
  void stop();
  void ask_to_stop() { server_->stop(); }
  void wait();
  std::function<std::string(std::string)> control = [](std::string text) { return text; };
  std::vector<fuse::InfoFile> info;

 private:
  std::string directory_;
  engine::Catalog catalog_;
  fuse::Options options_;
  std::unique_ptr<fuse::Server> server_;
  Thread thread_;
};

// An open file that closes itself; the test fails if it cannot be opened.
class Fd {
 public:
  Fd(const std::string& path, int flags);
  ~Fd();
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  operator int() const { return fd_; }  // NOLINT
  void close();

 private:
  int fd_;
};

std::vector<std::byte> pattern(size_t size, uint64_t seed);
std::vector<std::byte> pread_all(int fd, uint64_t offset, size_t size);
// The errno of a call that should fail: 0 if it did not.
template <class T>
int error_of(T result) {
  return result < 0 ? errno : 0;
}

}  // namespace volfs::test
