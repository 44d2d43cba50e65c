// SPDX-License-Identifier: GPL-2.0-or-later
// What snapshot and snapshot-merge have in common: arguments and status.
//
//   <origin> <cow> <P|PO|N> <chunk sectors> [<number of features> <feature>...]
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../snapshot/snapshot.h"
#include "volfs/dm/target.h"

namespace volfs::dm {

struct SnapshotArgs {
  BlockDevice* origin = nullptr;
  BlockDevice* cow = nullptr;
  bool persistent = true;
  bool overflow = false;  // PO: a full store makes it unwritable instead of invalid
  bool discard_zeroes_cow = false;
  bool discard_passdown_origin = false;
  std::shared_ptr<Snapshot> snapshot;
};
// Reads the arguments and opens the store.
Result<SnapshotArgs> open_snapshot(const TargetContext& context, Args args);
std::vector<size_t> snapshot_device_args(Args args);
// A write may have to wait for a copy, whatever the devices below are.
Service service_with_copies(Op op, std::span<BlockDevice* const> below);

class SnapshotBase : public Target {
 public:
  SnapshotBase(const TargetType& type, const TargetContext& context, SnapshotArgs args);
  ~SnapshotBase() override;
  std::string table_params() const override;
  std::string status_params() const override;
  void for_each_range(const VisitRange& visit) const override;
  Status preresume() override { return snapshot().take(this); }
  void postsuspend() override { snapshot().leave(this); }

 protected:
  Snapshot& snapshot() const { return *args_.snapshot; }
  BlockDevice& origin() const { return *args_.origin; }
  BlockDevice& cow() const { return *args_.cow; }
  const SnapshotArgs args_;

 private:
  Service do_service(Op op) const override;
};

}  // namespace volfs::dm
