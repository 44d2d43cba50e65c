// SPDX-License-Identifier: GPL-2.0-or-later
#include "client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "display.h"
#include "volfs/unique_fd.h"

namespace volfs::cli {
namespace {

// What the kernel says of a mount without a server, or, while it takes it down, ECONNABORTED.
bool says_dead(int error) {
  return error == ENOTCONN || error == ECONNABORTED;
}

Error dead(const std::string& path) {
  return Error::make(ENOTCONN, fmt::format("{}: a mount whose daemon has ended; `volfs umount {}` "
                                           "removes it",
                                           path, path));
}

Error off_mount(const std::string& path, bool exists) {
  return Error::make(
      ENOENT, fmt::format("'{}': {}not on a volfs mount; expected the mount point of one, or "
                          "a file below it",
                          path, exists ? "" : "no such file, and "));
}

// The mount point on the way to a path that a dead mount does not answer for.
std::string topmost_dead(std::string path) {
  while (true) {
    const size_t slash = path.find_last_of('/');
    if (slash == std::string::npos || slash == 0) return path;
    const std::string parent = path.substr(0, slash);
    struct statfs status{};  // stat(2) may be answered from the kernel's cache
    if (statfs(parent.c_str(), &status) == 0 || !says_dead(errno)) return path;
    path = parent;
  }
}

// PATH without "." and "//", absolute; symbolic links and ".." of its directories resolved. The
// last component need not exist.
Result<std::string> normalised(const std::string& path) {
  if (char* whole = realpath(path.c_str(), nullptr)) {
    std::string result(whole);
    free(whole);
    return result;
  }
  const int error = errno;
  if (says_dead(error)) return fail(dead(topmost_dead(path)));
  const size_t slash = path.find_last_of('/');
  const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  char* directory = error == ENOENT && parent != path ? realpath(parent.c_str(), nullptr) : nullptr;
  if (!directory) {
    // The folder of a volume group comes with its first volume.
    const size_t above =
        slash == std::string::npos || slash == 0 ? slash : path.rfind('/', slash - 1);
    if (error == ENOENT && above != std::string::npos && above + 1 < slash)
      directory = realpath(path.substr(0, above + 1).c_str(), nullptr);
    if (!directory) {
      if (error == ENOENT) return fail(off_mount(path, false));
      return fail_sys(error, path);
    }
    std::string result = std::string(directory) + path.substr(above);
    free(directory);
    return result;
  }
  std::string result(directory);
  free(directory);
  if (result != "/") result += '/';
  return result + path.substr(slash == std::string::npos ? 0 : slash + 1);
}

// The commands send one request at a time, all from the main thread.
std::string& refusal() {
  static std::string place;
  return place;
}

Result<std::string> converse(const std::string& control, const std::string& text) {
  const UniqueFd file(open(control.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return fail_sys(errno, control);
  ssize_t done = write(file.get(), text.data(), text.size());
  if (done < 0) return fail_sys(errno, control);
  if (static_cast<size_t>(done) != text.size())
    return fail(Error::make(EMSGSIZE, fmt::format("{}: the request is too long", control)));
  std::string reply;
  char buffer[65536];
  while ((done = pread(file.get(), buffer, sizeof buffer, static_cast<off_t>(reply.size()))) > 0)
    reply.append(buffer, static_cast<size_t>(done));
  if (done < 0) return fail_sys(errno, control);
  return reply;
}

}  // namespace

Result<Target> find_target(const std::string& path) {
  VOLFS_TRY_ASSIGN(const std::string whole, normalised(path));
  std::string mountpoint = whole;
  while (true) {
    struct stat status{};
    const std::string control = (mountpoint == "/" ? "" : mountpoint) + "/.volfs/control";
    if (stat(control.c_str(), &status) == 0) break;
    if (says_dead(errno)) return fail(dead(mountpoint));
    if (errno == EACCES) return fail_sys(EACCES, control);
    const size_t slash = mountpoint.find_last_of('/');
    if (slash == std::string::npos || mountpoint == "/")
      return fail(off_mount(path, access(whole.c_str(), F_OK) == 0));
    mountpoint.resize(slash == 0 ? 1 : slash);
  }
  std::string volume = whole.substr(std::min(mountpoint.size(), whole.size()));
  if (volume.starts_with('/')) volume.erase(0, 1);
  return Target{mountpoint, volume};
}

Result<std::string> find_mount(const std::string& path) {
  VOLFS_TRY_ASSIGN(Target target, find_target(path));
  if (!target.volume.empty() && access(path.c_str(), F_OK) != 0) return fail_sys(errno, path);
  return std::move(target.mountpoint);
}

const std::string& place_of_refusal() {
  return refusal();
}

Result<nlohmann::json> request(const std::string& mountpoint, const nlohmann::json& body) {
  refusal().clear();
  for (const auto& [key, value] : body.items()) {
    const auto is_text = [](const nlohmann::json& each) {
      return !each.is_string() || is_utf8(each.get_ref<const std::string&>());
    };
    if (is_text(value) && (!value.is_array() || std::ranges::all_of(value, is_text))) continue;
    return fail_invalid(fmt::format("'{}' is not UTF-8 text, as all of a request has to be", key));
  }
  const std::string control = mountpoint + "/.volfs/control";
  auto answer = converse(control, body.dump());
  // The kernel remembers names of a mount whose daemon is dead, so this may be the first to tell.
  if (!answer && says_dead(answer.error().code())) return fail(dead(mountpoint));
  if (!answer) return fail(std::move(answer.error()));
  const std::string& text = *answer;
  const auto reply = nlohmann::json::parse(text, nullptr, false);
  if (!reply.is_object() || !reply.contains("ok"))
    return fail(
        Error::make(EPROTO, fmt::format("{}: not a reply: '{}'", control, text.substr(0, 200))));
  if (reply["ok"] == true) return reply.value("result", nlohmann::json());
  const auto error = reply.value("error", nlohmann::json::object());
  refusal() = error.value("place", "");
  return fail(Error::make(error.value("errno", EIO), error.value("message", "unknown error")));
}

void warn_of_problems(const nlohmann::json& answer) {
  if (!answer.is_object()) return;
  for (const auto& each : answer.value("problems", std::vector<std::string>()))
    fmt::print(stderr, "volfs: {}\n", each);
}

Result<std::vector<std::string>> contents_of(const std::string& mountpoint,
                                             const std::vector<std::string>& devices,
                                             const std::string& own) {
  std::vector<std::string> all;
  for (const std::string& device : devices) {
    VOLFS_TRY_ASSIGN(const auto found,
                     request(mountpoint, {{"request", "device.contents"}, {"device", device}}));
    const std::string text = found.value("contents", "");
    if (text.empty() || (!own.empty() && found.value("array", "") == own)) continue;
    all.push_back(fmt::format("{}: {}", device, text));
  }
  return all;
}

}  // namespace volfs::cli
