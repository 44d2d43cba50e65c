// SPDX-License-Identifier: GPL-2.0-or-later
// The program's log: messages for people, to stderr or syslog. Any thread, any time; a message
// is written whole and at once, so that none is lost when the process dies or forks.
#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

namespace volfs {

enum class LogLevel { debug, info, warning, error };

enum class LogSink {
  standard_error,  // "volfs: warning: text"
  syslog,          // facility daemon; what journald collects, too
  journal,         // standard error in journald's "<4>text" form, when it is the journal's
};

// Set before threads start, or at the moment of daemonising; thread-safe all the same.
void log_to(LogSink sink);
void log_level(LogLevel least);
bool log_enabled(LogLevel level);
void log_write(LogLevel level, std::string_view text);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::debug))
    log_write(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::info))
    log_write(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_write(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_write(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace volfs
