// SPDX-License-Identifier: GPL-2.0-or-later
#include "operations.h"

#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>
#include <vector>

#include "special_files.h"
#include "volfs/log.h"
#include "volfs/units.h"

namespace volfs::fuse {
namespace {

constexpr uint64_t max_request = MiB;

bool wants_write(int flags) {
  return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
}

// A request without memory of its own that may have to wait; the answer goes through libfuse.
class LibfuseRequest final : public DataRequest {
 public:
  explicit LibfuseRequest(fuse_req_t request) : request_(request) {
    id = request_in_hand();
    asker = fuse_req_ctx(request)->pid;
  }
  void reply(int error, size_t) override { fuse_reply_err(request_, error); }
  void recycle() override { delete this; }

 private:
  const fuse_req_t request_;
};

}  // namespace

void Operations::init(fuse_conn_info& connection) {
  connection.max_write = max_request;
  connection.max_readahead = max_request;
  connection.max_background = options_.max_background;
  connection.congestion_threshold = options_.max_background * 3 / 4;
  connection.time_gran = 1;
  const auto want = [&connection](unsigned capability, bool yes) {
    if (yes && (connection.capable & capability) != 0)
      connection.want |= capability;
    else
      connection.want &= ~capability;
  };
  want(FUSE_CAP_ASYNC_READ, true);
  want(FUSE_CAP_ASYNC_DIO, true);
  want(FUSE_CAP_PARALLEL_DIROPS, true);
  want(FUSE_CAP_READDIRPLUS, true);
  want(FUSE_CAP_READDIRPLUS_AUTO, true);
  // With it the kernel would drop its pages at open(O_TRUNC), dirty ones of others included, and
  // take the size for 0, whatever is answered. Without it a SETATTR follows, see set_attributes.
  want(FUSE_CAP_ATOMIC_O_TRUNC, false);
  want(FUSE_CAP_WRITEBACK_CACHE, options_.writeback_cache);
  // All changes of data pass the kernel, and changed times must not drop its pages.
  want(FUSE_CAP_AUTO_INVAL_DATA, false);
  // Pipes cost more than the copies that they save.
  want(FUSE_CAP_SPLICE_READ, false);
  want(FUSE_CAP_SPLICE_WRITE, false);
  want(FUSE_CAP_SPLICE_MOVE, false);
}

bool Operations::read_only(const Item& item) const {
  return options_.read_only || (item.volume && item.volume->bytes().read_only());
}

std::shared_ptr<VolumeState> Operations::state_of(uint64_t inode) {
  const std::lock_guard lock(mutex_);
  auto& state = states_[inode];
  if (!state) state = std::make_shared<VolumeState>();
  return state;
}

void Operations::flush_written() {
  const std::lock_guard lock(mutex_);
  for (const auto& [inode, state] : states_) {
    const auto node = tree_.catalog().get(inode);
    if (!node || !node->volume || !state->dirty.exchange(false)) continue;
    if (auto flushed = node->volume->bytes().flush(); !flushed)
      log_error("{}", flushed.error().text());
  }
}

// Attributes -------------------------------------------------------------------------------------

blkcnt_t blocks(uint64_t bytes) {
  return static_cast<blkcnt_t>(div_round_up(bytes, sector_size));
}

namespace {

// What a volume occupies, or its size where that would mean to wait for somebody: stat(2) must
// answer on a suspended device, too.
uint64_t allocated_without_hanging(engine::Volume& volume) {
  if (auto known = volume.allocated_if_known()) return *known;
  if (!volume.open()) return volume.size();  // it is being removed
  const auto close = std::unique_ptr<engine::Volume, void (*)(engine::Volume*)>(
      &volume, [](engine::Volume* opened) { opened->close(); });
  Mapping mapping;
  BlockDevice& device = volume.device();
  if (!device.map(Op::read, 0, std::min<uint64_t>(volume.size(), device.logical_block()), Wait::no,
                  mapping))
    return volume.size();
  mapping.clear();
  return volume.allocated();
}

}  // namespace

void Operations::reply_attributes(fuse_req_t request, const Item& item) {
  struct stat out = tree_.attributes(item);
  if (!item.volume) {
    fuse_reply_attr(request, &out, attribute_timeout);
    return;
  }
  if (auto known = item.volume->allocated_if_known()) {
    out.st_blocks = blocks(*known);
    fuse_reply_attr(request, &out, attribute_timeout);
    return;
  }
  // A key of its own: behind the data of a suspended volume it would not come to its turn.
  const void* const key = &item.volume->counters();
  path_.workers().submit(key, [request, out, volume = item.volume]() mutable {
    out.st_blocks = blocks(allocated_without_hanging(*volume));
    fuse_reply_attr(request, &out, attribute_timeout);
  });
}

void Operations::set_attributes(fuse_req_t request, const Item& item, const struct stat& wanted,
                                int which, bool by_handle) {
  const struct stat now = tree_.attributes(item);
  // Owner and mode come from the definition, the size from the device; asking for what is there
  // already is no change. Times are accepted and not kept. A size of 0 without an open file is
  // that of open(O_TRUNC), which does nothing on a block device; truncate(2) to 0 looks the same.
  // The kernel keeps its pages when it is answered the size that it knew.
  const bool resizes = (which & FUSE_SET_ATTR_SIZE) != 0 && wanted.st_size != now.st_size &&
                       item.kind != Item::Kind::control && (by_handle || wanted.st_size != 0);
  const bool changes =
      ((which & FUSE_SET_ATTR_MODE) != 0 && (wanted.st_mode & 07777) != (now.st_mode & 07777)) ||
      ((which & FUSE_SET_ATTR_UID) != 0 && wanted.st_uid != now.st_uid) ||
      ((which & FUSE_SET_ATTR_GID) != 0 && wanted.st_gid != now.st_gid) || resizes;
  if (read_only(item) && (which & FUSE_SET_ATTR_SIZE) != 0)
    fuse_reply_err(request, EROFS);
  else if (changes)
    fuse_reply_err(request, EPERM);
  else
    reply_attributes(request, item);
}

void Operations::statistics(fuse_req_t request) {
  // All space is taken by what is there; nothing can be added.
  struct statvfs out{};
  uint64_t bytes = 0;
  const auto volumes = tree_.catalog().volumes();
  for (const auto& volume : volumes) bytes += volume->size();
  out.f_bsize = 4096;
  out.f_frsize = 4096;
  out.f_blocks = div_round_up(bytes, out.f_frsize);
  out.f_files = volumes.size();
  out.f_namemax = 255;
  fuse_reply_statfs(request, &out);
}

// Open files -------------------------------------------------------------------------------------

void Operations::reply_open(fuse_req_t request, std::unique_ptr<File> file, uint32_t open_flags) {
  // libfuse 3.14 has no field for all of the flags.
  fuse_open_out out{};
  out.fh = reinterpret_cast<uint64_t>(file.get());
  out.open_flags = open_flags;
  File* const opened = file.release();
  // An asker that was killed meanwhile sends no release.
  if (fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof out) != 0)
    opened->release();
}

