// SPDX-License-Identifier: GPL-2.0-or-later
// Making what a definition describes and is not there yet: `volfs create`.
#pragma once

#include <expected>
#include <functional>
#include <string>
#include <vector>

#include "volfs/config/definition.h"
#include "volfs/config/diagnostics.h"
#include "volfs/engine/engine.h"
#include "volfs/error.h"

namespace volfs::engine {

struct CreateStep {
  std::string text;             // "create disk0.img, 256MiB"
  std::function<Status()> run;  // once, after the steps before it
  // What is overwritten, with force: "disk0: ext4 file system, ...".
  std::vector<std::string> loses = {};
};

struct CreateOptions {
  std::string directory;      // what relative paths of images start at
  bool force = false;         // overwrite signatures
  OpenImage open_image = {};  // as in AssembleOptions
};

// What there is to do, in order; nothing has been done yet. The error says what stands in the way:
// a device that holds a signature, an image that is missing and has no size.
std::expected<std::vector<CreateStep>, config::Diagnostics> plan_creation(
    const config::Definition& definition, const CreateOptions& options);

// The paths of the images that are not there, as the definition writes them.
std::vector<std::string> missing_images(const config::Definition& definition,
                                        const std::string& directory);

}  // namespace volfs::engine
