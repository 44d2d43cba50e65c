// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/fault_device.h"

#include <bit>
#include <cerrno>
#include <vector>

#include "volfs/units.h"

namespace volfs::test {
namespace {

bool matches(const FaultRule& rule, FaultOp op, uint64_t offset, uint64_t length) {
  if ((static_cast<uint8_t>(rule.op) & static_cast<uint8_t>(op)) == 0) return false;
  return op == FaultOp::flush || (offset < rule.end && rule.begin < offset + length);
}

size_t index_of(FaultOp op) {
  return static_cast<size_t>(std::countr_zero(static_cast<uint8_t>(op)));
}

}  // namespace

FaultDevice::FaultDevice(BlockDevice& below, uint64_t seed)
    : BlockDevice(below.name(), below.size(), below.limits(), below.read_only()),
      below_(below),
      random_(seed) {}
FaultDevice::~FaultDevice() = default;

FaultDevice::RuleId FaultDevice::add(const FaultRule& rule) {
  const std::lock_guard lock(mutex_);
  rules_.push_back({.id = ++last_id_, .rule = rule});
  return last_id_;
}

void FaultDevice::remove(RuleId id) {
  const std::lock_guard lock(mutex_);
  std::erase_if(rules_, [id](const Entry& entry) { return entry.id == id; });
  changed_.notify_all();
}

void FaultDevice::remove_all() {
  const std::lock_guard lock(mutex_);
  rules_.clear();
  latent_.clear();
  gone_ = false;
  changed_.notify_all();
}

FaultDevice::RuleId FaultDevice::fail_nth(FaultOp op, uint64_t nth, int error) {
  return add({.op = op, .skip = nth, .times = 1, .error = error});
}

void FaultDevice::add_latent(uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  for (uint64_t at = round_down(offset, sector_size); at < offset + length; at += sector_size)
    latent_.insert(at);
}

void FaultDevice::heal(uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  latent_.erase(latent_.lower_bound(offset), latent_.lower_bound(offset + length));
}

void FaultDevice::vanish(bool gone) {
  const std::lock_guard lock(mutex_);
  gone_ = gone;
}

uint64_t FaultDevice::count(FaultOp op) const {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (size_t i = 0; i < 5; ++i)
    if ((static_cast<uint8_t>(op) >> i & 1) != 0) sum += counts_[i];
  return sum;
}

FaultDevice::Entry* FaultDevice::find(RuleId id) {
  for (Entry& entry : rules_)
    if (entry.id == id) return &entry;
  return nullptr;
}

uint64_t FaultDevice::hits(RuleId id) const {
  const std::lock_guard lock(mutex_);
  const Entry* entry = const_cast<FaultDevice*>(this)->find(id);
  return entry ? entry->hits : 0;
}

// Collects what is to happen, and waits for it where a rule says so.
FaultDevice::Verdict FaultDevice::judge(FaultOp op, uint64_t offset, uint64_t length,
                                        std::set<std::pair<uint64_t, uint8_t>>& flips) {
  Verdict verdict;
  std::vector<RuleId> hangs;
  std::unique_lock lock(mutex_);
  ++counts_[index_of(op)];
  for (Entry& entry : rules_) {
    const FaultRule& rule = entry.rule;
    if (!matches(rule, op, offset, length)) continue;
    if (entry.matched++ < rule.skip || entry.hits >= rule.times || !random_.one_in(rule.one_in))
      continue;
    ++entry.hits;
    verdict.delay += rule.delay;
    if (rule.hang) hangs.push_back(entry.id);
    if (verdict.error == 0 && rule.error != 0) {
      verdict.error = rule.error;
      verdict.torn = rule.torn;
    }
    verdict.lost |= rule.lost;
    if (rule.redirect) verdict.redirect = rule.redirect;
    if (rule.flip_offset && *rule.flip_offset >= offset && *rule.flip_offset < offset + length)
      flips.emplace(*rule.flip_offset - offset, rule.flip_bit);
  }
  if (verdict.delay.count() > 0) {
    lock.unlock();
    sleep_for(verdict.delay);
    lock.lock();
  }
  for (const RuleId id : hangs) changed_.wait(mutex_, [&] { return find(id) == nullptr; });
  if (op == FaultOp::read && verdict.error == 0) {
    const auto bad = latent_.lower_bound(offset);
    if (bad != latent_.end() && *bad < offset + length) verdict.error = EIO;
  }
  if (gone_) {
    verdict.error = ENXIO;
    verdict.torn = 0;
  }
  return verdict;
}

Status FaultDevice::do_read(uint64_t offset, IoSpan iov) {
  std::set<std::pair<uint64_t, uint8_t>> flips;
  const Verdict verdict = judge(FaultOp::read, offset, total_length(iov), flips);
  if (verdict.error != 0) return fail_sys(verdict.error, "");
  VOLFS_TRY(below_.read(verdict.redirect.value_or(offset), iov));
  for (const auto& [at, bit] : flips)
    for_each_slice(iov, at, 1, [bit = bit](iovec piece) {
      *static_cast<uint8_t*>(piece.iov_base) ^= static_cast<uint8_t>(1U << bit);
    });
  return {};
}

Status FaultDevice::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  std::set<std::pair<uint64_t, uint8_t>> flips;
  const uint64_t length = total_length(iov);
  const Verdict verdict = judge(FaultOp::write, offset, length, flips);
  if (verdict.lost && verdict.error == 0) return {};
  if (verdict.error != 0 && verdict.torn == 0) return fail_sys(verdict.error, "");
  // The caller's memory is not ours to spoil.
  std::vector<std::byte> bytes(length);
  copy_from_slices(iov, 0, bytes);
  for (const auto& [at, bit] : flips) bytes[at] ^= static_cast<std::byte>(1U << bit);
  if (verdict.error != 0) bytes.resize(std::min(verdict.torn, length));
  const uint64_t target = verdict.redirect.value_or(offset);
  VOLFS_TRY(below_.write(target, bytes, fua));
  heal(target, bytes.size());
  if (verdict.error != 0) return fail_sys(verdict.error, "");
  return {};
}

Status FaultDevice::do_discard(uint64_t offset, uint64_t length) {
  std::set<std::pair<uint64_t, uint8_t>> flips;
  const Verdict verdict = judge(FaultOp::discard, offset, length, flips);
  if (verdict.error != 0) return fail_sys(verdict.error, "");
  return verdict.lost ? Status{} : below_.discard(offset, length);
}

Status FaultDevice::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  std::set<std::pair<uint64_t, uint8_t>> flips;
  const Verdict verdict = judge(FaultOp::write_zeroes, offset, length, flips);
  if (verdict.error != 0) return fail_sys(verdict.error, "");
  if (verdict.lost) return {};
  VOLFS_TRY(below_.write_zeroes(offset, length, unmap));
  heal(offset, length);
  return {};
}

Status FaultDevice::do_flush() {
  std::set<std::pair<uint64_t, uint8_t>> flips;
  const Verdict verdict = judge(FaultOp::flush, 0, 0, flips);
  if (verdict.error != 0) return fail_sys(verdict.error, "");
  return verdict.lost ? Status{} : below_.flush();
}

Result<Allocation> FaultDevice::do_allocation(uint64_t offset, uint64_t length) {
  return below_.allocation(offset, length);
}

Service FaultDevice::do_service(Op) const {
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : rules_)
    if (entry.rule.hang || entry.rule.delay.count() > 0) return Service::blocking;
  return Service::inline_;
}

void FaultDevice::do_for_each_below(const Visit& visit) const {
  visit(below_);
}

}  // namespace volfs::test