void Operations::open_volume(fuse_req_t request, const Item& item, int flags) {
  if (wants_write(flags) && read_only(item)) {
    fuse_reply_err(request, EROFS);
    return;
  }
  if (!item.volume->open()) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  const bool direct = options_.direct_io || (flags & O_DIRECT) != 0;
  // As a block device: its cached pages go with the last who has it open, since others may change
  // what is below it.
  const int cached = state_of(item.inode)->opens.load() > 0 ? FOPEN_KEEP_CACHE : 0;
  reply_open(request,
             std::make_unique<VolumeFile>(path_, item.volume, state_of(item.inode), direct),
             (direct ? FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES : 0) | cached);
}

// What may wait long goes through here: MAKE runs on a worker, and gives what answers then. An
// asker that is killed meanwhile does not wait for it.
void Operations::answer_later(fuse_req_t request, const void* key,
                              std::function<std::function<void()>()> make) {
  auto* const waiting = new LibfuseRequest(request);
  path_.park(*waiting);
  path_.workers().submit(key, [this, waiting, make = std::move(make)] {
    const auto answer = make();
    if (!path_.unpark(*waiting)) return;
    answer();
    waiting->recycle();
  });
}

void Operations::open_info(fuse_req_t request, const InfoFile& info) {
  answer_later(request, &info, [this, request, &info]() -> std::function<void()> {
    auto content = std::make_shared<Result<std::string>>(info.content());
    return [this, request, &info, content] {
      if (*content) {
        reply_open(request, std::make_unique<InfoText>(std::move(**content)), FOPEN_DIRECT_IO);
        return;
      }
      log_warning("{}: {}", info.name, content->error().text());
      fuse_reply_err(request, content->error().code());
    };
  });
}

