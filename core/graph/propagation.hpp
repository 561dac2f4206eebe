// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/graph/axes.hpp"

namespace kerf::core {

/// What attention holds together: a whole group of query heads with its key and value; each query head by itself, keys
/// and values standing still; or one feature of every head. The first gives the axes, the others their views.
enum class Tie : std::uint8_t { groups, query_heads, head_features };

/// Where a feature has been; flags, joined as features are.
namespace touched {
inline constexpr std::uint16_t stream = 1, heads = 2, router = 4, tokens = 8, positions = 16, rotates = 32, scores = 64,
                               values = 128, outside = 256, still = 512;
}

/// The features of a value or of a tensor's dimension: labels, each standing for the class that union-find put it in.
class Features {
public:
    Features() = default;
    Features(std::int32_t first, std::int64_t count) : first_(first), count_(count) {}
    explicit Features(std::vector<std::int32_t> labels)
        : count_(std::int64_t(labels.size())),
          list_(std::make_shared<const std::vector<std::int32_t>>(std::move(labels))) {}

    std::int64_t count() const noexcept { return count_; }
    std::int32_t operator[](std::int64_t i) const {
        return list_ ? (*list_)[std::size_t(i)] : first_ + std::int32_t(i);
    }
    /// Features [begin, begin + count) of every one of `runs` equal runs, one after the other.
    Features cut(std::int64_t runs, std::int64_t begin, std::int64_t count) const;

private:
    std::int32_t first_ = 0;
    std::int64_t count_ = 0;
    std::shared_ptr<const std::vector<std::int32_t>> list_;
};

/// A tensor's dimension and the features along it.
struct Slot {
    Place place;  // without its layout
    Features features;
    std::int64_t block = -1;
};

/// Follows the ops of a model once and joins the features that cannot be removed apart.
class Propagation {
public:
    Propagation(const Graph& graph, Tie tie);

    const std::vector<Slot>& slots() const noexcept { return slots_; }
    /// The label that stands for the class of `label`.
    std::int32_t find(std::int32_t label) const;
    std::uint16_t flags(std::int32_t label) const { return flags_[std::size_t(find(label))]; }
    std::int64_t labels() const noexcept { return std::int64_t(parents_.size()); }

    /// A routed expert: the label of its row in the router, and what it owns.
    struct Expert {
        std::int32_t row = 0;
        std::vector<std::string> tensors;
    };
    const std::vector<Expert>& experts() const noexcept { return experts_; }
    /// Of a class of query heads: how many query features a unit has (heads, kv_groups, query_heads), key-value heads
    /// of its attention, and of a router's class its top_k; by the class's label at the time of asking.
    struct Detail {
        std::int64_t unit = 0, kv_heads = 0, top_k = 0;
    };
    const Detail* detail(std::int32_t label) const;

private:
    using Values = std::map<std::string, Features, std::less<>>;

    void follow(const std::vector<Op>& ops, Values& values);
    void follow_op(const Op& op, Values& values);
    Features fresh(std::int64_t count, std::uint16_t flags = 0);
    void join(std::int32_t a, std::int32_t b);
    void join(const Features& a, const Features& b);
    void mark(const Features& features, std::uint16_t flags);
    Features slot(Place place, Features features);
    Features embedding(const Op& op);
    Features linear(const Op& op, const Features& in);
    void norm(const Op& op, const Features& in);
    void rope(const Op& op, const Features& in);
    Features attention(const Op& op, const Features& q, const Features& k, const Features& v);
    void route(const Op& op, const Features& in);
    void own(const Op& op);

    Tie tie_;
    mutable std::vector<std::int32_t> parents_;
    std::vector<std::uint16_t> flags_;
    std::vector<Slot> slots_;
    std::map<std::pair<std::string, int>, std::size_t> slot_of_;
    std::vector<Expert> experts_;
    std::map<std::int32_t, Detail> details_;  // by a label of the class
    Features tokens_;                         // the vocabulary, once something has made it
    std::int64_t block_ = -1;
    std::map<std::string, std::size_t, std::less<>> routes_;  // value "routing" → its first expert in experts_
    std::map<std::string, std::size_t, std::less<>> owners_;  // value → the expert that it belongs to
};

}  // namespace kerf::core
