// SPDX-License-Identifier: GPL-2.0-or-later
// What the commands that show something share: colours, on a terminal only, and numbers as people
// read them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace volfs::cli {

// Chosen to be read on light and dark grounds alike.
enum class Colour { none, good, warning, bad, strong };
// Whether standard output is a terminal that wants colours: not with NO_COLOR or TERM=dumb.
bool wants_colours();
// TEXT in a colour, or as it is.
std::string coloured(std::string_view text, Colour colour);
// The colour of a device's state.
Colour colour_of_state(std::string_view state);

// Characters, not bytes, of UTF-8 text.
size_t columns_of(std::string_view text);
// TEXT, or if it has more columns than WIDTH its beginning and its end, "~" in between: names often
// differ at their ends.
std::string shortened(std::string_view text, size_t width);
// TEXT and blanks up to WIDTH columns; a longer one is shortened if CUT.
std::string padded(std::string_view text, size_t width, bool cut = false);
// What is left of a line of the terminal behind USED columns; in a pipe as much as one likes.
size_t room_behind(size_t used);

// "950", "12.3k", "4.56M": at most 5 columns.
std::string short_count(double value);
// "512B", "12.3K", "4.56M": binary, at most 6 columns.
std::string short_bytes(double value);
// "850us", "12.3ms", "4.56s"; "-" for none.
std::string short_time(double microseconds);
// "0:07", "12:34", "3:02:01".
std::string duration(uint64_t seconds);

// What JSON and YAML can say as it is; names of files need not be such.
bool is_utf8(const std::string& text);
// To standard output, indented; what is no UTF-8 is replaced.
void print_json(const nlohmann::json& value);

// Columns of the terminal that FD is; 80 if it is none or does not say.
unsigned terminal_columns(int fd = 1);

}  // namespace volfs::cli
