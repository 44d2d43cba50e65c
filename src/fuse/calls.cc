// SPDX-License-Identifier: GPL-2.0-or-later
// The table of functions that libfuse calls: each finds the Operations and the item that is meant.
#include <fuse_lowlevel.h>
#include <linux/fs.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <vector>

#include "operations.h"
#include "volfs/units.h"

namespace volfs::fuse {

namespace {

// Names change only through the catalog, which tells.
constexpr double name_timeout = 3600;

Operations& operations(fuse_req_t request) {
  return *static_cast<Operations*>(fuse_req_userdata(request));
}

// A directory as it was when it was opened.
struct Directory {
  std::vector<Tree::Named> entries;
};

}  // namespace

struct Calls {
  using Item = Tree::Item;

  static std::optional<Item> item_or_error(fuse_req_t request, fuse_ino_t inode) {
    auto item = operations(request).tree_.get(inode);
    if (!item) fuse_reply_err(request, ENOENT);
    return item;
  }

  static void init(void* self, fuse_conn_info* connection) {
    static_cast<Operations*>(self)->init(*connection);
  }

  // st_blocks that are not known now are asked for when somebody looks.
  static fuse_entry_param entry(const Operations& self, const Item& item) {
    fuse_entry_param out{};
    out.ino = item.inode;
    out.generation = 1;
    out.entry_timeout = name_timeout;
    out.attr_timeout = attribute_timeout;
    out.attr = self.tree_.attributes(item);
    if (item.volume) {
      if (auto known = item.volume->allocated_if_known())
        out.attr.st_blocks = blocks(*known);
      else
        out.attr_timeout = 0;
    }
    return out;
  }

  static void lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
    Operations& self = operations(request);
    fuse_entry_param out{};
    out.entry_timeout = name_timeout;  // that there is nothing is worth keeping, too
    if (auto item = self.tree_.lookup(parent, name)) out = entry(self, *item);
    fuse_reply_entry(request, &out);
  }

  static void getattr(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
    if (auto item = item_or_error(request, inode))
      operations(request).reply_attributes(request, *item);
  }

  static void setattr(fuse_req_t request, fuse_ino_t inode, struct stat* wanted, int which,
                      fuse_file_info* info) {
    if (auto item = item_or_error(request, inode))
      operations(request).set_attributes(request, *item, *wanted, which, info != nullptr);
  }

