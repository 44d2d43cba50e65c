// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/block_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <numeric>
#include <optional>
#include <utility>

#include "volfs/io_batch.h"
#include "volfs/units.h"

namespace volfs {
namespace {

std::atomic<TraceSink*> trace_sink{nullptr};

const char* op_name(Op op) {
  switch (op) {
    case Op::read:
      return "read";
    case Op::write:
      return "write";
    case Op::discard:
      return "discard";
    case Op::write_zeroes:
      return "write zeroes";
  }
  return "?";
}

std::string place(const char* what, uint64_t offset, uint64_t length) {
  return length == 0 && offset == 0 ? what : fmt::format("{} {} at {}", what, length, offset);
}

}  // namespace

void set_trace_sink(TraceSink* sink) {
  trace_sink.store(sink);
}

Limits Limits::stack(const Limits& a, const Limits& b) {
  Limits both;
  both.logical_block = std::max(a.logical_block, b.logical_block);
  both.physical_block = std::max(a.physical_block, b.physical_block);
  both.io_min = std::max(a.io_min, b.io_min);
  both.io_opt =
      a.io_opt == 0 || b.io_opt == 0 ? std::max(a.io_opt, b.io_opt) : std::lcm(a.io_opt, b.io_opt);
  both.discard_granularity = a.discard_granularity == 0 || b.discard_granularity == 0
                                 ? 0
                                 : std::max(a.discard_granularity, b.discard_granularity);
  return both;
}

BlockDevice::BlockDevice(std::string name, uint64_t size, const Limits& limits, bool read_only)
    : name_(std::move(name)),
      limits_(limits),
      size_(size),
      logical_block_(limits.logical_block),
      read_only_(read_only) {}

BlockDevice::~BlockDevice() = default;

std::string BlockDevice::name() const {
  const std::lock_guard lock(mutex_);
  return name_;
}

void BlockDevice::set_name(std::string name) {
  const std::lock_guard lock(mutex_);
  name_ = std::move(name);
}

void BlockDevice::set_limits(const Limits& limits) {
  const std::lock_guard lock(mutex_);
  limits_ = limits;
  logical_block_.store(limits.logical_block, std::memory_order_relaxed);
}

Limits BlockDevice::do_limits() const {
  const std::lock_guard lock(mutex_);
  return limits_;
}

Status BlockDevice::check(Op op, uint64_t offset, uint64_t length) const {
  if (!range_within(offset, length, size()))
    return fail_invalid(fmt::format("{}: {} {} at {}: beyond the end at {}", name(), op_name(op),
                                    length, offset, size()));
  const uint32_t block = logical_block();
  if (((offset | length) & (block - 1)) != 0)
    return fail_invalid(fmt::format("{}: {} {} at {}: not a multiple of the logical block size {}",
                                    name(), op_name(op), length, offset, block));
  if (op != Op::read && read_only())
    return fail_sys(EROFS, fmt::format("{}: {} {} at {}", name(), op_name(op), length, offset));
  return {};
}

// Puts the place in front of an error of a hook and tells the trace.
Status BlockDevice::checked(Status result, const char* what, uint64_t offset, uint64_t length) {
  if (!result) [[unlikely]] {
    Error error = std::move(result.error());
    // An error that says nothing but the errno began here: say what was tried.
    if (error.text() == Error::sys(error.code(), "").text())
      error = Error::sys(error.code(), place(what, offset, length));
    result = fail(std::move(error).in(name()));
  }
  if (TraceSink* sink = trace_sink.load(std::memory_order_relaxed)) [[unlikely]]
    sink->done(*this, what, offset, length, result);
  return result;
}

Status BlockDevice::read(uint64_t offset, IoSpan iov) {
  const uint64_t length = total_length(iov);
  VOLFS_TRY(check(Op::read, offset, length));
  if (length == 0) return {};
  return checked(do_read(offset, iov), "read", offset, length);
}

bool BlockDevice::read_cached(uint64_t offset, IoSpan iov) {
  const uint64_t length = total_length(iov);
  const uint64_t mask = logical_block() - 1;
  if (length == 0 || !range_within(offset, length, size()) || ((offset | length) & mask) != 0)
    return false;  // read() says why
  if (!do_read_cached(offset, iov)) return false;
  if (trace_sink.load(std::memory_order_relaxed)) (void)checked({}, "read", offset, length);
  return true;
}

Status BlockDevice::write(uint64_t offset, IoSpan iov, Fua fua) {
  const uint64_t length = total_length(iov);
  VOLFS_TRY(check(Op::write, offset, length));
  if (length == 0) return {};
  return checked(do_write(offset, iov, fua), "write", offset, length);
}

Status BlockDevice::flush() {
  return checked(do_flush(), "flush", 0, 0);
}

Status BlockDevice::discard(uint64_t offset, uint64_t length) {
  VOLFS_TRY(check(Op::discard, offset, length));
  if (length == 0) return {};
  return checked(do_discard(offset, length), "discard", offset, length);
}

Status BlockDevice::write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  VOLFS_TRY(check(Op::write_zeroes, offset, length));
  if (length == 0) return {};
  return checked(do_write_zeroes(offset, length, unmap), "write zeroes", offset, length);
}

Result<Allocation> BlockDevice::allocation(uint64_t offset, uint64_t length) {
  VOLFS_TRY(check(Op::read, offset, length));
  auto result = in(name(), do_allocation(offset, length));
  if (result) result->length = std::min(result->length, length);
  return result;
}

bool BlockDevice::map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  const uint64_t size = this->size();
  const uint64_t inside = offset >= size ? 0 : std::min(length, size - offset);
  if (op != Op::read && read_only()) {
    out.add_error(EROFS, length);
    return true;
  }
  if (inside > 0 && !do_map(op, offset, inside, wait, out)) return false;
  out.add_error(EIO, length - inside);
  return true;
}

