// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "core/support/text.hpp"
#include "core/text/tokenizer.hpp"
#include "tests/unit/weights_fixture.hpp"

namespace kerf::test {

using Ids = std::vector<std::int64_t>;

inline const std::filesystem::path data = KERF_TEST_DATA;

inline nlohmann::json read_json(const std::filesystem::path& path) {
    return nlohmann::json::parse(read_file(path));
}

inline void copy_file(const std::filesystem::path& from, const TemporaryFolder& to, const std::string& name) {
    to.write(name, read_file(from / name));
}

/// A tokenizer.json in a folder of its own.
inline std::unique_ptr<core::Tokenizer> open_json(const std::string& content) {
    const TemporaryFolder folder;
    folder.write("tokenizer.json", content);
    return core::Tokenizer::open(folder.path());
}

/// `body` throws Error(input), and its message has all of `words`.
template <class Body>
void expect_refused(Body body, const std::vector<std::string>& words) {
    const std::string message = message_of(body);
    for (const auto& word : words) EXPECT_NE(message.find(word), std::string::npos) << message;
}

}  // namespace kerf::test
