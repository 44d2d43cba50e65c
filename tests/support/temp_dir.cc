// SPDX-License-Identifier: GPL-2.0-or-later
#include "support/temp_dir.h"

#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace volfs::test {

TempDir::TempDir() {
  const char* parent = std::getenv("TMPDIR");
  std::string name = std::string(parent && *parent ? parent : "/var/tmp") + "/volfs-test-XXXXXX";
  if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp " + name);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::file(const std::string& name, uint64_t size) const {
  const std::string made = path(name);
  std::ofstream(made).close();
  std::filesystem::resize_file(made, size);
  return made;
}

}  // namespace volfs::test
