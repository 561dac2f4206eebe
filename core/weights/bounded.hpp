// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/support/error.hpp"

namespace kerf::core {

/// Names from files go into messages; with control characters they could rewrite a terminal.
inline bool has_control_characters(std::string_view name) {
    return std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

/// Reads little-endian values from bytes that nobody vouches for: every step is checked, and none allocates.
/// Reading past the end is Error(input) "WHAT: ends at byte N, in the middle of a value".
class BoundedReader {
public:
    BoundedReader(std::span<const std::byte> bytes, std::string what) : bytes_(bytes), what_(std::move(what)) {}

    std::size_t position() const noexcept { return position_; }
    std::size_t left() const noexcept { return bytes_.size() - position_; }

    std::span<const std::byte> take(std::uint64_t count) {
        if (count > left())
            bad_input(what_, ": ends at byte ", bytes_.size(), ", in the middle of a value; is it cut off?");
        const auto piece = bytes_.subspan(position_, static_cast<std::size_t>(count));
        position_ += piece.size();
        return piece;
    }
    template <class T>
    T number() {
        T value;
        std::memcpy(&value, take(sizeof value).data(), sizeof value);
        return value;
    }
    std::string_view characters(std::uint64_t count) { return as_text(take(count)); }
    /// Up to the next line feed, which is taken but not returned.
    std::string_view line() {
        const std::string_view rest = as_text(bytes_.subspan(position_));
        const std::size_t end = rest.find('\n');
        const std::string_view found = characters(end == std::string_view::npos ? rest.size() + 1 : end);
        take(1);
        return found;
    }

    static std::string_view as_text(std::span<const std::byte> bytes) {
        return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    }

private:
    std::span<const std::byte> bytes_;
    std::string what_;
    std::size_t position_ = 0;
};

}  // namespace kerf::core
