// SPDX-License-Identifier: GPL-2.0-or-later
// What the parts of overlays share.
#pragma once

#include <string>

#include "volfs/error.h"

namespace volfs {
class FileImage;
}

namespace volfs::engine {

struct OverlayImage;

// Absolute, without symbolic links; it must be there.
Result<std::string> real_path(const std::string& path);
// ESTALE: WHAT says how the image differs from what it was, and the text what can be done.
Error stale_image(const std::string& path, const std::string& directory, const std::string& what);
// Fills in what tells whether the image was changed: mtime and fingerprint.
Status describe_image(FileImage& file, OverlayImage& image);

}  // namespace volfs::engine
