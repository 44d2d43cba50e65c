// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/mapping.h"

namespace volfs {

void Mapping::clear() {
  for (size_t i = leases_.size(); i-- > 0;) leases_[i].owner->release(leases_[i].a, leases_[i].b);
  leases_.clear();
  extents_.clear();
  length_ = 0;
}

void Mapping::append(const Extent& extent) {
  if (extent.length == 0) return;
  length_ += extent.length;
  if (!extents_.empty()) {
    Extent& last = extents_.back();
    // Extents that only touch by chance would look as if their bytes followed each other.
    const bool same = !(unordered_ && extent.kind == Extent::Kind::device) &&
                      last.kind == extent.kind && last.device == extent.device &&
                      last.error == extent.error;
    if (same &&
        (extent.kind != Extent::Kind::device || last.offset + last.length == extent.offset)) {
      last.length += extent.length;
      return;
    }
  }
  extents_.push_back(extent);
}

void Mapping::add(BlockDevice& device, uint64_t offset, uint64_t length) {
  append({&device, offset, length, Extent::Kind::device, 0});
}
void Mapping::add_zero(uint64_t length) {
  append({nullptr, 0, length, Extent::Kind::zero, 0});
}
void Mapping::add_error(int error, uint64_t length) {
  append({nullptr, 0, length, Extent::Kind::error, error});
}
bool Mapping::holds(const LeaseOwner& owner) const {
  for (size_t i = 0; i < leases_.size(); ++i)
    if (leases_[i].owner == &owner) return true;
  return false;
}
void Mapping::hold(LeaseOwner& owner, uint64_t a, uint64_t b) {
  leases_.push_back({&owner, a, b});
}

}  // namespace volfs
