// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/crash_device.h"

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <span>
#include <utility>

#include "support/random.h"
#include "volfs/units.h"

namespace volfs::test {
namespace {

void apply(const CrashRecord& record, uint64_t from, uint64_t length, MemoryDevice& out) {
  if (record.kind == CrashRecord::Kind::write)
    out.poke(record.offset + from, std::span(record.bytes).subspan(from, length));
  else
    out.poke_zeros(record.offset + from, length);
}

// Of a request that no flush covers, keeps nothing, all, a prefix, or any of its sectors.
void apply_some(const CrashRecord& record, Random& random, MemoryDevice& out) {
  const uint64_t sectors = record.length / sector_size;
  switch (random.below(4)) {
    case 0:
      return;
    case 1:
      return apply(record, 0, record.length, out);
    case 2:
      return apply(record, 0, random.below(sectors + 1) * sector_size, out);
    default:
      for (uint64_t i = 0; i < sectors; ++i)
        if (random.one_in(2)) apply(record, i * sector_size, sector_size, out);
  }
}

bool changes(const CrashRecord& record) {
  return record.kind != CrashRecord::Kind::flush && record.kind != CrashRecord::Kind::mark;
}

}  // namespace

size_t CrashLog::size() const {
  const std::lock_guard lock(mutex_);
  return records_.size();
}

void CrashLog::add(CrashRecord record) {
  const std::lock_guard lock(mutex_);
  records_.push_back(std::move(record));
}

size_t CrashLog::mark(std::string text) {
  add({.kind = CrashRecord::Kind::mark, .text = std::move(text)});
  return size();
}

void CrashLog::restart() {
  const std::lock_guard lock(mutex_);
  records_.clear();
  for (CrashDevice* device : devices_) device->start_.copy_from(device->now_);
}

// The point up to which the device's records are durable because a flush was completed.
size_t CrashLog::durable_before(const CrashDevice& device, size_t point) const {
  size_t durable = 0;
  for (size_t i = 0; i < point; ++i)
    if (records_[i].kind == CrashRecord::Kind::flush && records_[i].device == &device)
      durable = std::max(durable, records_[i].begun);
  return durable;
}

void CrashLog::materialise(const CrashDevice& device, size_t point, CrashKeep keep,
                           MemoryDevice& out) const {
  const std::lock_guard lock(mutex_);
  out.copy_from(device.start_);
  const size_t durable = durable_before(device, point);
  // What began at the point itself was under way when the power went, but not after a mark: that
  // is a moment when the test knows what was asked for.
  const bool marked = point > 0 && records_[point - 1].kind == CrashRecord::Kind::mark;
  const size_t begun_by = marked ? point - 1 : point;
  Random random(keep.seed);
  for (size_t i = 0; i < records_.size(); ++i) {
    const CrashRecord& record = records_[i];
    if (record.device != &device || !changes(record)) continue;
    if (i < point && (i < durable || record.fua || keep.kind == CrashKeep::Kind::all)) {
      apply(record, 0, record.length, out);
    } else if (keep.kind == CrashKeep::Kind::some && (i < point || record.begun <= begun_by)) {
      apply_some(record, random, out);
    }
  }
}

CrashDevice::CrashDevice(CrashLog& log, std::string name, uint64_t size)
    : BlockDevice(std::move(name), size), log_(log), start_("start", size), now_("now", size) {
  const std::lock_guard lock(log_.mutex_);
  log_.devices_.push_back(this);
}

CrashDevice::CrashDevice(CrashLog& log, std::string name, const MemoryDevice& start)
    : CrashDevice(log, std::move(name), start.size()) {
  start_.copy_from(start);
  now_.copy_from(start);
}

CrashDevice::~CrashDevice() {
  const std::lock_guard lock(log_.mutex_);
  std::erase(log_.devices_, this);
}

Status CrashDevice::do_read(uint64_t offset, IoSpan iov) {
  return now_.read(offset, iov);
}

// What is recorded becomes readable at the same moment, so that the log's order is the order
// of overlapping requests, too.
Status CrashDevice::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  CrashRecord record{.device = this,
                     .kind = CrashRecord::Kind::write,
                     .fua = fua == Fua::yes,
                     .offset = offset,
                     .length = total_length(iov),
                     .begun = log_.size()};
  record.bytes.resize(record.length);
  copy_from_slices(iov, 0, record.bytes);
  const std::lock_guard lock(log_.mutex_);
  VOLFS_TRY(now_.write(offset, iov, fua));
  log_.records_.push_back(std::move(record));
  return {};
}

Status CrashDevice::do_discard(uint64_t offset, uint64_t length) {
  CrashRecord record{.device = this,
                     .kind = CrashRecord::Kind::discard,
                     .offset = offset,
                     .length = length,
                     .begun = log_.size()};
  const std::lock_guard lock(log_.mutex_);
  VOLFS_TRY(now_.discard(offset, length));
  log_.records_.push_back(std::move(record));
  return {};
}

Status CrashDevice::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  CrashRecord record{.device = this,
                     .kind = CrashRecord::Kind::write_zeroes,
                     .offset = offset,
                     .length = length,
                     .begun = log_.size()};
  const std::lock_guard lock(log_.mutex_);
  VOLFS_TRY(now_.write_zeroes(offset, length, unmap));
  log_.records_.push_back(std::move(record));
  return {};
}

Status CrashDevice::do_flush() {
  CrashRecord record{
      .device = this, .kind = CrashRecord::Kind::flush, .length = 0, .begun = log_.size()};
  VOLFS_TRY(now_.flush());
  log_.add(std::move(record));
  return {};
}

Result<Allocation> CrashDevice::do_allocation(uint64_t offset, uint64_t length) {
  return now_.allocation(offset, length);
}

Service CrashDevice::do_service(Op) const {
  return Service::inline_;
}

}  // namespace volfs::test
