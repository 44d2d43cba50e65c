// SPDX-License-Identifier: GPL-2.0-or-later
// The disks of a simulated machine. They can be made to fail, and the power can be cut.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "support/crash_device.h"
#include "support/fault_device.h"
#include "volfs/engine/engine.h"

namespace volfs::sim {

class Machine {
 public:
  void add_disk(const std::string& name, uint64_t size);
  // As images of the disks' names. The machine outlives what is opened.
  engine::OpenImage open_image();

  test::FaultDevice& disk(std::string_view name);
  size_t position() const { return log_->size(); }
  // All that the disks hold is durable from now on, and positions begin anew.
  void settle() { log_->restart(); }
  void heal();

  // What the disks held if the power had been cut at POSITION, with what KEEP says of the rest.
  // GOOD looks at each disk: while it says no, another choice is made for that one.
  using Contents = std::vector<std::unique_ptr<test::MemoryDevice>>;
  Contents cut(size_t position, test::Random& random,
               const std::function<bool(BlockDevice&)>& good) const;
  // The disks come up with these; nothing may be open.
  void start_with(const Contents& contents);

 private:
  struct Disk {
    std::unique_ptr<test::CrashDevice> below;
    std::unique_ptr<test::FaultDevice> faults;
  };
  void plug_in(const test::MemoryDevice& content);
  std::unique_ptr<test::CrashLog> log_ = std::make_unique<test::CrashLog>();
  std::vector<Disk> disks_;
};

}  // namespace volfs::sim
