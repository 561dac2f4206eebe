// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/support/text.hpp"

namespace kerf::core {

/// Who can mend it decides the exit code: input and environment are the user's (2), internal is ours (1).
enum class Fault { input, environment, numeric, memory, cancelled, internal };

/// The one exception of core and host. The text is a sentence for a person: what is wrong, where, what to do.
class Error : public std::runtime_error {
public:
    Error(Fault fault, const std::string& message) : std::runtime_error(message), fault_(fault) {}
    Fault fault() const noexcept { return fault_; }

private:
    Fault fault_;
};

/// Each takes the pieces of the sentence: `bad_input(path, ": header of ", size, " bytes")`.
template <class... Pieces>
[[noreturn]] void bad_input(const Pieces&... pieces) {
    throw Error(Fault::input, text(pieces...));
}
template <class... Pieces>
[[noreturn]] void bad_environment(const Pieces&... pieces) {
    throw Error(Fault::environment, text(pieces...));
}
template <class... Pieces>
[[noreturn]] void internal_error(const Pieces&... pieces) {
    throw Error(Fault::internal, text(pieces...));
}

}  // namespace kerf::core