void Operations::open(fuse_req_t request, const Item& item, int flags) {
  switch (item.kind) {
    case Item::Kind::directory:
      fuse_reply_err(request, EISDIR);
      break;
    case Item::Kind::volume:
      open_volume(request, item, flags);
      break;
    case Item::Kind::control:
      if (control)
        reply_open(request, std::make_unique<ControlFile>(control, path_, ending),
                   FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES);
      else
        fuse_reply_err(request, ENXIO);
      break;
    case Item::Kind::events:
      if (wants_write(flags))
        fuse_reply_err(request, EACCES);
      else
        reply_open(request, std::make_unique<EventFile>(*events, path_),
                   FOPEN_DIRECT_IO | FOPEN_STREAM);
      break;
    case Item::Kind::info:
      if (wants_write(flags)) {
        fuse_reply_err(request, EACCES);
        break;
      }
      open_info(request, *item.info);
      break;
  }
}

void Operations::allocate(fuse_req_t request, File& file, int mode, uint64_t offset,
                          uint64_t length) {
  auto data = std::make_unique<LibfuseRequest>(request);
  if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) {
    data->kind = DataRequest::Kind::punch_hole;
  } else if (mode == FALLOC_FL_ZERO_RANGE || mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)) {
    data->kind = DataRequest::Kind::zero_range;
  } else {
    // Space cannot be promised: whether the images have it is not ours to say.
    fuse_reply_err(request, EOPNOTSUPP);
    return;
  }
  data->whole = (mode & FALLOC_FL_KEEP_SIZE) == 0;
  data->offset = offset;
  data->length = length;
  ServingContext context;
  file.handle(*data.release(), context);
}

// SEEK_DATA and SEEK_HOLE; errors ENXIO as lseek(2).
static Result<uint64_t> find(BlockDevice& bytes, uint64_t offset, bool data) {
  const uint64_t size = bytes.size();
  while (offset < size) {
    VOLFS_TRY_ASSIGN(const Allocation here, bytes.allocation(offset, size - offset));
    if (here.data == data) return offset;
    if (here.length == 0) break;
    offset += here.length;
  }
  if (!data && offset == size) return size;  // the end counts as a hole
  return fail_sys(ENXIO, "");
}

void Operations::seek(fuse_req_t request, const Item& item, File& file, uint64_t offset,
                      int whence) {
  // The kernel does not write its cache back before it asks, so that a hole of ours may hold data
  // there. Without an answer it takes all for data.
  if (options_.writeback_cache) {
    fuse_reply_err(request, ENOSYS);
    return;
  }
  if (!item.volume || (whence != SEEK_DATA && whence != SEEK_HOLE)) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  if (offset >= item.volume->size()) {
    fuse_reply_err(request, ENXIO);
    return;
  }
  // A cancelled search goes on when the file may be closed already.
  auto& volume = static_cast<VolumeFile&>(file);
  volume.hold();
  answer_later(
      request, item.volume.get(), [request, offset, whence, &volume]() -> std::function<void()> {
        const auto found = find(volume.volume().bytes(), offset, whence == SEEK_DATA);
        volume.drop();
        if (!found)
          return [request, code = found.error().code()] { fuse_reply_err(request, code); };
        return [request, at = static_cast<off_t>(*found)] { fuse_reply_lseek(request, at); };
      });
}

}  // namespace volfs::fuse
