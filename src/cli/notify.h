// SPDX-License-Identifier: GPL-2.0-or-later
// The protocol of sd_notify(3): a datagram to the socket that the service manager names. It is a
// stable interface, and small enough not to need its library.
#pragma once

#include <string_view>

namespace volfs::cli {

// Tells STATE ("READY=1"); nothing when no service manager asked to be told.
void notify_service_manager(std::string_view state);
// Whether standard error is the journal's.
bool under_service_manager();

}  // namespace volfs::cli
