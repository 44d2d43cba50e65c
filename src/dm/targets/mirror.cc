// SPDX-License-Identifier: GPL-2.0-or-later
// mirror core <1 or 2> <region sectors> [sync|nosync] <legs> (<device> <start sector>)... [...]
// mirror disk <2 or 3> <log device> <region sectors> [sync|nosync] <legs> (<device> ...)... [...]
//
// The mirror of lvm2's older days, and of pvmove. Arguments, table and status are those of Linux's
// drivers/md/dm-raid1.c and dm-log.c. Nothing depends on its features, handle_errors and keep_log:
// a leg that fails is always left out, and no write counts that the log cannot tell of.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "../args.h"
#include "array_target.h"
#include "targets.h"
#include "volfs/md/mirror_log.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

constexpr std::string_view mirror_form =
    "core|disk <number of log arguments> <log argument>... <legs> (<device> <start sector>)... "
    "[<number of features> handle_errors [keep_log]]";
constexpr uint32_t most_legs = 9;

// What the table says, before any device is looked at.
struct MirrorArgs {
  std::string log;  // "": in memory
  uint64_t region_size = 0;
  std::string sync;  // "", sync or nosync
  Args legs;         // devices and places in turn
  bool handle_errors = false, keep_log = false;
};

// The log; how many words it took.
Result<size_t> read_log_args(Args args, MirrorArgs& out) {
  if (args[0] != "core" && args[0] != "disk")
    return fail(bad_arg("log type", args[0], "core or disk"));
  const uint32_t least = args[0] == "disk" ? 2 : 1;
  VOLFS_TRY_ASSIGN(const uint32_t count,
                   u32_arg("number of log arguments", args[1], least, least + 1));
  if (args.size() < 2 + size_t{count}) return fail(bad_count(args, mirror_form));
  if (args[0] == "disk") out.log = args[2];
  const std::string& region = args[1 + least];
  VOLFS_TRY_ASSIGN(out.region_size, sector_arg("region sectors", region));
  if (count > least) out.sync = args[2 + least];
  if (count > least && out.sync != "sync" && out.sync != "nosync")
    return fail(bad_arg("log argument", out.sync, "sync or nosync"));
  return 2 + size_t{count};
}

Status read_mirror_features(Args words, MirrorArgs& out) {
  if (words.empty()) return {};
  VOLFS_TRY_ASSIGN(const uint32_t count, u32_arg("number of features", words[0], 0, 2));
  if (words.size() != 1 + size_t{count})
    return fail(bad_count(words, fmt::format("{} after the number of features", count)));
  for (const std::string& word : words.subspan(1)) {
    if (word != "handle_errors" && word != "keep_log")
      return fail(bad_arg("feature", word, "handle_errors or keep_log"));
    (word == "keep_log" ? out.keep_log : out.handle_errors) = true;
  }
  if (out.keep_log && !out.handle_errors) return fail_invalid("keep_log needs handle_errors");
  return {};
}

Result<MirrorArgs> read_mirror_args(Args args) {
  if (args.size() < 4) return fail(bad_count(args, mirror_form));
  MirrorArgs out;
  VOLFS_TRY_ASSIGN(const size_t place, read_log_args(args, out));
  if (args.size() <= place) return fail(bad_count(args, mirror_form));
  VOLFS_TRY_ASSIGN(const uint32_t legs, u32_arg("number of legs", args[place], 2, most_legs));
  if (args.size() < place + 1 + size_t{2} * legs)
    return fail(bad_count(
        args, fmt::format("at least {}, for {} legs", place + 1 + size_t{2} * legs, legs)));
  out.legs = args.subspan(place + 1, size_t{2} * legs);
  VOLFS_TRY(read_mirror_features(args.subspan(place + 1 + size_t{2} * legs), out));
  return out;
}

class MirrorTarget final : public ArrayTarget {
 public:
  MirrorTarget(const TargetContext& context, const MirrorArgs& args, md::MirrorSet set)
      : ArrayTarget(mirror_type, context),
        sync_(args.sync),
        handle_errors_(args.handle_errors),
        keep_log_(args.keep_log),
        set_(std::move(set)) {
    std::vector<BlockDevice*> devices;
    for (const md::MirrorLeg& leg : set_.legs) devices.push_back(leg.device);
    set_limits(md::array_limits(set_.geometry(), devices));
  }

  std::string table_params() const override;
  std::string status_params() const override;
  void for_each_range(const VisitRange& visit) const override {
    if (set_.log) visit(*set_.log, 0, md::mirror_log_size(set_.regions()));
    for (const md::MirrorLeg& leg : set_.legs) visit(*leg.device, leg.offset, size());
  }