  static void open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* info) {
    if (auto item = item_or_error(request, inode))
      operations(request).open(request, *item, info->flags);
  }

  static void poll(fuse_req_t request, fuse_ino_t, fuse_file_info* info, fuse_pollhandle* handle) {
    fuse_reply_poll(request, reinterpret_cast<File*>(info->fh)->poll(handle));
  }

  static void release(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
    reinterpret_cast<File*>(info->fh)->release();
    fuse_reply_err(request, 0);
  }

  static void opendir(fuse_req_t request, fuse_ino_t inode, fuse_file_info* info) {
    auto item = item_or_error(request, inode);
    if (!item) return;
    if (item->kind != Item::Kind::directory) {
      fuse_reply_err(request, ENOTDIR);
      return;
    }
    Operations& self = operations(request);
    auto directory = std::make_unique<Directory>();
    directory->entries = self.tree_.list(inode);
    directory->entries.insert(directory->entries.begin(), {{".", *item}, {"..", *item}});
    Directory* const opened = directory.release();
    info->fh = reinterpret_cast<uint64_t>(opened);
    // An asker that was killed meanwhile sends no release.
    if (fuse_reply_open(request, info) != 0) delete opened;
  }

  static void releasedir(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
    delete reinterpret_cast<Directory*>(info->fh);
    fuse_reply_err(request, 0);
  }

  static void list(fuse_req_t request, size_t size, off_t offset, fuse_file_info* info, bool plus) {
    const Operations& self = operations(request);
    const auto& entries = reinterpret_cast<const Directory*>(info->fh)->entries;
    std::vector<char> buffer(std::min<size_t>(size, 256 * KiB));
    size_t used = 0;
    for (auto i = static_cast<size_t>(std::max<off_t>(offset, 0)); i < entries.size(); ++i) {
      const fuse_entry_param param = entry(self, entries[i].item);
      const char* const name = entries[i].name.c_str();
      char* const at = buffer.data() + used;
      const size_t room = buffer.size() - used;
      const auto next = static_cast<off_t>(i + 1);
      const size_t needed = plus ? fuse_add_direntry_plus(request, at, room, name, &param, next)
                                 : fuse_add_direntry(request, at, room, name, &param.attr, next);
      if (needed > room) break;
      used += needed;
    }
    fuse_reply_buf(request, buffer.data(), used);
  }
  static void readdir(fuse_req_t request, fuse_ino_t, size_t size, off_t offset,
                      fuse_file_info* info) {
    list(request, size, offset, info, false);
  }
  static void readdirplus(fuse_req_t request, fuse_ino_t, size_t size, off_t offset,
                          fuse_file_info* info) {
    list(request, size, offset, info, true);
  }
  static void fsyncdir(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
    fuse_reply_err(request, 0);
  }

  static void statfs(fuse_req_t request, fuse_ino_t) { operations(request).statistics(request); }

  static void fallocate(fuse_req_t request, fuse_ino_t, int mode, off_t offset, off_t length,
                        fuse_file_info* info) {
    operations(request).allocate(request, *reinterpret_cast<File*>(info->fh), mode,
                                 static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
  }

  static void lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence,
                    fuse_file_info* info) {
    if (auto item = item_or_error(request, inode))
      operations(request).seek(request, *item, *reinterpret_cast<File*>(info->fh),
                               static_cast<uint64_t>(offset), whence);
  }

  // Only requests whose number tells the size of their argument get here with it: BLKSSZGET,
  // BLKPBSZGET and BLKROGET do not, so they cannot be answered.
  static void ioctl(fuse_req_t request, fuse_ino_t inode, unsigned command, void*, fuse_file_info*,
                    unsigned flags, const void*, size_t, size_t out_size) {
    auto item = item_or_error(request, inode);
    if (!item) return;
    if (!item->volume || (flags & FUSE_IOCTL_DIR) != 0 || command != BLKGETSIZE64 ||
        out_size < sizeof(uint64_t)) {
      fuse_reply_err(request, ENOTTY);
      return;
    }
    const uint64_t size = item->volume->size();
    fuse_reply_ioctl(request, 0, &size, sizeof size);
  }

  // What is in the directory is made by the definition and by volfs' own commands.
  static void refuse(fuse_req_t request) {
    fuse_reply_err(request, operations(request).options_.read_only ? EROFS : EPERM);
  }
  static void mknod(fuse_req_t r, fuse_ino_t, const char*, mode_t, dev_t) { refuse(r); }
  static void mkdir(fuse_req_t r, fuse_ino_t, const char*, mode_t) { refuse(r); }
  static void unlink(fuse_req_t r, fuse_ino_t, const char*) { refuse(r); }
  static void rmdir(fuse_req_t r, fuse_ino_t, const char*) { refuse(r); }
  static void symlink(fuse_req_t r, const char*, fuse_ino_t, const char*) { refuse(r); }
  static void rename(fuse_req_t r, fuse_ino_t, const char*, fuse_ino_t, const char*, unsigned) {
    refuse(r);
  }
  static void link(fuse_req_t r, fuse_ino_t, fuse_ino_t, const char*) { refuse(r); }
  static void create(fuse_req_t r, fuse_ino_t, const char*, mode_t, fuse_file_info*) { refuse(r); }
};

const fuse_lowlevel_ops& Operations::table() {
  static const fuse_lowlevel_ops operations = [] {
    fuse_lowlevel_ops ops{};
    ops.init = Calls::init;
    ops.lookup = Calls::lookup;
    ops.getattr = Calls::getattr;
    ops.setattr = Calls::setattr;
    ops.mknod = Calls::mknod;
    ops.mkdir = Calls::mkdir;
    ops.unlink = Calls::unlink;
    ops.rmdir = Calls::rmdir;
    ops.symlink = Calls::symlink;
    ops.rename = Calls::rename;
    ops.link = Calls::link;
    ops.create = Calls::create;
    ops.open = Calls::open;
    ops.release = Calls::release;
    ops.poll = Calls::poll;
    ops.opendir = Calls::opendir;
    ops.readdir = Calls::readdir;
    ops.readdirplus = Calls::readdirplus;
    ops.releasedir = Calls::releasedir;
    ops.fsyncdir = Calls::fsyncdir;
    ops.statfs = Calls::statfs;
    ops.ioctl = Calls::ioctl;
    ops.fallocate = Calls::fallocate;
    ops.lseek = Calls::lseek;
    return ops;
  }();
  return operations;
}

}  // namespace volfs::fuse
