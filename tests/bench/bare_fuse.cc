// SPDX-License-Identifier: GPL-2.0-or-later
// One file over one image with nothing in between: the limits that volfs is compared with. Answers
// are made by pread and pwrite, or (null) by nothing at all; requests come by libfuse's own threads
// as most servers have them, or by volfs' io_uring.
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "fuse/dev_transport.h"
#include "fuse/ring_transport.h"
#include "volfs/units.h"
#include "volfs/worker_pool.h"

namespace volfs::bench {
namespace {

constexpr fuse_ino_t the_file = 2;
constexpr uint32_t init_over_io_uring = fuse::init_over_io_uring;

struct Bare {
  int image = -1;
  off_t size = 0;
  bool null = false;
  bool parallel_writes = false;
  std::vector<char> nothing = std::vector<char>(MiB);

  ssize_t read(void* memory, size_t length, uint64_t offset) const {
    return null ? static_cast<ssize_t>(length)
                : pread(image, memory, length, static_cast<off_t>(offset));
  }
  ssize_t write(const void* memory, size_t length, uint64_t offset) const {
    return null ? static_cast<ssize_t>(length)
                : pwrite(image, memory, length, static_cast<off_t>(offset));
  }
} bare;

// What volfs' transport hands requests for data to.
class BareFile final : public fuse::File {
 public:
  void handle(fuse::DataRequest& request, fuse::ServingContext&) override {
    using Kind = fuse::DataRequest::Kind;
    ssize_t done = 0;
    if (request.kind == Kind::read)
      done = bare.read(request.memory.data(), request.memory.size(), request.offset);
    else if (request.kind == Kind::write)
      done = bare.write(request.memory.data(), request.memory.size(), request.offset);
    request.finish(done < 0 ? errno : 0, done < 0 ? 0 : static_cast<size_t>(done));
  }
  void release() override {}
} file;

// libfuse's operations -------------------------------------------------------------------------

struct stat attributes(fuse_ino_t inode) {
  struct stat out{};
  out.st_ino = inode;
  out.st_mode = inode == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0600;
  out.st_nlink = 1;
  out.st_size = inode == FUSE_ROOT_ID ? 0 : bare.size;
  return out;
}

void init(void*, fuse_conn_info* connection) {
  connection->max_write = MiB;
  connection->max_readahead = MiB;
  connection->max_background = 64;
  connection->want &=
      ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

void lookup(fuse_req_t request, fuse_ino_t, const char* name) {
  if (std::string_view(name) != "linear") {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param out{};
  out.ino = the_file;
  out.attr = attributes(the_file);
  out.attr_timeout = out.entry_timeout = 3600;
  fuse_reply_entry(request, &out);
}

void getattr(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
  const struct stat out = attributes(inode);
  fuse_reply_attr(request, &out, 3600);
}

void open(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  fuse_open_out out{};
  out.fh = reinterpret_cast<uint64_t>(static_cast<fuse::File*>(&file));
  out.open_flags = FOPEN_DIRECT_IO | (bare.parallel_writes ? FOPEN_PARALLEL_DIRECT_WRITES : 0);
  fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof out);
}

void read(fuse_req_t request, fuse_ino_t, size_t size, off_t offset, fuse_file_info*) {
  if (bare.null) {
    fuse_reply_buf(request, bare.nothing.data(), std::min(size, bare.nothing.size()));
    return;
  }
  thread_local std::vector<char> memory(MiB);
  const ssize_t done =
      bare.read(memory.data(), std::min(size, memory.size()), static_cast<uint64_t>(offset));
  if (done < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_buf(request, memory.data(), static_cast<size_t>(done));
}

void write(fuse_req_t request, fuse_ino_t, const char* data, size_t size, off_t offset,
           fuse_file_info*) {
  const ssize_t done = bare.write(data, size, static_cast<uint64_t>(offset));
  if (done < 0)
    fuse_reply_err(request, errno);
  else
    fuse_reply_write(request, static_cast<size_t>(done));
}

fuse_lowlevel_ops table() {
  fuse_lowlevel_ops out{};
  out.init = init;
  out.lookup = lookup;
  out.getattr = getattr;
  out.open = open;
  out.read = read;
  out.write = write;
  return out;
}

// The two ways ----------------------------------------------------------------------------------

int by_libfuse(fuse_session* session, bool clone_fd) {
  fuse_loop_config* const config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_max_threads(config, 4);
  fuse_loop_cfg_set_clone_fd(config, clone_fd ? 1 : 0);
  fuse_set_signal_handlers(session);
  const int status = fuse_session_loop_mt(session, config);
  fuse_loop_cfg_destroy(config);
  return status < 0 ? 1 : 0;
}

struct RingServer {
  int fd = -1;
  bool answered = false;
  fuse::RingTransport ring;
  explicit RingServer(fuse_session* session)
      : fd(dup(fuse_session_fd(session))), ring(session, fd) {}

  // The answer to INIT is the first that is sent.
  ssize_t send(const iovec* iov, int count) {
    if (answered) return ring.answer(iov, count) ? 0 : writev(fd, iov, count);
    fuse_init_out out{};
    std::memcpy(&out, iov[1].iov_base, sizeof out);
    out.flags |= FUSE_INIT_EXT;
    out.flags2 |= init_over_io_uring;
    const iovec changed[2] = {iov[0], {&out, sizeof out}};
    const Status prepared = ring.prepare(MiB);
    if (!prepared) {
      std::fprintf(stderr, "%s\n", prepared.error().text().c_str());
      std::exit(1);
    }
    const ssize_t sent = writev(fd, changed, 2);
    answered = true;
    ring.start();
    return sent;
  }
};
RingServer* ring_server = nullptr;

int by_ring(fuse_session* session) {
  RingServer server(session);
  ring_server = &server;
  fuse_custom_io io{};
  io.writev = [](int, iovec* iov, int count, void*) { return ring_server->send(iov, count); };
  io.read = [](int, void*, size_t, void*) -> ssize_t { return -1; };
  if (fuse_session_custom_io(session, &io, fuse_session_fd(session)) != 0) return 1;
  WorkerPool workers;
  fuse::DataPath path(workers);
  fuse::DevTransport other(session, server.fd, path, 1);
  if (!other.start()) return 1;
  other.join();
  server.ring.join();
  return 0;
}

int run(std::string_view mode, const char* mountpoint, const char* image) {
  bare.null = mode.ends_with("null");
  bare.parallel_writes = mode.starts_with("ring");
  bare.image = ::open(image, O_RDWR | O_CLOEXEC);
  struct stat found{};
  if (bare.image < 0 || fstat(bare.image, &found) != 0) {
    std::perror(image);
    return 1;
  }
  bare.size = found.st_size;
  char name[] = "bare-fuse";
  char* arguments[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  const fuse_lowlevel_ops ops = table();
  fuse_session* const session = fuse_session_new(&args, &ops, sizeof ops, nullptr);
  if (!session || fuse_session_mount(session, mountpoint) != 0) return 1;
  const int status =
      mode.starts_with("ring") ? by_ring(session) : by_libfuse(session, mode.starts_with("clone"));
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  return status;
}

}  // namespace
}  // namespace volfs::bench

int main(int argc, char** argv) {
  constexpr std::string_view modes[] = {"threads",    "threads-null", "clone",
                                        "clone-null", "ring",         "ring-null"};
  if (argc != 4 || std::ranges::find(modes, argv[1]) == std::end(modes)) {
    std::fprintf(stderr,
                 "usage: bare-fuse threads|clone|ring[-null] IMAGE MOUNTPOINT\n"
                 "serves IMAGE as MOUNTPOINT/linear until it is unmounted\n");
    return 2;
  }
  return volfs::bench::run(argv[1], argv[3], argv[2]);
}
