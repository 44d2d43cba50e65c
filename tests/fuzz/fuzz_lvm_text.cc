// SPDX-License-Identifier: GPL-2.0-or-later
// A text of LVM's metadata is refused, or understood: what is written of it is understood again as
// the same, and a plan can be made of it.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/lvm/model.h"
#include "volfs/lvm/plan.h"

using namespace volfs;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto group = lvm::read_group(text);
  if (!group) return 0;
  const std::string written = lvm::write_group(*group);
  const auto again = lvm::read_group(written);
  if (!again || lvm::write_group(*again) != written) std::abort();
  std::vector<std::string> devices;
  for (size_t i = 0; i < group->pvs.size(); ++i)
    devices.push_back(i % 3 == 2 ? "" : "pv" + std::to_string(i));
  for (const auto mode : {lvm::ActivationMode::complete, lvm::ActivationMode::partial})
    (void)lvm::activation_plan(*group, devices, {.mode = mode, .hidden = true, .exported = true});
  return 0;
}