 private:
  Result<std::shared_ptr<md::Array>> assemble(const md::ArrayOptions& options) override;

  const std::string sync_;
  const bool handle_errors_, keep_log_;
  const md::MirrorSet set_;
  mutable Mutex log_mutex_;
  std::shared_ptr<md::MirrorLog> log_;  // that of the array, or of the last one
};

std::string MirrorTarget::table_params() const {
  const size_t words = (set_.log ? 2 : 1) + (sync_.empty() ? 0 : 1);
  std::string out = set_.log ? fmt::format("disk {} {}", words, device_word(*set_.log))
                             : fmt::format("core {}", words);
  out += fmt::format(" {}{}{} {}", set_.region_size / sector_size, sync_.empty() ? "" : " ", sync_,
                     set_.legs.size());
  for (const md::MirrorLeg& leg : set_.legs)
    out += fmt::format(" {} {}", device_word(*leg.device), leg.offset / sector_size);
  if (handle_errors_) out += keep_log_ ? " 2 handle_errors keep_log" : " 1 handle_errors";
  return out;
}

// As mirror_status: `2 a b 16/16 1 AA 3 disk log A`.
std::string MirrorTarget::status_params() const {
  const auto known = array_status();
  const md::ArrayStatus status = known ? *known : md::ArrayStatus();
  std::shared_ptr<md::MirrorLog> log;
  {
    const std::lock_guard lock(log_mutex_);
    log = log_;
  }
  std::string health(set_.legs.size(), 'A');
  for (const md::MemberStatus& member : status.members)
    if (member.slot && member.state == md::MemberState::faulty) health[*member.slot] = 'D';
  // A region that is written to counts as in sync, if it is not waiting for a sync.
  const bool whole = log && status.resynced == md::all_in_sync &&
                     status.sync.action == md::SyncAction::idle &&
                     status.state == md::ArrayState::active;
  const uint64_t in_sync = whole ? set_.regions() : log ? log->clean_regions() : 0;
  std::string out = fmt::format("{}", set_.legs.size());
  for (const md::MirrorLeg& leg : set_.legs) out += ' ' + device_word(*leg.device);
  out += fmt::format(" {}/{} 1 {} ", in_sync, set_.regions(), health);
  if (!set_.log) return out + "1 core";
  return out +
         fmt::format("3 disk {} {}", device_word(*set_.log), log && log->log_failed() ? 'D' : 'A');
}

Result<std::shared_ptr<md::Array>> MirrorTarget::assemble(const md::ArrayOptions& options) {
  VOLFS_TRY_ASSIGN(std::shared_ptr<md::MirrorLog> log,
                   md::MirrorLog::open(set_, options.name, options.read_only));
  VOLFS_TRY_ASSIGN(auto array, md::assemble_raid_set(log->raid_set(), options));
  const std::lock_guard lock(log_mutex_);
  log_ = log;
  // Who still holds the array holds its log.
  return std::shared_ptr<md::Array>(array.release(), [log](md::Array* each) { delete each; });
}

Result<std::unique_ptr<Target>> create_mirror(const TargetContext& context, Args args) {
  VOLFS_TRY_ASSIGN(const MirrorArgs wanted, read_mirror_args(args));
  md::MirrorSet set;
  set.size = context.length;
  set.region_size = wanted.region_size;
  set.nosync = wanted.sync == "nosync";
  VOLFS_TRY(md::check_mirror_set(set));
  if (!wanted.log.empty()) {
    VOLFS_TRY_ASSIGN(set.log, device_arg(context, wanted.log));
  }
  for (size_t i = 0; i < wanted.legs.size(); i += 2) {
    md::MirrorLeg& leg = set.legs.emplace_back();
    VOLFS_TRY_ASSIGN(leg.offset, sector_arg("start sector", wanted.legs[i + 1]));
    VOLFS_TRY_ASSIGN(leg.device, device_arg(context, wanted.legs[i]));
  }
  return std::make_unique<MirrorTarget>(context, wanted, std::move(set));
}

std::vector<size_t> mirror_device_args(Args args) {
  std::vector<size_t> indices;
  const auto wanted = read_mirror_args(args);
  if (!wanted) return indices;
  if (!wanted->log.empty()) indices.push_back(2);
  const auto first = static_cast<size_t>(wanted->legs.data() - args.data());
  for (size_t i = 0; i < wanted->legs.size(); i += 2) indices.push_back(first + i);
  return indices;
}

}  // namespace

const TargetType mirror_type = {"mirror", {1, 14, 0}, create_mirror, mirror_device_args};

}  // namespace volfs::dm
