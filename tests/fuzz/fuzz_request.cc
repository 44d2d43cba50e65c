// SPDX-License-Identifier: GPL-2.0-or-later
// Any bytes that are written to the control file are a request, or an error with its place.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "control/requests.h"
#include "control/schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace volfs::control;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto request = parse_request(text);
  if (!request) {
    if (request.error().error.text().empty()) std::abort();
    return 0;
  }
  for (const RequestType* type : all_requests()) {
    (void)subject_of(type->keys, *request);
    const auto mistake = check_keys(type->name, type->keys, *request);
    if (mistake && mistake->error.text().empty()) std::abort();
  }
  return 0;
}
