// SPDX-License-Identifier: GPL-2.0-or-later
// Requests that are wrong in a hundred ways, and what each is told.
#include <doctest/doctest.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <string_view>

#include "mounted_engine.h"

namespace volfs::control {
namespace {

using namespace std::string_view_literals;

struct Wrong {
  std::string_view request;
  const char* code;
  const char* place;
  const char* message;
};

const Wrong all[] = {
    {""sv, "EINVAL", "1:1", R"(the request is empty; expected an object {"request": NAME, ...})"},
    {"   \n\t"sv, "EINVAL", "1:1",
     R"(the request is empty; expected an object {"request": NAME, ...})"},
    {"status"sv, "EINVAL", "1:1", "the request is not JSON: 1:1: invalid literal; last read: 's'"},
    {"{"sv, "EINVAL", "1:2",
     "the request is not JSON: 1:2: parsing object key - unexpected end of input; expected string "
     "literal"},
    {R"({"request")"sv, "EINVAL", "1:11",
     "the request is not JSON: 1:11: parsing object separator - unexpected end of input; expected "
     "':'"},
    {R"({"request":)"sv, "EINVAL", "1:12",
     "the request is not JSON: 1:12: unexpected end of input; expected '[', '{', or a literal"},
    {R"({"request":"status")"sv, "EINVAL", "1:20",
     "the request is not JSON: 1:20: parsing object - unexpected end of input; expected '}'"},
    {R"({"request":"status",})"sv, "EINVAL", "1:21",
     "the request is not JSON: 1:21: parsing object key - unexpected '}'; expected string literal"},
    {"{'request':'status'}"sv, "EINVAL", "1:2",
     "the request is not JSON: 1:2: parsing object key - invalid literal; last read: '{''; "
     "expected string literal"},
    {R"({"request":"status"} {"request":"status"})"sv, "EINVAL", "1:22",
     "the request is not JSON: 1:22: unexpected '{'; expected end of input"},
    {R"({"request":"status"}x)"sv, "EINVAL", "1:21",
     R"(the request is not JSON: 1:21: invalid literal; last read: '"status"}x'; expected end of input)"},
    {"{\"request\":\"sta\ntus\"}"sv, "EINVAL", "1:16",
     R"(the request is not JSON: 1:16: invalid string: control character U+000A (LF) must be escaped to \u000A or \n; last read: '"sta<U+000A>')"},
    {R"({"request":"\q"})"sv, "EINVAL", "1:14",
     R"(the request is not JSON: 1:14: invalid string: forbidden character after backslash; last read: '"\q')"},
    {R"({"request":"\u12"})"sv, "EINVAL", "1:17",
     R"(the request is not JSON: 1:17: invalid string: '\u' must be followed by 4 hex digits; last read: '"\u12"')"},
    {"{\"request\":\"\377\"}"sv, "EINVAL", "1:13",
     "the request is not JSON: 1:13: invalid string: ill-formed UTF-8 byte; last read: "
     "'\"\357\277\275'"},
    {R"({"request":"status" "map":1})"sv, "EINVAL", "1:25",
     "the request is not JSON: 1:25: parsing object - unexpected string literal; expected '}'"},
    {R"({"request":tru})"sv, "EINVAL", "1:15",
     R"(the request is not JSON: 1:15: invalid literal; last read: '"request":tru}')"},
    {R"({"request":01})"sv, "EINVAL", "1:13",
     "the request is not JSON: 1:13: parsing object - unexpected number literal; expected '}'"},
    {R"({"request":1e})"sv, "EINVAL", "1:14",
     "the request is not JSON: 1:14: invalid number; expected '+', '-', or digit after exponent; "
     "last read: '1e}'"},
    {R"({"request":.5})"sv, "EINVAL", "1:12",
     R"(the request is not JSON: 1:12: invalid literal; last read: '"request":.')"},
    {"{\n \"request\": \"map.load\",\n \"map\": data\n}"sv, "EINVAL", "3:9",
     R"(the request is not JSON: 3:9: invalid literal; last read: '"map": d')"},
    {"["sv, "EINVAL", "1:2",
     "the request is not JSON: 1:2: unexpected end of input; expected '[', '{', or a literal"},
    {"]"sv, "EINVAL", "1:1",
     "the request is not JSON: 1:1: unexpected ']'; expected '[', '{', or a literal"},
    {"\000"sv, "EINVAL", "1:1", "the request is not JSON: 1:1: a NUL byte"},
    {"{\"request\":\"status\"}\000"sv, "EINVAL", "1:21",
     "the request is not JSON: 1:21: a NUL byte"},
    {R"(// {"request":"status"})"sv, "EINVAL", "1:1",
     "the request is not JSON: 1:1: invalid literal; last read: '/'"},
    {R"({"request":"status","n":1e999})"sv, "EINVAL", "1:1",
     "the request is not JSON: number overflow parsing '1e999'"},
    {"[]"sv, "EINVAL", "1:1",
     R"(the request is a JSON array; expected an object {"request": NAME, ...})"},
    {R"("status")"sv, "EINVAL", "1:1",
     R"(the request is a JSON string; expected an object {"request": NAME, ...})"},
    {"17"sv, "EINVAL", "1:1",
     R"(the request is a JSON number; expected an object {"request": NAME, ...})"},
    {"-1.5"sv, "EINVAL", "1:1",
     R"(the request is a JSON number; expected an object {"request": NAME, ...})"},
    {"true"sv, "EINVAL", "1:1",
     R"(the request is a JSON boolean; expected an object {"request": NAME, ...})"},
    {"null"sv, "EINVAL", "1:1",
     R"(the request is a JSON null; expected an object {"request": NAME, ...})"},
    {R"([{"request":"status"}])"sv, "EINVAL", "1:1",
     R"(the request is a JSON array; expected an object {"request": NAME, ...})"},
    {"{}"sv, "EINVAL", "request", "'request' is missing; expected a string"},
    {R"({"map":"data"})"sv, "EINVAL", "request", "'request' is missing; expected a string"},
    {R"({"request":null})"sv, "EINVAL", "request", "'request' is a JSON null; expected a string"},
    {R"({"request":17})"sv, "EINVAL", "request", "'request' is a JSON number; expected a string"},
    {R"({"request":["status"]})"sv, "EINVAL", "request",
     "'request' is a JSON array; expected a string"},
    {R"({"request":{"name":"status"}})"sv, "EINVAL", "request",
     "'request' is a JSON object; expected a string"},
    {R"({"request":true})"sv, "EINVAL", "request",
     "'request' is a JSON boolean; expected a string"},
    {R"({"request":""})"sv, "ENOSYS", "request",
     "there is no request ''; mount.requests lists them"},
    {R"({"request":"Status"})"sv, "ENOSYS", "request",
     "there is no request 'Status'; mount.requests lists them"},
    {R"({"request":"status "})"sv, "ENOSYS", "request",
     "there is no request 'status '; mount.requests lists them"},
    {R"({"request":"map.lod","map":"data"})"sv, "ENOSYS", "request",
     "there is no request 'map.lod'; mount.requests lists them"},
    {R"({"request":"map"})"sv, "ENOSYS", "request",
     "there is no request 'map'; mount.requests lists them"},
    {R"({"request":"map.load.x"})"sv, "ENOSYS", "request",
     "there is no request 'map.load.x'; mount.requests lists them"},
    {R"({"Request":"status"})"sv, "EINVAL", "request", "'request' is missing; expected a string"},
    {R"({"request":"status","request":"where"})"sv, "EINVAL", "request",
     "key 'request' is given twice"},
    {R"({"request":"map.table","map":"data","map":"other"})"sv, "EINVAL", "map",
     "key 'map' is given twice"},
    {R"({"request":"status","verbose":true})"sv, "EINVAL", "verbose",
     "status: unknown key 'verbose'; expected none besides 'request'"},
    {R"({"request":"mount.info","":1})"sv, "EINVAL", "",
     "mount.info: unknown key ''; expected none besides 'request'"},
    {R"({"request":"map.load","map":"data","tabel":"0 8 zero"})"sv, "EINVAL", "tabel",
     "map.load: unknown key 'tabel'; expected map, table, readonly"},
    {R"({"request":"map.resume","map":"data","flush":true})"sv, "EINVAL", "flush",
     "map.resume: unknown key 'flush'; expected map"},
    {R"({"request":"where","volume":"data","offset":0,"len":4})"sv, "EINVAL", "len",
     "where: unknown key 'len'; expected volume, offset, length"},
    {R"({"request":"map.load"})"sv, "EINVAL", "map",
     "map.load: 'map' is missing; expected a string"},
    {R"({"request":"map.load","map":"data"})"sv, "EINVAL", "table",
     "map.load: 'table' is missing; expected a string"},
    {R"({"request":"map.create","table":"0 8 zero"})"sv, "EINVAL", "map",
     "map.create: 'map' is missing; expected a string"},
    {R"({"request":"map.rename","map":"data"})"sv, "EINVAL", "to",
     "map.rename: 'to' is missing; expected a string"},
    {R"({"request":"map.message","map":"data"})"sv, "EINVAL", "message",
     "map.message: 'message' is missing; expected a string"},
    {R"({"request":"where"})"sv, "EINVAL", "volume",
     "where: 'volume' is missing; expected a string"},
    {R"({"request":"where","volume":"data"})"sv, "EINVAL", "offset",
     "where: 'offset' is missing; expected a whole number from 0 to 18446744073709551615"},
    {R"({"request":"array.fail","array":"md0"})"sv, "EINVAL", "device",
     "array.fail: 'device' is missing; expected a string"},
    {R"({"request":"array.add","device":"disk0"})"sv, "EINVAL", "array",
     "array.add: 'array' is missing; expected a string"},
    {R"({"request":"array.wait"})"sv, "EINVAL", "array",
     "array.wait: 'array' is missing; expected a string"},
    {R"({"request":"volume.users"})"sv, "EINVAL", "volume",
     "volume.users: 'volume' is missing; expected a string"},
    {R"({"request":"map.load","map":7,"table":"0 8 zero"})"sv, "EINVAL", "map",
     "map.load: 'map' is 7; expected a string"},
    {R"({"request":"map.load","map":"data","table":["0 8 zero"]})"sv, "EINVAL", "table",
     "map.load: 'table' is a JSON array; expected a string"},
    {R"({"request":"map.load","map":"data","table":null})"sv, "EINVAL", "table",
     "map.load: 'table' is a JSON null; expected a string"},
    {R"({"request":"map.load","map":"data","table":"0 8 zero","readonly":"yes"})"sv, "EINVAL",
     "readonly", "map.load: 'readonly' is a JSON string; expected true or false"},
    {R"({"request":"map.load","map":"data","table":"0 8 zero","readonly":1})"sv, "EINVAL",
     "readonly", "map.load: 'readonly' is 1; expected true or false"},
    {R"({"request":"map.suspend","map":"data","timeout_ms":"10"})"sv, "EINVAL", "timeout_ms",
     "map.suspend: 'timeout_ms' is a JSON string; expected a whole number of milliseconds from 0 "
     "to 86400000"},
    {R"({"request":"map.suspend","map":"data","timeout_ms":-1})"sv, "EINVAL", "timeout_ms",
     "map.suspend: 'timeout_ms' is -1; expected a whole number of milliseconds from 0 to 86400000"},
    {R"({"request":"map.suspend","map":"data","timeout_ms":1.5})"sv, "EINVAL", "timeout_ms",
     "map.suspend: 'timeout_ms' is 1.5; expected a whole number of milliseconds from 0 to "
     "86400000"},
    {R"({"request":"map.suspend","map":"data","timeout_ms":18446744073709551616})"sv, "EINVAL",
     "timeout_ms",
     "map.suspend: 'timeout_ms' is 1.8446744073709552e+19; expected a whole number of milliseconds "
     "from 0 to 86400000"},
    {R"({"request":"where","volume":"data","offset":-4096})"sv, "EINVAL", "offset",
     "where: 'offset' is -4096; expected a whole number from 0 to 18446744073709551615"},
    {R"({"request":"where","volume":"data","offset":{}})"sv, "EINVAL", "offset",
     "where: 'offset' is a JSON object; expected a whole number from 0 to 18446744073709551615"},
    {R"({"request":"where","volume":null,"offset":0})"sv, "EINVAL", "volume",
     "where: 'volume' is a JSON null; expected a string"},
    {R"({"request":"map.suspend","map":"data","timeout_ms":86400001})"sv, "EINVAL", "timeout_ms",
     "map.suspend: 'timeout_ms' is more than a day; expected at most 86400000"},
    {R"({"request":"array.wait","array":"md0","timeout_ms":99999999999})"sv, "EINVAL", "timeout_ms",
     "array.wait: 'timeout_ms' is more than a day; expected at most 86400000"},
    {R"({"request":"map.resume","map":""})"sv, "EINVAL", "map",
     "map.resume: 'map' is empty; expected a name"},
    {R"({"request":"map.resume","map":"da\u0000ta"})"sv, "EINVAL", "map",
     "map.resume: 'map' has a NUL byte in it; expected text"},
    {R"({"request":"where","volume":"data","offset":32768})"sv, "EINVAL", "data",
     "data: 1 bytes at 32768: expected an end at 32768 at most"},
    {R"({"request":"where","volume":"data","offset":18446744073709551615,"length":2})"sv, "EINVAL",
     "data", "data: 2 bytes at 18446744073709551615: expected an end at 32768 at most"},
    {R"({"request":"where","volume":"data","offset":0,"length":32769})"sv, "EINVAL", "data",
     "data: 32769 bytes at 0: expected an end at 32768 at most"},
    {R"({"request":"map.resume","map":"nothing"})"sv, "ENOENT", "nothing",
     "nothing: no such device"},
    {R"({"request":"map.resume","map":"disk0"})"sv, "ENOTTY", "disk0",
     "disk0: not a map but an image"},
    {R"({"request":"map.table","map":"../data"})"sv, "ENOENT", "../data",
     "../data: no such device"},
    {R"({"request":"where","volume":"disk0","offset":0})"sv, "ENOENT", "disk0",
     "disk0: there is no such volume"},
    {R"({"request":"array.check","array":"data"})"sv, "ENOTTY", "data", "data is no array"},
    {R"({"request":"array.check","array":"md0"})"sv, "ENOENT", "md0", "md0: no such device"},
    {R"({"request":"map.rename","map":"data","to":"other"})"sv, "EEXIST", "data",
     "other: there is a device of that name"},
    {R"({"request":"map.rename","map":"data","to":"a/b/c"})"sv, "EINVAL", "data",
     "'a/b/c' is not a name for a map; expected letters, digits and # + - . : = @ _"},
    {R"({"request":"map.remove","map":"other"})"sv, "EBUSY", "other", "other: in use by top"},
    {R"({"request":"map.create","map":"data","table":"0 8 zero"})"sv, "EEXIST", "data",
     "data: there is a device of that name"},
    {R"({"request":"map.create","map":".hidden","table":"0 8 zero"})"sv, "EINVAL", ".hidden",
     "'.hidden' is not a name for a volume; expected NAME or GROUP/NAME, no dot before either"},
    {R"({"request":"map.load","map":"data","table":""})"sv, "EINVAL", "data",
     "data: table: no rows: expected at least one"},
    {R"({"request":"map.load","map":"data","table":"0 8"})"sv, "EINVAL", "table:1",
     R"(data: table:1: only two of the words of a row: expected "<start sector> <sectors> <target type> ...")"},
    {R"({"request":"map.load","map":"data","table":"0 8 zero\n9 8 zero"})"sv, "EINVAL", "table:2",
     "data: table:2: gap in the table: starts at sector 9, expected 8, where the row before it "
     "ends"},
    {R"({"request":"map.load","map":"data","table":"0 8 linear disk9 0"})"sv, "ENXIO", "table:1",
     R"(data: table:1: linear: device "disk9": there is no such device)"},
    {R"({"request":"map.load","map":"data","table":"0 8 zero\n8 8 linear disk0"})"sv, "EINVAL",
     "table:2", "data: table:2: linear: 1 argument: expected <device> <start sector>"},
    {R"({"request":"map.load","map":"data","table":"0 8 linear data 0"})"sv, "ELOOP", "data",
     R"(data: table: device "data" stands on data itself)"},
    {R"({"request":"map.message","map":"data","message":"hello"})"sv, "EINVAL", "data",
     R"(data: linear: message "hello": target linear takes no messages)"},
    {R"({"request":"map.message","map":"data","sector":64,"message":"hello"})"sv, "EINVAL", "data",
     "data: message for sector 64: expected one below 64"},
};

}  // namespace

TEST_CASE("a hundred malformed requests get a hundred clear errors, and change nothing") {
  const MountedEngine mounted;
  const auto before = mounted.ask(R"({"request":"status"})");
  REQUIRE(before["ok"] == true);
  static_assert(std::size(all) >= 100);
  for (const Wrong& wrong : all) {
    CAPTURE(wrong.request);
    const nlohmann::json reply = mounted.ask(std::string(wrong.request));
    CHECK(reply["ok"] == false);
    CHECK(!reply.contains("result"));
    const nlohmann::json& error = reply["error"];
    CHECK(error["code"] == wrong.code);
    CHECK(error["code"] == strerrorname_np(error["errno"].get<int>()));
    CHECK(error["place"] == wrong.place);
    CHECK(error["message"] == wrong.message);
  }
  CHECK(mounted.ask(R"({"request":"status"})") == before);
}

}  // namespace volfs::control
