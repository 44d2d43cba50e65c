// SPDX-License-Identifier: GPL-2.0-or-later
#include "golden.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <memory>

std::string golden(const std::string& name) {
  const std::string path = std::string(GOLDEN_DIR) + "/" + name;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                       &std::fclose);
  REQUIRE_MESSAGE(file != nullptr, "there is no golden file " << path);
  std::string out;
  char buffer[65536];
  for (size_t got; (got = std::fread(buffer, 1, sizeof buffer, file.get())) > 0;)
    out.append(buffer, got);
  return out;
}
