// SPDX-License-Identifier: GPL-2.0-or-later
// The commands' way to a running mount: its control file.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "volfs/error.h"

namespace volfs::cli {

// What a path on a command line names: the mount and, below it, a volume ("vg0/root"; empty: the
// mount itself).
struct Target {
  std::string mountpoint;
  std::string volume;
};
// Finds the mount a path lies in; the volume need not exist. ENOENT: no volfs mount there;
// ENOTCONN: a mount whose daemon has died.
Result<Target> find_target(const std::string& path);
// The mount that a path lies in, which must exist: ENOENT as above, or if nothing is there.
Result<std::string> find_mount(const std::string& path);

// Sends one request to the mount's control file and waits for its reply: the "result" of a good
// one, or the error it tells, with its errno.
Result<nlohmann::json> request(const std::string& mountpoint, const nlohmann::json& body);

// Tells on stderr of the problems that a reply names, though what was asked for was done.
void warn_of_problems(const nlohmann::json& answer);

// What the mount said of the place of the last request's error (see volfs.control(5)); empty if
// that request was carried out, or none was sent.
const std::string& place_of_refusal();

// What DEVICES of the mount hold that is lost when something else is made of them: "disk3: ext4
// file system, ..." for each that holds something. Members of the array with the uuid OWN count for
// none.
Result<std::vector<std::string>> contents_of(const std::string& mountpoint,
                                             const std::vector<std::string>& devices,
                                             const std::string& own = "");

}  // namespace volfs::cli
