// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/graph/edit.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

/// Key-value heads along the rows of a linear.
struct HeadRows {
    std::int64_t first = 0, heads = 0, features = 0, copies = 1;
};

/// Repeats the key and value heads of one block's attention, back to the linears that make them.
class Expander {
public:
    explicit Expander(std::vector<Op>& ops) : ops_(ops) {}

    void run(TensorEdits& edits) {
        for (auto& op : ops_) {
            if (op.kind != OpKind::attention || op.kv_heads == op.heads) continue;
            const std::int64_t copies = op.heads / op.kv_heads;
            repeat(op.in[1], {0, op.kv_heads, op.head_dim, copies}, op.name);
            repeat(op.in[2], {0, op.kv_heads, value_dim(op), copies}, op.name);
            op.kv_heads = op.heads;
        }
        for (const auto& [index, parts] : parts_) repeat_rows(ops_[index], parts, edits);
    }

private:
    [[noreturn]] static void refuse(const Op& op, const std::string& why) {
        bad_input("gqa = \"expand\": ", op.name.empty() ? std::string(op_name(op.kind)) : op.name, " ", why,
                  "; use \"group\" or \"head_balanced\"");
    }

    /// `value` is to have `copies` of each head.
    void repeat(const std::string& value, HeadRows rows, const std::string& attention) {
        for (std::size_t i = 0; i < ops_.size(); ++i) {
            Op& op = ops_[i];
            const auto at = std::find(op.out.begin(), op.out.end(), value);
            if (at == op.out.end()) continue;
            check_readers(value, op);
            switch (op.kind) {
                case OpKind::linear:
                    parts_[i].push_back(rows);
                    return;
                case OpKind::rms_norm:
                case OpKind::layer_norm:
                    if (op.heads != rows.heads) refuse(op, "works on all key heads together");
                    op.rows *= rows.copies;
                    [[fallthrough]];
                case OpKind::rope:
                    op.heads *= rows.copies;
                    return repeat(op.in[0], rows, attention);
                case OpKind::split: {
                    if (op.groups > 1)
                        refuse(op, "takes queries, keys and values out of a fused linear group by group");
                    const auto part = at - op.out.begin();
                    rows.first += std::accumulate(op.sizes.begin(), op.sizes.begin() + part, std::int64_t{0});
                    // Offsets are those of the linear as it is: its other part may have grown already.
                    for (const auto& [grown, extra] : grown_[i])
                        if (grown < part) rows.first -= extra;
                    grown_[i].emplace_back(part, op.sizes[std::size_t(part)] * (rows.copies - 1));
                    op.sizes[std::size_t(part)] *= rows.copies;
                    return repeat(op.in[0], rows, attention);
                }
                default:
                    refuse(op, "lies between a linear and the attention that reads its keys");
            }
        }
        bad_input("gqa = \"expand\": ", attention, " reads keys that no op of its block makes");
    }

    void check_readers(const std::string& value, const Op& maker) const {
        if (maker.kind == OpKind::linear) return;
        const auto readers = std::count_if(ops_.begin(), ops_.end(), [&](const Op& op) {
            return std::find(op.in.begin(), op.in.end(), value) != op.in.end();
        });
        if (readers > 1) refuse(maker, "makes keys that more than one op reads");
    }

    static void repeat_rows(Op& op, std::vector<HeadRows> parts, TensorEdits& edits) {
        std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
        std::vector<std::int64_t> rows;
        std::int64_t next = 0;
        const auto take = [&](std::int64_t begin, std::int64_t count) {
            for (std::int64_t r = begin; r < begin + count; ++r) rows.push_back(r);
        };
        for (const auto& part : parts) {
            take(next, part.first - next);
            for (std::int64_t h = 0; h < part.heads; ++h)
                for (std::int64_t copy = 0; copy < part.copies; ++copy)
                    take(part.first + h * part.features, part.features);
            next = part.first + part.heads * part.features;
        }
        take(next, op.rows - next);
        op.rows = std::int64_t(rows.size());
        Selection weight;
        weight.source = op.weight;
        weight.kept.resize(2);
        weight.kept[op.transposed ? 1 : 0] = rows;
        edits.made.emplace(op.weight, std::move(weight));
        if (op.bias.empty()) return;
        Selection bias;
        bias.source = op.bias;
        bias.kept = {std::move(rows)};
        edits.made.emplace(op.bias, std::move(bias));
    }

    std::vector<Op>& ops_;
    std::map<std::size_t, std::vector<HeadRows>> parts_;                                 // by linear
    std::map<std::size_t, std::vector<std::pair<std::ptrdiff_t, std::int64_t>>> grown_;  // by split: part, features
};

}  // namespace

Edit expand_keys(const Graph& graph) {
    Edit edit{graph, {}};
    for (auto& block : edit.graph.blocks) Expander(block.ops).run(edit.tensors);
    if (edit.tensors.made.empty()) return edit;
    edit.graph = parse_graph(graph_json(edit.graph), "giving every query head a key of its own");
    return edit;
}

}  // namespace kerf::core
