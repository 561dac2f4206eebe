// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "core/support/error.hpp"
#include "tests/unit/temporary.hpp"

namespace kerf::test {

/// The little-endian bytes of a value.
template <class T>
std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
}

template <class T>
std::string raw_all(const std::vector<T>& values) {
    std::string bytes;
    for (const T value : values) bytes += raw(value);
    return bytes;
}

/// What the Error(fault) says that `body` throws; fails the test when it throws none, or another one.
template <class Body>
std::string message_of(Body body, core::Fault fault = core::Fault::input) {
    try {
        body();
    } catch (const core::Error& error) {
        EXPECT_EQ(error.fault(), fault) << error.what();
        return error.what();
    } catch (const std::exception& error) {
        ADD_FAILURE() << "threw something other than kerf::core::Error: " << error.what();
        return {};
    }
    ADD_FAILURE() << "threw nothing";
    return {};
}

/// True when `body` returns or throws Error(input) or Error(environment), the only ends that a damaged file may lead
/// to.
template <class Body>
bool ends_well(Body body) {
    try {
        body();
        return true;
    } catch (const core::Error& error) {
        return error.fault() == core::Fault::input || error.fault() == core::Fault::environment;
    } catch (...) {
        return false;
    }
}

}  // namespace kerf::test
