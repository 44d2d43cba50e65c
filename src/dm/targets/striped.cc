// SPDX-License-Identifier: GPL-2.0-or-later
// striped <stripes> <chunk sectors> <device> <start sector>...: chunks dealt out in turn. The
// chunk need not be a power of two; the length is a multiple of stripes * chunk.
#include <fmt/format.h>

#include <algorithm>

#include "../args.h"
#include "targets.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

struct Stripe {
  BlockDevice* device;
  uint64_t offset;
};

class Striped final : public Target {
 public:
  Striped(const TargetContext& context, std::vector<Stripe> stripes, uint64_t chunk);
  std::string table_params() const override;
  std::string status_params() const override;
  void for_each_range(const VisitRange& visit) const override {
    for (const Stripe& stripe : stripes_)
      visit(*stripe.device, stripe.offset, size() / stripes_.size());
  }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override;
  bool map_whole(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out);

  const std::vector<Stripe> stripes_;
  const uint64_t chunk_;
};

Striped::Striped(const TargetContext& context, std::vector<Stripe> stripes, uint64_t chunk)
    : Target(striped_type, context), stripes_(std::move(stripes)), chunk_(chunk) {
  Limits limits = stacked_limits();
  constexpr uint64_t most = 1u << 31;
  limits.io_min = static_cast<uint32_t>(std::max<uint64_t>(limits.io_min, std::min(chunk_, most)));
  limits.io_opt = static_cast<uint32_t>(std::min(chunk_ * stripes_.size(), most));
  set_limits(limits);
}

bool Striped::do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  if (out.unordered()) return map_whole(op, offset, length, wait, out);
  uint64_t chunk = offset / chunk_;
  uint64_t inside = offset % chunk_;
  while (length > 0) {
    const Stripe& stripe = stripes_[chunk % stripes_.size()];
    const uint64_t piece = std::min(length, chunk_ - inside);
    const uint64_t at = stripe.offset + chunk / stripes_.size() * chunk_ + inside;
    if (!stripe.device->map(op, at, piece, wait, out)) return false;
    length -= piece;
    inside = 0;
    ++chunk;
  }
  return true;
}

bool Striped::map_whole(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) {
  for (size_t i = 0; i < stripes_.size(); ++i) {
    const uint64_t begin = dealt_before(offset, i, stripes_.size(), chunk_);
    const uint64_t end = dealt_before(offset + length, i, stripes_.size(), chunk_);
    if (begin == end) continue;
    const Stripe& stripe = stripes_[i];
    if (!stripe.device->map(op, stripe.offset + begin, end - begin, wait, out)) return false;
  }
  return true;
}

std::string Striped::table_params() const {
  std::string out = fmt::format("{} {}", stripes_.size(), chunk_ / sector_size);
  for (const Stripe& stripe : stripes_)
    out += fmt::format(" {} {}", device_word(*stripe.device), stripe.offset / sector_size);
  return out;
}

// The letters tell which stripes had errors in the kernel. Requests pass a remapping target by
// here, so all are alive; the devices below tell of their own errors.
std::string Striped::status_params() const {
  std::string out = fmt::format("{} ", stripes_.size());
  for (const Stripe& stripe : stripes_) out += device_word(*stripe.device) + ' ';
  return out + "1 " + std::string(stripes_.size(), 'A');
}

Result<std::unique_ptr<Target>> create_striped(const TargetContext& context, Args args) {
  if (args.size() < 2)
    return fail(bad_count(args, "<stripes> <chunk sectors> (<device> <start sector>)..."));
  VOLFS_TRY_ASSIGN(const uint32_t count, signed_u32_arg("number of stripes", args[0], 1));
  VOLFS_TRY_ASSIGN(const uint32_t chunk_sectors, signed_u32_arg("chunk sectors", args[1], 1));
  const uint64_t sectors = context.length / sector_size;
  if (sectors % count != 0 || sectors / count % chunk_sectors != 0)
    return fail_invalid(fmt::format("{} sectors: expected a multiple of {} stripes of {} sectors",
                                    sectors, count, chunk_sectors));
  if (args.size() != 2 + uint64_t{2} * count)
    return fail(bad_count(args, fmt::format("{}, for {} stripes", 2 + uint64_t{2} * count, count)));
  std::vector<Stripe> stripes;
  for (size_t i = 2; i < args.size(); i += 2) {
    VOLFS_TRY_ASSIGN(const uint64_t offset, sector_arg("start sector", args[i + 1]));
    VOLFS_TRY_ASSIGN(BlockDevice* const device, device_arg(context, args[i]));
    stripes.push_back({device, offset});
  }
  return std::make_unique<Striped>(context, std::move(stripes), chunk_sectors * sector_size);
}

std::vector<size_t> striped_devices(Args args) {
  std::vector<size_t> indices;
  for (size_t i = 2; i < args.size(); i += 2) indices.push_back(i);
  return indices;
}

}  // namespace

const TargetType striped_type = {
    .name = "striped",
    .version = {1, 7, 0},
    .create = create_striped,
    .device_args = striped_devices,
};

}  // namespace volfs::dm
