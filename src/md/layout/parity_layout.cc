// SPDX-License-Identifier: GPL-2.0-or-later
// raid4, raid5 and raid6: where a row has its parity.
#include "volfs/md/layout.h"

namespace volfs::md {

Result<ParityLayout> ParityLayout::make(const Geometry& geometry) {
  if (geometry.level < 4 || geometry.level > 6)
    return fail_invalid(level_name(geometry.level) + " has no parity");
  VOLFS_TRY(check_geometry(geometry));
  ParityLayout layout;
  layout.disks_ = geometry.raid_disks;
  layout.parity_disks_ = geometry.level == 6 ? 2 : 1;
  layout.algorithm_ = geometry.level == 4 ? parity_layout::parity_last : geometry.layout;
  layout.chunk_shift_ = static_cast<uint32_t>(std::countr_zero(geometry.chunk));
  layout.ddf_ = geometry.level == 6 && geometry.layout >= parity_layout::ddf_zero_restart &&
                geometry.layout <= parity_layout::ddf_n_continue;
  return layout;
}

RowShape ParityLayout::shape(uint64_t row) const {
  using namespace parity_layout;
  uint32_t n = disks_;
  if (algorithm_ >= left_asymmetric_6) {
    // A raid5 over all members but the last, which holds Q.
    uint32_t m = n - 1;
    auto turn = static_cast<uint32_t>(row % m);
    RowShape s{.p = turn, .q = m};
    if (algorithm_ == left_asymmetric_6 || algorithm_ == left_symmetric_6) s.p = m - 1 - turn;
    if (algorithm_ == parity_first_6) s.p = 0;
    if (algorithm_ == left_symmetric_6 || algorithm_ == right_symmetric_6) {
      s.first = (s.p + 1) % m;
      s.modulus = m;
    }
    return s;
  }
  bool six = parity_disks_ == 2;
  if (algorithm_ == parity_first) return {.p = 0, .q = six ? 1 : no_slot};
  if (algorithm_ == parity_last) return {.p = n - parity_disks_, .q = six ? n - 1 : no_slot};

  auto turn = static_cast<uint32_t>((algorithm_ == ddf_n_restart ? row + 1 : row) % n);
  bool right = algorithm_ == right_asymmetric || algorithm_ == right_symmetric ||
               algorithm_ == ddf_zero_restart;
  RowShape s;
  s.p = right ? turn : n - 1 - turn;
  if (algorithm_ == ddf_n_continue) {
    s.q = (s.p + n - 1) % n;
    s.first = (s.p + 1) % n;
    s.modulus = n;
    return s;
  }
  if (six) s.q = (s.p + 1) % n;
  if (algorithm_ == left_symmetric || algorithm_ == right_symmetric) {
    s.first = (s.p + parity_disks_) % n;
    s.modulus = n;
  }
  return s;
}

std::optional<uint64_t> ParityLayout::array_offset(uint32_t slot, uint64_t offset) const {
  uint64_t row = offset >> chunk_shift_;
  RowShape s = shape(row);
  if (slot >= disks_ || role(s, slot) != RowRole::data) return std::nullopt;
  return array_offset_of(row, data_index(s, slot)) + (offset & (chunk() - 1));
}

}  // namespace volfs::md
