// SPDX-License-Identifier: GPL-2.0-or-later
// linear and raid0: no redundancy, so all they do is to map.
#include <cerrno>

#include "personality.h"

namespace volfs::md {
namespace {

template <class Layout>
class Remap final : public Personality {
 public:
  Remap(Members& members, Layout layout) : Personality(members), layout_(std::move(layout)) {}
  uint64_t size() const override { return layout_.size(); }
  bool maps_writes() const override { return true; }
  bool mappable(uint64_t, uint64_t) const override { return true; }
  void map(uint64_t offset, uint64_t length, Mapping& out) const override {
    while (length > 0) {
      const Place place = layout_.map(offset);
      const uint64_t piece = std::min(length, place.length);
      const Slot& slot = m_.slots[place.slot];
      out.add(*slot.device, slot.data_offset + place.offset, piece);
      offset += piece;
      length -= piece;
    }
  }
  // The array carries out what map() says.
  Status read(uint64_t, IoSpan) override { return fail_sys(EIO, ""); }
  Status write(uint64_t, IoSpan, Fua) override { return fail_sys(EIO, ""); }
  Status write_zeroes(uint64_t, uint64_t, Unmap) override { return fail_sys(EIO, ""); }
  Span sync_span(uint64_t, uint64_t) const override { return {}; }
  uint64_t sync_size() const override { return 0; }
  Result<SyncStep> sync(SyncKind, uint64_t, uint64_t) override { return SyncStep(); }

 private:
  const Layout layout_;
};

}  // namespace

Result<std::unique_ptr<Personality>> make_linear(Members& m) {
  VOLFS_TRY_ASSIGN(auto layout, LinearLayout::make(m.sizes, m.geometry.chunk));
  return std::make_unique<Remap<LinearLayout>>(m, std::move(layout));
}

Result<std::unique_ptr<Personality>> make_raid0(Members& m) {
  VOLFS_TRY_ASSIGN(auto layout, Raid0Layout::make(m.sizes, m.geometry.chunk, m.geometry.layout));
  return std::make_unique<Remap<Raid0Layout>>(m, std::move(layout));
}

}  // namespace volfs::md
