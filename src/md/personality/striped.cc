// SPDX-License-Identifier: GPL-2.0-or-later
// linear and raid0: no redundancy, so all they do is to map.
#include <algorithm>

#include "slot_io.h"

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
    if (out.unordered()) {
      layout_.for_each_part(offset, length, [&](uint32_t slot, uint64_t at, uint64_t part) {
        out.add(*m_.slots[slot].device, m_.slots[slot].data_offset + at, part);
      });
      return;
    }
    while (length > 0) {
      const Place place = layout_.map(offset);
      const uint64_t piece = std::min(length, place.length);
      const Slot& slot = m_.slots[place.slot];
      out.add(*slot.device, slot.data_offset + place.offset, piece);
      offset += piece;
      length -= piece;
    }
  }
  Status read(uint64_t offset, IoSpan iov) override {
    SlotIo io(m_);
    add(offset, iov, io);
    return io.read() ? Status() : told(io);
  }
  Status write(uint64_t offset, IoSpan iov, Fua fua) override {
    SlotIo io(m_);
    add(offset, iov, io);
    return io.write(fua) ? Status() : told(io);
  }
  Status write_zeroes(uint64_t offset, uint64_t length, Unmap unmap) override {
    Mapping mapping(Order::any);
    map(offset, length, mapping);
    for (const Extent& extent : mapping.extents())
      VOLFS_TRY(extent.device->write_zeroes(extent.offset, extent.length, unmap));
    return {};
  }
  Span sync_span(uint64_t, uint64_t) const override { return {}; }
  uint64_t sync_size() const override { return 0; }
  Result<SyncStep> sync(SyncKind, uint64_t, uint64_t) override { return SyncStep(); }

 private:
  void add(uint64_t offset, IoSpan iov, SlotIo& io) const {
    const uint64_t length = total_length(iov);
    for (uint64_t done = 0; done < length;) {
      const Place place = layout_.map(offset + done);
      const uint64_t piece = std::min(length - done, place.length);
      uint64_t at = place.offset;
      for_each_slice(iov, done, piece, [&](iovec slice) {
        io.add(place.slot, at, slice.iov_base, slice.iov_len);
        at += slice.iov_len;
      });
      done += piece;
    }
  }
  Status told(const SlotIo& io) const {
    const auto& failure = io.failures().front();
    return fail_sys(failure.error, m_.slots[failure.slot].device->name());
  }
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
