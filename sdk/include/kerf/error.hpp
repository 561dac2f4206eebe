// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include "kerf/abi.h"

namespace kerf::inline v1 {

/// What kind of failure an Error is; the numbers are the ABI's.
enum class Code : std::int32_t {
    argument = KERF_E_ARGUMENT,
    unsupported = KERF_E_UNSUPPORTED,
    memory = KERF_E_MEMORY,
    budget = KERF_E_BUDGET,
    io = KERF_E_IO,
    numeric = KERF_E_NUMERIC,
    cancelled = KERF_E_CANCELLED,
    version = KERF_E_VERSION,
    removed = KERF_E_REMOVED,
    internal = KERF_E_INTERNAL
};

/// The one exception of the SDK. A method or adapter may throw it (or anything else: the SDK turns every exception into
/// a code and a message before it would leave the plugin). The text is a sentence for a person: what, where, what to
/// do.
class Error : public std::exception {
public:
    /// `Error(Code::argument, "group_size = ", group, " does not divide ", columns)`
    template <class... Pieces>
    explicit Error(Code code, const Pieces&... pieces) : code_(code) {
        std::ostringstream out;
        (out << ... << pieces);
        message_ = std::move(out).str();
    }
    Code code() const noexcept { return code_; }
    const char* what() const noexcept override { return message_.c_str(); }

private:
    Code code_;
    std::string message_;
};

/// A matrix that had to be positive definite was not; `pivot` is the first one that failed.
class NotPositiveDefinite : public Error {
public:
    explicit NotPositiveDefinite(std::int64_t pivot)
        : Error(Code::numeric, "not positive definite at pivot ", pivot), pivot(pivot) {}
    std::int64_t pivot;
};

/// A value from outside is wrong.
template <class... Pieces>
[[noreturn]] void bad_value(const Pieces&... pieces) {
    throw Error(Code::argument, pieces...);
}
/// Understood, but not offered here.
template <class... Pieces>
[[noreturn]] void refuse(const Pieces&... pieces) {
    throw Error(Code::unsupported, pieces...);
}

namespace detail {

inline kerf_text text(std::string_view view) noexcept {
    return {view.data(), view.size()};
}
inline std::string_view view(kerf_text text) noexcept {
    return text.data ? std::string_view(text.data, text.size) : std::string_view{};
}

/// Fills the caller's error as far as its struct_size and capacity go.
inline kerf_code fail(kerf_error* error, kerf_code code, std::string_view message) noexcept {
    if (!error || error->struct_size < sizeof(kerf_error)) return code;
    error->code = code;
    error->length = 0;
    if (!error->message) return code;
    const auto length = std::min<std::size_t>(message.size(), error->capacity);
    std::memcpy(error->message, message.data(), length);
    error->length = static_cast<std::uint32_t>(length);
    return code;
}

/// Runs `body` on the plugin's side of a call from the host: no exception leaves it.
template <class Body>
kerf_code guarded(kerf_error* error, Body&& body) noexcept {
    try {
        std::forward<Body>(body)();
        return KERF_OK;
    } catch (const Error& e) {
        return fail(error, static_cast<kerf_code>(e.code()), e.what());
    } catch (const std::bad_alloc&) {
        return fail(error, KERF_E_MEMORY, "out of memory");
    } catch (const std::exception& e) {
        return fail(error, KERF_E_INTERNAL, e.what());
    } catch (...) {
        return fail(error, KERF_E_INTERNAL, "an exception of unknown type");
    }
}

/// An unknown code counts as internal.
inline Code code_of(kerf_code code) noexcept {
    return code >= KERF_E_ARGUMENT && code <= KERF_E_INTERNAL ? static_cast<Code>(code) : Code::internal;
}

/// Calls a host function: `call([&](kerf_error* e) { return host->weight(layer, &view, e); })`. Throws what it reports.
template <class Function>
void call(Function&& function) {
    char message[1024];
    kerf_error error{sizeof(kerf_error), KERF_OK, sizeof(message), 0, message};
    const kerf_code code = std::forward<Function>(function)(&error);
    if (code == KERF_OK) return;
    const std::string_view reason(message, std::min<std::size_t>(error.length, sizeof(message)));
    if (reason.empty()) throw Error(code_of(code), "the host failed with code ", code);
    throw Error(code_of(code), reason);
}

/// A service table of the host, or an error that names it. `size`: how much of it is needed; slots behind that want
/// KERF_HAS.
template <class Table>
const Table* service(const kerf_host* host, std::string_view id, std::size_t size = sizeof(Table)) {
    const void* table = host->extension(host, text(id), static_cast<std::uint32_t>(size));
    if (!table) throw Error(Code::version, "this kerf offers no service ", id, " of ", size, " bytes; update kerf");
    return static_cast<const Table*>(table);
}

}  // namespace detail
}  // namespace kerf::inline v1