bool BlockDevice::do_map(Op, uint64_t offset, uint64_t length, Wait, Mapping& out) {
  out.add(*this, offset, length);
  return true;
}

Status BlockDevice::do_read(uint64_t offset, IoSpan iov) {
  const auto read = [&](Care care) -> Status {
    Mapping mapping(care);
    do_map(Op::read, offset, total_length(iov), Wait::yes, mapping);
    IoBatch batch;
    batch.transfer(Op::read, mapping, iov);
    return batch.run();
  };
  if (read(Care::no)) return {};
  return read(Care::yes);
}

Status BlockDevice::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  Mapping mapping;
  do_map(Op::write, offset, total_length(iov), Wait::yes, mapping);
  IoBatch batch;
  batch.transfer(Op::write, mapping, iov, fua);
  return batch.run();
}

namespace {

// Carries out an operation without data on each extent; the first error is kept, the rest done.
template <class Act>
Status on_extents(const Mapping& mapping, Act act) {
  Status first;
  for (const Extent& extent : mapping.extents()) {
    Status status;
    if (extent.kind == Extent::Kind::error) status = fail_sys(extent.error, "");
    if (extent.kind == Extent::Kind::device) status = act(extent);
    if (!status && first) first = std::move(status);
  }
  return first;
}

}  // namespace

Status BlockDevice::do_discard(uint64_t offset, uint64_t length) {
  Mapping mapping(Order::any);
  do_map(Op::discard, offset, length, Wait::yes, mapping);
  return on_extents(mapping, [](const Extent& extent) {
    return extent.device->discard(extent.offset, extent.length);
  });
}

Status BlockDevice::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  Mapping mapping(Order::any);
  do_map(Op::write_zeroes, offset, length, Wait::yes, mapping);
  return on_extents(mapping, [unmap](const Extent& extent) {
    return extent.device->write_zeroes(extent.offset, extent.length, unmap);
  });
}

Result<Allocation> BlockDevice::allocation_of(const Extent& extent) const {
  switch (extent.kind) {
    case Extent::Kind::device:
      if (extent.device != this) return extent.device->allocation(extent.offset, extent.length);
      break;
    case Extent::Kind::zero:
      return Allocation{.data = false, .length = extent.length};
    case Extent::Kind::error:
      break;
  }
  return Allocation{.data = true, .length = extent.length};
}

// Appends to SUM what is known of the range from OFFSET on; false if it is not all alike, and
// alike with what is there.
Result<bool> BlockDevice::add_alike(uint64_t offset, uint64_t length, size_t& seen,
                                    Allocation& sum) {
  Mapping mapping(Order::any);
  do_map(Op::read, offset, length, Wait::yes, mapping);
  const auto extents = mapping.extents();
  seen += extents.size();
  std::optional<bool> data;
  if (sum.length > 0) data = sum.data;
  for (const Extent& extent : extents) {
    VOLFS_TRY_ASSIGN(const Allocation part, allocation_of(extent));
    if (data.value_or(part.data) != part.data) return false;
    if (part.length < extent.length) {
      if (extents.size() > 1) return false;
      length = part.length;
    }
    data = part.data;
  }
  sum = {.data = data.value_or(true), .length = sum.length + length};
  return true;
}

// As before, of a window whose bytes are not alike: up to the first change.
Status BlockDevice::add_in_order(uint64_t offset, uint64_t length, Allocation& sum) {
  Mapping mapping;
  do_map(Op::read, offset, length, Wait::yes, mapping);
  for (const Extent& extent : mapping.extents()) {
    VOLFS_TRY_ASSIGN(const Allocation part, allocation_of(extent));
    if (sum.length > 0 && part.data != sum.data) break;
    sum = {.data = part.data, .length = sum.length + part.length};
    if (part.length < extent.length) break;
  }
  return {};
}

// In windows: they grow as long as all in one is alike and it takes few extents to tell, for the
// mapping of a large range of a long table would be longer than any memory. Ends after so many
// extents with what is known by then.
Result<Allocation> BlockDevice::do_allocation(uint64_t offset, uint64_t length) {
  constexpr uint64_t smallest = 64 * KiB, growth = 4;
  constexpr size_t few = 64, most_extents = 1024;
  Allocation sum{.data = true, .length = 0};
  uint64_t window = smallest;
  for (size_t seen = 0; sum.length < length && seen < most_extents;) {
    const uint64_t before = sum.length, seen_before = seen;
    const uint64_t part = std::min(window, length - before);
    const auto alike = add_alike(offset + before, part, seen, sum);
    if (alike && *alike) {
      if (sum.length - before < part) break;
      if (seen - seen_before <= few) window = window < length / growth ? window * growth : length;
    } else if (window > smallest) {
      window = round_down(std::max(smallest, window / growth), smallest);
    } else {
      // An image that was cut off has an answer up to its end.
      auto added = add_in_order(offset + before, part, sum);
      if (!added && sum.length == 0) return fail(std::move(added.error()));
      break;
    }
  }
  return sum;
}

Status BlockDevice::do_flush() {
  IoBatch batch;
  for_each_below([&batch](BlockDevice& below) { batch.flush(below); });
  return batch.run();
}

Service BlockDevice::do_service(Op op) const {
  Service worst = Service::inline_;
  for_each_below([&](BlockDevice& below) {
    if (below.service(op) != Service::inline_) worst = Service::blocking;
  });
  return worst;
}

void BlockDevice::do_for_each_below(const Visit&) const {}

}  // namespace volfs
