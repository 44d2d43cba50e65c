// SPDX-License-Identifier: GPL-2.0-or-later
// A target serves one row of a device-mapper table. It is a block device of its own, whose
// offset 0 is the beginning of the row: one that only remaps implements do_map, one that works
// the other hooks too. Each type lives in one file of src/dm/targets/ and stands in the one list
// in src/dm/registry.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/block_device.h"
#include "volfs/error.h"

namespace volfs::md {
struct ArrayStatus;
}

namespace volfs::dm {

class OriginRegistry;
class Target;

using Args = std::span<const std::string>;

// Finds a device by the name used in a table. The device outlives the table. The error need not
// repeat the name.
using Resolver = std::function<Result<BlockDevice*>(std::string_view name)>;

// What a constructor may know and use.
struct TargetContext {
  std::string_view device;  // the name of the mapped device
  uint64_t start = 0;       // bytes, where the row begins in it
  uint64_t length = 0;      // bytes
  bool read_only = false;   // the table is read-only: open nothing for writing
  const Resolver& resolve;
  // Counts an event of the mapped device and wakes who waits for one (dmsetup wait). Any thread,
  // any time until the target is destroyed; may be kept (copied).
  std::function<void()> event;
  // Where snapshots and their origins find each other (volfs/dm/snapshot.h); null: they cannot be
  // made.
  OriginRegistry* origins = nullptr;
  bool hold_sync = false;  // raids sync nothing until a message asks for it
};

struct TargetType {
  std::string_view name;
  std::array<unsigned, 3> version;  // that of the kernel's target with the same behaviour
  // Arguments are those of the kernel's target, with names of devices. The error names the
  // argument and what was expected; the caller puts the row and the type in front.
  Result<std::unique_ptr<Target>> (*create)(const TargetContext& context, Args args);
  // Which arguments name devices, as indices; tolerates any arguments.
  std::vector<size_t> (*device_args)(Args args);
  bool singleton = false;        // must be the only row of its table
  bool always_writable = false;  // not allowed in a read-only table
  // The constructor needs the devices themselves, so that arguments cannot be checked without.
  bool looks_at_devices = false;
};

// All there are. dmsetup targets prints them in this order.
std::span<const TargetType* const> target_types();
// Null if there is none of the name.
const TargetType* find_target_type(std::string_view name);

class Target : public BlockDevice {
 public:
  using VisitRange = std::function<void(BlockDevice& device, uint64_t offset, uint64_t length)>;

  const TargetType& type() const { return type_; }
  // Where the row begins in the mapped device. Bytes.
  uint64_t start() const { return start_; }

  // What `dmsetup table` and `dmsetup status` print after the type: table_params() gives
  // arguments that create() takes, devices by name (escaped). Any thread.
  virtual std::string table_params() const = 0;
  virtual std::string status_params() const { return {}; }

  // Of a raid: its array's state, the last one while it is suspended; of another nothing. Any
  // thread.
  virtual std::shared_ptr<const md::ArrayStatus> array_status() const { return nullptr; }
  // Carries out a message, already split; ARGS is not empty. What it returns is printed by
  // `dmsetup message`. EINVAL for what it does not know. Any thread.
  virtual Result<std::string> message(Args args);

  // The ranges of other devices that the target uses, in the order of its arguments. They are
  // checked against the devices' sizes when the table is loaded.
  virtual void for_each_range(const VisitRange& visit) const = 0;

  // Suspending: presuspend of all targets while I/O goes on (end what holds it back), then the
  // I/O is drained, then postsuspend (no I/O is under way; store what must be stored). If the
  // draining fails, presuspend_undo. Resuming: preresume of all targets, which may fail, then
  // resume, then I/O begins again. A new table gets preresume and resume before its first I/O,
  // and postsuspend after its last before it is destroyed. From one thread at a time.
  virtual void presuspend() {}
  virtual void presuspend_undo() {}
  virtual void postsuspend() {}
  virtual Status preresume() { return {}; }
  virtual void resume() {}

  // Whether a flush of the target is no more than a flush of the devices below. If all are, the
  // mapped device flushes each of those once, however many rows use it.
  virtual bool flush_is_plain() const { return true; }

 protected:
  // The limits are those of the devices below, once for_each_range works: see inherit_limits.
  Target(const TargetType& type, const TargetContext& context);
  // Stacks the limits of the devices below and takes them over; the constructor's last act. A
  // target that has its own wishes gives what it made of them to set_limits.
  Limits stacked_limits() const;
  void inherit_limits() { set_limits(stacked_limits()); }

 private:
  void do_for_each_below(const Visit& visit) const override;

  const TargetType& type_;
  const uint64_t start_;
};

}  // namespace volfs::dm
