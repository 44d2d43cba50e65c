// SPDX-License-Identifier: GPL-2.0-or-later
// dust <device> <start sector> <block bytes>: a linear range with bad blocks, as a disk has them:
// reading one fails, writing it heals it (after it failed a given number of times). Messages:
//   addbadblock <block> [<writes that fail>], removebadblock <block>, queryblock <block>,
//   countbadblocks, listbadblocks, clearbadblocks, enable, disable, quiet
// Blocks are counted from the beginning of the device below, not of the range. As in the kernel,
// a request is cut at the target's multiples of the block size and each piece counts for the
// block in which it begins; a discard counts for its first block only, and a flush, unlike in the
// kernel, for none.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <optional>

#include "../args.h"
#include "targets.h"
#include "volfs/io_batch.h"
#include "volfs/log.h"
#include "volfs/sync.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

constexpr uint64_t max_block = uint64_t{2097152} * sector_size;

class Dust final : public Target {
 public:
  Dust(const TargetContext& context, BlockDevice& below, uint64_t offset, uint32_t block)
      : Target(dust_type, context), below_(below), offset_(offset), block_(block) {
    inherit_limits();
  }
  std::string table_params() const override {
    return fmt::format("{} {} {}", device_word(below_), offset_ / sector_size, block_);
  }
  std::string status_params() const override;
  Result<std::string> message(Args args) override;
  void for_each_range(const VisitRange& visit) const override { visit(below_, offset_, size()); }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  Status do_write(uint64_t offset, IoSpan iov, Fua fua) override;
  Status do_discard(uint64_t offset, uint64_t length) override;
  Status do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override;

  uint64_t block_of(uint64_t offset) const { return (offset_ + offset) / block_; }
  // The length of the piece that begins at OFFSET.
  uint64_t piece_at(uint64_t offset, uint64_t length) const {
    return std::min(length, block_ - offset % block_);
  }
  uint64_t good_length(uint64_t offset, uint64_t length);
  void map_writing(Op op, uint64_t offset, uint64_t length, Mapping& out);
  bool write_fails(uint64_t block);

  Result<std::string> say(const std::string& word);
  Result<std::string> change(const std::string& word, uint64_t block, uint8_t failing_writes);
  void update_active() { active_.store(enabled_ && !bad_.empty(), std::memory_order_release); }

  BlockDevice& below_;
  const uint64_t offset_;
  const uint64_t block_;
  std::atomic<bool> active_{false};  // whether a block could be bad, so that most need no lock
  mutable Mutex mutex_;              // guards all below
  bool enabled_ = false;
  bool quiet_ = false;
  std::map<uint64_t, uint8_t> bad_;  // block -> how many writes will fail
};

// How much of the range, from its beginning, touches no bad block.
uint64_t Dust::good_length(uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  if (!enabled_) return length;
  if (bad_.contains(block_of(offset))) return 0;
  const uint64_t first = piece_at(offset, length);
  if (first == length) return length;
  // From here on pieces are whole and lie one block apart.
  const uint64_t block = block_of(offset + first);
  const auto next = bad_.lower_bound(block);
  if (next == bad_.end()) return length;
  return std::min(first + (next->first - block) * block_, length);
}

bool Dust::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  if (!active_.load(std::memory_order_acquire))
    return below_.map(op, offset_ + offset, length, wait, out);
  if (op != Op::read) {
    const uint64_t tested = op == Op::discard ? piece_at(offset, length) : length;
    if (good_length(offset, tested) == tested)
      return below_.map(op, offset_ + offset, length, wait, out);
    out.add(*this, offset, length);
    return true;
  }
  while (length > 0) {
    const uint64_t good = good_length(offset, length);
    if (good > 0 && !below_.map(op, offset_ + offset, good, wait, out)) return false;
    offset += good;
    length -= good;
    const uint64_t bad = length > 0 ? piece_at(offset, length) : 0;
    out.add_error(EIO, bad);
    offset += bad;
    length -= bad;
  }
  return true;
}

// Counts a write of the block. A bad one fails, or is healed.
bool Dust::write_fails(uint64_t block) {
  const std::lock_guard lock(mutex_);
  const auto found = enabled_ ? bad_.find(block) : bad_.end();
  if (found == bad_.end()) return false;
  if (found->second > 0) {
    --found->second;
    return true;
  }
  bad_.erase(found);
  update_active();
  if (!quiet_)
    log_info("{}: dust: block {} removed from badblocklist by write", below_.name(), block);
  return false;
}

void Dust::map_writing(Op op, uint64_t offset, uint64_t length, Mapping& out) {
  while (length > 0) {
    const uint64_t piece = piece_at(offset, length);
    if (write_fails(block_of(offset)))
      out.add_error(EIO, piece);
    else
      below_.map(op, offset_ + offset, piece, Wait::yes, out);
    offset += piece;
    length -= piece;
  }
}

Status Dust::do_write(uint64_t offset, IoSpan iov, Fua fua) {
  Mapping mapping;
  map_writing(Op::write, offset, total_length(iov), mapping);
  IoBatch batch;
  batch.transfer(Op::write, mapping, iov, fua);
  return batch.run();
}

