// SPDX-License-Identifier: Apache-2.0
#include "core/support/json_text.hpp"

#include <set>
#include <vector>

#include "core/support/error.hpp"
#include "core/support/file.hpp"

namespace kerf::core {
namespace {

constexpr int depth_limit = 64;

}  // namespace

nlohmann::json parse_json(std::string_view text, const std::string& what) {
    using Json = nlohmann::json;
    // The library takes a zero byte as the end of its input, and would not look at what follows.
    if (text.find('\0') != std::string_view::npos) bad_input(what, ": has a zero byte in it, so it is not JSON");
    std::vector<std::set<std::string>> keys;  // of the objects that are open
    const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
        if (depth > depth_limit) bad_input(what, ": is nested deeper than ", depth_limit, " levels");
        if (event == Json::parse_event_t::object_start) keys.emplace_back();
        if (event == Json::parse_event_t::object_end) keys.pop_back();
        if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
            bad_input(what, ": has the key ", value.dump(), " twice in one object");
        return true;
    };
    try {
        return Json::parse(text, check);
    } catch (const Json::exception& error) {
        std::string_view why = error.what();
        why.remove_prefix(why.find("] ") + 2);  // the library's own number of the error
        bad_input(what, ": is not valid JSON: ", why);
    }
}

nlohmann::json read_json(const std::filesystem::path& path) {
    return parse_json(read_text(path), path.string());
}

}  // namespace kerf::core
