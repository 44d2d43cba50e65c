// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>

namespace volfs {
namespace {

std::shared_ptr<spdlog::logger> make_logger(LogSink sink) {
  if (sink == LogSink::syslog) {
    auto out = std::make_shared<spdlog::sinks::syslog_sink_mt>("volfs", LOG_PID, LOG_DAEMON, false);
    return std::make_shared<spdlog::logger>("volfs", out);
  }
  auto out = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>("volfs", out);
  // journald takes the priority from a leading "<N>"; spdlog's level names carry no number,
  // so the journal's form is put together in log_write.
  logger->set_pattern(sink == LogSink::journal ? "%v" : "volfs: %v");
  return logger;
}

struct State {
  std::mutex mutex;  // guards logger
  std::shared_ptr<spdlog::logger> logger = make_logger(LogSink::standard_error);
  std::atomic<LogSink> sink{LogSink::standard_error};
  std::atomic<LogLevel> least{LogLevel::info};
};

State& state() {
  // Never destroyed: threads may log while the process ends.
  static State* const it = new State;
  return *it;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

std::string_view prefix(LogSink sink, LogLevel level) {
  if (sink == LogSink::syslog) return "";
  const bool journal = sink == LogSink::journal;
  switch (level) {
    case LogLevel::debug:
      return journal ? "<7>" : "debug: ";
    case LogLevel::info:
      return journal ? "<6>" : "";
    case LogLevel::warning:
      return journal ? "<4>" : "warning: ";
    case LogLevel::error:
      return journal ? "<3>" : "error: ";
  }
  return "";
}

}  // namespace

void log_to(LogSink sink) {
  auto logger = make_logger(sink);
  logger->set_level(spdlog::level::trace);
  logger->flush_on(spdlog::level::trace);
  state().sink = sink;
  const std::lock_guard lock(state().mutex);
  state().logger = std::move(logger);
}

void log_level(LogLevel least) {
  state().least = least;
}

bool log_enabled(LogLevel level) {
  return level >= state().least.load(std::memory_order_relaxed);
}

void log_write(LogLevel level, std::string_view text) {
  if (!log_enabled(level)) return;
  const std::lock_guard lock(state().mutex);
  state().logger->log(to_spdlog(level), "{}{}", prefix(state().sink, level), text);
  state().logger->flush();
}

}  // namespace volfs