Status Dust::do_write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) {
  Mapping mapping;
  map_writing(Op::write_zeroes, offset, length, mapping);
  Status first;
  for (const Extent& extent : mapping.extents()) {
    Status status;
    if (extent.kind == Extent::Kind::error) status = fail_sys(extent.error, "");
    if (extent.kind == Extent::Kind::device)
      status = extent.device->write_zeroes(extent.offset, extent.length, unmap);
    if (!status && first) first = std::move(status);
  }
  return first;
}

Status Dust::do_discard(uint64_t offset, uint64_t length) {
  if (write_fails(block_of(offset))) return fail_sys(EIO, "");
  return below_.discard(offset_ + offset, length);
}

std::string Dust::status_params() const {
  const std::lock_guard lock(mutex_);
  return fmt::format("{} {} {}", device_word(below_),
                     enabled_ ? "fail_read_on_bad_block" : "bypass", quiet_ ? "quiet" : "verbose");
}

// The messages without arguments.
Result<std::string> Dust::say(const std::string& word) {
  const std::lock_guard lock(mutex_);
  if (same_word(word, "enable") || same_word(word, "disable")) {
    enabled_ = same_word(word, "enable");
    update_active();
    return "";
  }
  if (same_word(word, "quiet")) {
    quiet_ = !quiet_;
    return "";
  }
  if (same_word(word, "countbadblocks"))
    return fmt::format("countbadblocks: {} badblock(s) found", bad_.size());
  if (same_word(word, "clearbadblocks")) {
    const bool none = bad_.empty();
    bad_.clear();
    update_active();
    return none ? "dust_clear_badblocks: no badblocks found"
                : "dust_clear_badblocks: badblocks cleared";
  }
  if (same_word(word, "listbadblocks")) {
    if (bad_.empty()) return "No blocks in badblocklist";
    std::string list;
    for (const auto& [block, writes] : bad_) list += fmt::format("{}\n", block);
    return list;
  }
  for (const char* name : {"addbadblock", "removebadblock", "queryblock"})
    if (same_word(word, name))
      return fail_invalid(fmt::format("message {}: expected the number of a block", name));
  return fail(bad_arg("message", word,
                      "addbadblock, removebadblock, queryblock, countbadblocks, listbadblocks, "
                      "clearbadblocks, enable, disable or quiet"));
}

Result<std::string> Dust::change(const std::string& word, uint64_t block, uint8_t failing_writes) {
  const std::lock_guard lock(mutex_);
  if (same_word(word, "queryblock"))
    return fmt::format("dust_query_block: block {} {}found in badblocklist", block,
                       bad_.contains(block) ? "" : "not ");
  if (same_word(word, "addbadblock")) {
    if (!bad_.emplace(block, failing_writes).second)
      return fail_invalid(fmt::format("addbadblock: block {} is in the list already", block));
  } else if (bad_.erase(block) == 0) {
    return fail_invalid(fmt::format("removebadblock: block {} is not in the list", block));
  }
  update_active();
  return "";
}

Result<std::string> Dust::message(Args args) {
  if (args.size() == 1) return say(args[0]);
  const bool adds = same_word(args[0], "addbadblock");
  const bool takes_block =
      adds || same_word(args[0], "removebadblock") || same_word(args[0], "queryblock");
  if (!takes_block || args.size() > (adds ? 3u : 2u))
    return fail(bad_arg("message", args[0],
                        "addbadblock <block> [<writes>], removebadblock <block> or queryblock "
                        "<block>, or a message without arguments"));
  // The kernel lets the number of blocks itself pass, too.
  const uint64_t blocks = below_.size() / block_;
  const auto block = parse_u64(args[1]);
  if (!block || *block > blocks)
    return fail(bad_arg("block", args[1], fmt::format("a number from 0 to {}", blocks)));
  uint32_t failing_writes = 0;
  if (args.size() == 3) {
    VOLFS_TRY_ASSIGN(failing_writes, u32_arg("writes that fail", args[2], 0, 255));
  }
  return change(args[0], *block, static_cast<uint8_t>(failing_writes));
}

Result<std::unique_ptr<Target>> create_dust(const TargetContext& context, Args args) {
  if (args.size() != 3) return fail(bad_count(args, "<device> <start sector> <block bytes>"));
  VOLFS_TRY_ASSIGN(const uint32_t block, signed_u32_arg("block bytes", args[2]));
  const uint64_t most = std::min(context.length, max_block);
  if (block < sector_size || !is_power_of_two(block) || block > most)
    return fail(
        bad_arg("block bytes", args[2], fmt::format("a power of two from 512 to {}", most)));
  VOLFS_TRY_ASSIGN(const uint64_t offset, sector_arg("start sector", args[1]));
  VOLFS_TRY_ASSIGN(BlockDevice* const below, device_arg(context, args[0]));
  return std::make_unique<Dust>(context, *below, offset, block);
}

std::vector<size_t> dust_devices(Args) {
  return {0};
}

}  // namespace

const TargetType dust_type = {
    .name = "dust",
    .version = {1, 0, 0},
    .create = create_dust,
    .device_args = dust_devices,
};

}  // namespace volfs::dm
