// SPDX-License-Identifier: GPL-2.0-or-later
#include "below.h"

#include <set>

namespace volfs::engine {
std::string name_of(const config::Definition& definition, const config::Item& item) {
  switch (item.kind) {
    case config::DeviceKind::image:
      return definition.images[item.index].name.value;
    case config::DeviceKind::array:
      return definition.arrays[item.index].name.value;
    case config::DeviceKind::volume_group:
      return definition.volume_groups[item.index].name.value;
    case config::DeviceKind::snapshot:
      return definition.snapshots[item.index].name.value;
    case config::DeviceKind::map:
      return definition.maps[item.index].name.value;
  }
  return {};
}

namespace {

void add_needs(const config::Definition& definition, const config::Item& item,
               std::set<std::string>& needed) {
  // Of "vg0/root" the group is what is built.
  const auto need = [&](const std::string& name) {
    if (!name.empty()) needed.insert(name.substr(0, name.find('/')));
  };
  switch (item.kind) {
    case config::DeviceKind::image:
      break;
    case config::DeviceKind::array: {
      const config::Array& array = definition.arrays[item.index];
      for (const auto* list : {&array.devices, &array.spares})
        for (const config::ArrayDevice& each : *list) need(each.device.value);
      break;
    }
    case config::DeviceKind::volume_group:
      for (const auto& pv : definition.volume_groups[item.index].physical_volumes)
        need(pv.device.value);
      break;
    case config::DeviceKind::snapshot:
      need(definition.snapshots[item.index].origin.value);
      need(definition.snapshots[item.index].cow_device.value);
      break;
    case config::DeviceKind::map:
      for (const config::Text& device : definition.maps[item.index].devices) need(device.value);
      break;
  }
}

}  // namespace

config::Definition needed_for(const config::Definition& definition,
                              const std::vector<std::string>& names) {
  std::set<std::string> needed;
  for (const std::string& name : names) needed.insert(name.substr(0, name.find('/')));
  // From the top: what is needed stands before who needs it.
  std::vector<config::Item> order;
  for (auto item = definition.build_order.rbegin(); item != definition.build_order.rend(); ++item)
    if (needed.contains(name_of(definition, *item))) {
      order.insert(order.begin(), *item);
      add_needs(definition, *item, needed);
    }
  config::Definition part = definition;
  part.build_order = std::move(order);
  return part;
}

}  // namespace volfs::engine
