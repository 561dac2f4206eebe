// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/graph/graph.hpp"

namespace kerf::core {

/// Follows the shapes of values through a list of ops: how many features, and which tokens they have rows for. What
/// does not fit together is the adapter's mistake and is named.
class ValueShapes {
public:
    /// `start`: the values that are there before the first op, with their features; 0 for ids.
    ValueShapes(const std::map<std::string, std::int64_t>& start, std::string who);

    /// Checks the op's inputs, adds its outputs, and fills in what is derived (expert, share).
    void follow(Op& op, std::size_t index);
    /// Features of a value that all tokens have.
    std::int64_t width_of_all(const std::string& value) const;

private:
    struct Shape {
        std::int64_t width = 0;
        std::string routing;       ///< empty: rows for all tokens
        std::int64_t expert = -1;  ///< else for those that `routing` sends to this one
        double share = 1;
        bool same_rows(const Shape& other) const { return routing == other.routing && expert == other.expert; }
    };
    struct Routing {
        std::int64_t experts = 0;
        double share = 1;
    };

    const Shape& of(const std::string& value) const;
    const Routing& routing_of(const Op& op, const std::string& value) const;
    void expect(const std::string& value, std::int64_t width) const;
    void expect_all_tokens(const std::string& value) const;
    void expect_same_rows(const std::string& value, const Shape& as) const;
    std::int64_t width_out(const Op& op, std::size_t index) const;
    Shape rows_out(const Op& op) const;
    Shape dispatched(const Op& op) const;
    void check_combine(const Op& op) const;

    std::map<std::string, Shape> known_;
    std::map<std::string, Routing> routings_;
    std::string who_, where_;
};

/// Features of a value of `ops`, whose input "x" has `input`.
std::int64_t features_of(const std::vector<Op>& ops, const std::string& value, std::int64_t input);
/// Values made before op number `op`, or the input "x", that it or a later one reads; sorted.
std::vector<std::string> live_at(const std::vector<Op>& ops, std::size_t op);

}  // namespace kerf::core
