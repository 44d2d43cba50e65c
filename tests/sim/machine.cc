// SPDX-License-Identifier: GPL-2.0-or-later
#include "machine.h"

#include <cerrno>
#include <utility>

#include "volfs/backing/image.h"

namespace volfs::sim {
namespace {

// A disk as the engine opens it: for as long as it wants it.
class Opened final : public BlockDevice {
 public:
  Opened(std::string name, BlockDevice& disk, bool read_only)
      : BlockDevice(std::move(name), disk.size(), disk.limits(), read_only), disk_(disk) {}

 private:
  Status do_read(uint64_t offset, IoSpan iov) override { return disk_.read(offset, iov); }
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override {
    return disk_.write(offset, iov, fua);
  }
  Status do_discard(uint64_t offset, uint64_t length) override {
    return disk_.discard(offset, length);
  }
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override {
    return disk_.write_zeroes(offset, length, unmap);
  }
  Result<Allocation> do_allocation(uint64_t offset, uint64_t length) override {
    return disk_.allocation(offset, length);
  }
  Status do_flush() override { return disk_.flush(); }
  Service do_service(Op op) const override { return disk_.service(op); }

  BlockDevice& disk_;
};

}  // namespace

void Machine::plug_in(const test::MemoryDevice& content) {
  Disk disk;
  disk.below = std::make_unique<test::CrashDevice>(*log_, content.name(), content);
  disk.faults = std::make_unique<test::FaultDevice>(*disk.below, disks_.size());
  disks_.push_back(std::move(disk));
}

void Machine::add_disk(const std::string& name, uint64_t size) {
  plug_in(test::MemoryDevice(name, size));
}

engine::OpenImage Machine::open_image() {
  return [this](const std::string& name, const std::string&,
                const ImageOptions& options) -> Result<std::unique_ptr<BlockDevice>> {
    for (const Disk& disk : disks_)
      if (disk.faults->name() == name)
        return std::make_unique<Opened>(name, *disk.faults, options.read_only);
    return fail(Error::make(ENOENT, "there is no disk " + name));
  };
}

test::FaultDevice& Machine::disk(std::string_view name) {
  for (const Disk& disk : disks_)
    if (disk.faults->name() == name) return *disk.faults;
  std::abort();
}

void Machine::heal() {
  for (const Disk& disk : disks_) disk.faults->remove_all();
}

Machine::Contents Machine::cut(size_t position, test::Random& random,
                               const std::function<bool(BlockDevice&)>& good) const {
  Contents contents;
  for (const Disk& disk : disks_) {
    std::unique_ptr<test::MemoryDevice> after;
    do {
      after = std::make_unique<test::MemoryDevice>(disk.below->name(), disk.below->size());
      log_->materialise(*disk.below, position, test::CrashKeep::some(random.next()), *after);
    } while (!good(*after));
    contents.push_back(std::move(after));
  }
  return contents;
}

void Machine::start_with(const Contents& contents) {
  disks_.clear();
  log_ = std::make_unique<test::CrashLog>();
  for (const auto& content : contents) plug_in(*content);
}

}  // namespace volfs::sim
