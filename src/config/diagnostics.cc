// SPDX-License-Identifier: GPL-2.0-or-later
#include "volfs/config/diagnostics.h"

#include <fmt/format.h>

#include <algorithm>

namespace volfs::config {

void Diagnostics::add(Position at, std::string_view found, std::string_view expected) {
  if (full()) {
    ++dropped_;
    return;
  }
  std::string text(found);
  if (!expected.empty()) text += fmt::format("; expected {}", expected);
  entries_.push_back({at, std::move(text)});
}

void Diagnostics::sort() {
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Diagnostic& a, const Diagnostic& b) { return a.at < b.at; });
  const auto same = [](const Diagnostic& a, const Diagnostic& b) {
    return a.at == b.at && a.text == b.text;
  };
  entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());
}

std::string Diagnostics::line(const Diagnostic& entry) const {
  if (!entry.at.given()) return fmt::format("{}: {}", file_name_, entry.text);
  return fmt::format("{}:{}:{}: {}", file_name_, entry.at.line, entry.at.column, entry.text);
}

std::string Diagnostics::to_string() const {
  std::string all;
  for (const Diagnostic& entry : entries_) all += line(entry) + '\n';
  if (dropped_ != 0) all += fmt::format("{}: and {} more errors\n", file_name_, dropped_);
  return all;
}

}  // namespace volfs::config
