// SPDX-License-Identifier: Apache-2.0
#include "groups.hpp"

#include <algorithm>

namespace kerf::llm_pruner {
namespace {

bool inside(std::int64_t block, std::int64_t start, std::int64_t end) {
    return block >= start && block < end;
}

/// Indices [first, first + count) of every unit's.
Piece piece_of(const Place& place, std::string_view kind, std::int64_t first, std::int64_t count) {
    Piece out;
    out.tensor = place.tensor;
    out.kind = kind;
    // A vector is one row.
    out.dimension = place.role == PlaceRole::norm ? 1 : place.dimension;
    out.each = count;
    for (std::int64_t u = 0; u < place.units.size(); ++u) {
        const auto all = place.units[u];
        for (std::int64_t i = first; i < first + count; ++i) out.indices.push_back(all[static_cast<std::size_t>(i)]);
    }
    return out;
}

std::int64_t each_of(const Place& place) {
    const auto each = static_cast<std::int64_t>(place.units[0].size());
    for (std::int64_t u = 1; u < place.units.size(); ++u)
        if (static_cast<std::int64_t>(place.units[u].size()) != each)
            throw Error(Code::unsupported, place.tensor,
                        ": its units are of different sizes, which LLM-Pruner's groups "
                        "cannot have");
    return each;
}

/// Columns of o that a unit of attention has: all its query heads' features.
std::int64_t attended_features(const Axis& axis) {
    for (const auto& place : axis.places())
        if (place.role == PlaceRole::input) return each_of(place);
    return 0;
}

/// A fused projection is as many members as it has parts. Ascending, a unit's rows of a fused qkv are its queries, its
/// key and its value, whether the parts lie one after the other or head by head.
void add_pieces(const Axis& axis, const Place& place, std::string_view kind, std::vector<Piece>& out) {
    const std::int64_t each = each_of(place);
    if (kind == "qkv" && axis.shape().kind != AxisKind::query_heads) {
        const std::int64_t queries = attended_features(axis), one = (each - queries) / 2;
        if (one < 1 || queries + 2 * one != each)
            throw Error(Code::unsupported, place.tensor, ": ", each, " rows a head are no query, key and value of ",
                        queries, " features");
        out.push_back(piece_of(place, "q", 0, queries));
        out.push_back(piece_of(place, "k", queries, one));
        out.push_back(piece_of(place, "v", queries + one, one));
    } else if (kind == "gate_up" && each == 2) {
        out.push_back(piece_of(place, "gate", 0, 1));
        out.push_back(piece_of(place, "up", 1, 1));
    } else {
        const bool query_rows = kind == "qkv";
        out.push_back(piece_of(place,
                               query_rows                                                      ? "q"
                               : place.role == PlaceRole::input && axis.shape().is_attention() ? "o"
                                                                                               : kind,
                               0, each));
    }
}

bool has_a_say(const Place& place, std::string_view kind, const Options& options) {
    switch (place.role) {
        case PlaceRole::input:
        case PlaceRole::output:
            return true;
        case PlaceRole::norm:
            return kind == "rms_norm";
        case PlaceRole::table:
            // The reference forgets to sum an embedding's magnitudes over the vocabulary, and drops it where that
            // shows.
            return !options.compatibility || options.pruner_type == "taylor" || kind == "tied";
        case PlaceRole::bias:
        case PlaceRole::norm_bias:
            break;
    }
    return false;
}

int rank_of(const Piece& piece, bool query_heads) {
    if (query_heads) return piece.kind == "o" ? 1 : 0;
    for (int i = 0; const char* kind : {"k", "o", "v", "q"}) {
        if (piece.kind == kind) return i;
        ++i;
    }
    return 4;
}

/// The order of `first` and `second`; which piece is `last`.
void put_in_order(Target& target, AxisKind kind) {
    auto& pieces = target.pieces;
    target.last = static_cast<std::int64_t>(pieces.size()) - 1;
    if (kind == AxisKind::residual) {
        std::reverse(pieces.begin(), pieces.end());
        const auto norm =
            std::find_if(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.kind == "rms_norm"; });
        if (norm != pieces.end()) std::rotate(pieces.begin(), norm, norm + 1);
    }
    if (kind == AxisKind::heads || kind == AxisKind::kv_groups || kind == AxisKind::query_heads) {
        const bool query_heads = kind == AxisKind::query_heads;
        std::stable_sort(pieces.begin(), pieces.end(), [&](const Piece& a, const Piece& b) {
            return rank_of(a, query_heads) < rank_of(b, query_heads);
        });
        for (std::size_t i = 0; i < pieces.size(); ++i)
            if (pieces[i].kind == "o") target.last = static_cast<std::int64_t>(i);
    }
}

Target target_of(const Axis& axis, std::size_t number, const WholeModel& model, const Options& options) {
    Target out;
    out.axis = number;
    out.name = axis.name();
    for (std::size_t p = 0; p < axis.places().size(); ++p) {
        const Place& place = axis.places()[p];
        const std::string_view kind = model.kind(axis, p);
        if (!has_a_say(place, kind, options)) continue;
        const std::size_t before = out.pieces.size();
        add_pieces(axis, place, kind, out.pieces);
        for (std::size_t i = before; i < out.pieces.size(); ++i) out.pieces[i].place = p;
        const bool dropped = options.compatibility && options.pruner_type != "taylor";
        if (kind == "tied") out.pieces.back().uses = dropped ? 1 : 2;
    }
    if (out.pieces.empty()) throw Error(Code::unsupported, out.name, ": no weight lies on it");
    put_in_order(out, axis.shape().kind);
    out.group.channels = out.pieces.front().each;
    for (const auto& piece : out.pieces) out.group.channels = std::min(out.group.channels, piece.each);
    out.group.initial = axis.size();
    out.group.balanced = axis.shape().balanced;
    out.group.keep = axis.shape().keep;
    out.group.unit_parameters = axis.shape().unit_parameters;
    return out;
}

/// Whether attention of a block is pruned by query heads: asked for, or all that multi-query attention has.
bool by_query_heads(std::span<const AxisShape> axes, std::int64_t block, const Options& options) {
    for (const auto& axis : axes)
        if (axis.block == block && axis.kind == AxisKind::kv_groups)
            return options.head_unit == "query_balanced" || axis.size == 1;
    return false;
}

}  // namespace

bool is_pruned(const AxisShape& axis, std::span<const AxisShape> axes, const Options& options) {
    if (!axis.fixed.empty()) return false;
    if (options.mode == "channel_wise") return axis.kind == AxisKind::residual;
    if (axis.kind == AxisKind::mlp)
        return inside(axis.block, options.block_mlp_layer_start, options.block_mlp_layer_end);
    if (!axis.is_attention() ||
        !inside(axis.block, options.block_attention_layer_start, options.block_attention_layer_end))
        return false;
    const bool view = axis.kind == AxisKind::query_heads;
    return axis.kind == AxisKind::heads || view == by_query_heads(axes, axis.block, options);
}

std::vector<Target> targets_of(Structure& structure, const WholeModel& model, const Options& options) {
    std::vector<AxisShape> shapes;
    for (const auto& axis : structure.axes()) shapes.push_back(axis.shape());
    std::vector<Target> out;
    for (std::size_t i = 0; i < shapes.size(); ++i)
        if (is_pruned(shapes[i], shapes, options)) out.push_back(target_of(structure.axes()[i], i, model, options));
    return out;
}

}  // namespace kerf::llm_pruner
