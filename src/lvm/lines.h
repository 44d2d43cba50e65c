// SPDX-License-Identifier: GPL-2.0-or-later
// The lines of a metadata text in the form they have on disk: no indentation, no comments.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "volfs/lvm/model.h"

namespace volfs::lvm {

class Lines {
 public:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }
  void blank() { out_ += '\n'; }
  // Entries kept from a text that was read: one's bytes begin with the end of the line before.
  void kept(std::string_view source) {
    if (source.starts_with('\n'))
      source.remove_prefix(1);
    else
      while (source.starts_with(' ') || source.starts_with('\t')) source.remove_prefix(1);
    out_ += source;
    out_ += '\n';
  }
  // `name = ["a", "b"]`
  void words(std::string_view name, const Words& words);
  // `stripes = [` ... `]` with a line for each area.
  void areas(std::string_view name, const VolumeGroup& group, const std::vector<Area>& areas);

  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

}  // namespace volfs::lvm
