// SPDX-License-Identifier: GPL-2.0-or-later
// unstriped <stripes> <chunk sectors> <stripe> <device> <start sector>: one stripe of a striped
// device, as a device of its own. The kernel's quirks are kept: the number of the stripe may equal
// their count, and the device's size is checked as if the target were linear; what lies beyond
// its end fails.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "../args.h"
#include "targets.h"
#include "volfs/units.h"

namespace volfs::dm {
namespace {

struct Shape {
  uint32_t stripes;
  uint64_t chunk;  // bytes
  uint32_t stripe;
};

class Unstriped final : public Target {
 public:
  Unstriped(const TargetContext& context, const Shape& shape, BlockDevice& below, uint64_t offset)
      : Target(unstriped_type, context), shape_(shape), below_(below), offset_(offset) {
    inherit_limits();
  }
  std::string table_params() const override {
    return fmt::format("{} {} {} {} {}", shape_.stripes, shape_.chunk / sector_size, shape_.stripe,
                       device_word(below_), offset_ / sector_size);
  }
  void for_each_range(const VisitRange& visit) const override { visit(below_, offset_, size()); }

 private:
  bool do_map(Op op, uint64_t offset, uint64_t length, Wait wait, Mapping& out) override {
    while (length > 0) {
      const uint64_t inside = offset % shape_.chunk;
      const uint64_t piece = std::min(length, shape_.chunk - inside);
      // Row by row, then the chunk in the row; in 128 bits, as nothing bounds it.
      const auto chunk = static_cast<Wide>(offset / shape_.chunk) * shape_.stripes + shape_.stripe;
      const Wide at = chunk * shape_.chunk + inside + offset_;
      if (at > max_device_size)
        out.add_error(EIO, piece);
      else if (!below_.map(op, static_cast<uint64_t>(at), piece, wait, out))
        return false;
      offset += piece;
      length -= piece;
    }
    return true;
  }

  __extension__ using Wide = unsigned __int128;
  const Shape shape_;
  BlockDevice& below_;
  const uint64_t offset_;
};

Result<std::unique_ptr<Target>> create_unstriped(const TargetContext& context, Args args) {
  if (args.size() != 5)
    return fail(bad_count(args, "<stripes> <chunk sectors> <stripe> <device> <start sector>"));
  VOLFS_TRY_ASSIGN(const uint32_t stripes, signed_u32_arg("number of stripes", args[0], 1));
  VOLFS_TRY_ASSIGN(const uint32_t chunk, signed_u32_arg("chunk sectors", args[1], 1));
  VOLFS_TRY_ASSIGN(const uint32_t stripe, signed_u32_arg("stripe", args[2]));
  if (stripes > 1 && stripe > stripes)
    return fail(bad_arg("stripe", args[2], fmt::format("a number from 0 to {}", stripes - 1)));
  VOLFS_TRY_ASSIGN(BlockDevice* const below, device_arg(context, args[3]));
  VOLFS_TRY_ASSIGN(const uint64_t offset, sector_arg("start sector", args[4]));
  if (context.length / sector_size % chunk != 0)
    return fail_invalid(fmt::format("{} sectors: expected a multiple of the chunk of {}",
                                    context.length / sector_size, chunk));
  return std::make_unique<Unstriped>(context, Shape{stripes, chunk * sector_size, stripe}, *below,
                                     offset);
}

std::vector<size_t> unstriped_devices(Args) {
  return {3};
}

}  // namespace

const TargetType unstriped_type = {
    .name = "unstriped",
    .version = {1, 1, 0},
    .create = create_unstriped,
    .device_args = unstriped_devices,
};

}  // namespace volfs::dm
