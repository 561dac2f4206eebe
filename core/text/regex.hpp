// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace kerf::core {

/// Bytes [begin, end) of a text.
struct Range {
    std::size_t begin = 0, end = 0;
};

/// A regular expression of a tokenizer.json. Those are written for Oniguruma; PCRE2 runs them, after its few
/// differences
/// (`\s`, `\w`, nested classes, `^` and `$`) were translated or, where that is impossible, refused.
class Regex {
public:
    /// Error(input) begins with `where` and quotes the pattern.
    Regex(std::string_view pattern, std::string where);

    /// All matches in order, without overlaps. `text` is valid UTF-8. A pattern that needs more than ten million steps
    /// or 256 MiB is an Error(input).
    std::vector<Range> find_all(std::string_view text) const;

private:
    struct Compiled;
    std::shared_ptr<const Compiled> compiled_;
};

}  // namespace kerf::core
