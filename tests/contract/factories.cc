// SPDX-License-Identifier: GPL-2.0-or-later
#include "factories.h"

namespace volfs::test {

const Factories& all_factories() {
  static const Factories all = [] {
    Factories list;
    add_support_devices(list);
    add_images(list);
    add_arrays(list);
    return list;
  }();
  return all;
}

}  // namespace volfs::test
