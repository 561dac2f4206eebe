// SPDX-License-Identifier: Apache-2.0
#include "core/exec/decoder_plan.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

bool same_rotation(const Op& a, const Op& b) {
    const RopeScaling &s = a.scaling, &t = b.scaling;
    return a.rotary_dim == b.rotary_dim && a.theta == b.theta && s.kind == t.kind && s.factor == t.factor &&
           s.low_freq_factor == t.low_freq_factor && s.high_freq_factor == t.high_freq_factor &&
           s.original_positions == t.original_positions && s.short_factors == t.short_factors &&
           s.long_factors == t.long_factors && s.attention_factor == t.attention_factor;
}

/// Hands out planes and takes them back.
class Planes {
public:
    int take() {
        if (spare_.empty()) return count_++;
        const int plane = spare_.back();
        spare_.pop_back();
        return plane;
    }
    void give(int plane) { spare_.push_back(plane); }
    int count() const { return count_; }

private:
    std::vector<int> spare_;
    int count_ = 0;
};

/// One list of ops. Linears that read the same value become one step, at the place of the first: its input is there,
/// and nothing can have read their outputs before.
class PartMaker {
public:
    PartMaker(const std::vector<Op>& ops, const WeightSource& source, const ResidentWeights& weights, DecoderPlan& plan,
              Planes& planes)
        : ops_(ops), source_(source), weights_(weights), plan_(plan), planes_(planes) {}

    /// From the value "x" in plane `input` (−1: there is none yet) to the value `result`.
    DecoderPart make(int input, const std::string& result) {
        for (const auto& op : ops_) add(op);
        DecoderPart part;
        part.input = input;
        std::map<std::string, int> place;
        if (input >= 0) place["x"] = input;
        for (std::size_t i = 0; i < steps_.size(); ++i) {
            auto& [step, in, out] = steps_[i];
            for (const auto& name : in) step.in.push_back(place.contains(name) ? place.at(name) : -1);
            for (const auto& name : out) step.out.push_back(place[name] = planes_.take());
            give_back(i, result, place);
            part.steps.push_back(std::move(step));
        }
        part.output = place.at(result);
        return part;
    }

private:
    struct Named {
        DecoderStep step;
        std::vector<std::string> in, out;
    };

    /// Planes of values that no step past `now` reads.
    void give_back(std::size_t now, const std::string& result, std::map<std::string, int>& place) {
        std::erase_if(place, [&](const auto& entry) {
            if (entry.first == result) return false;
            const bool read =
                std::any_of(steps_.begin() + std::ptrdiff_t(now) + 1, steps_.end(), [&](const auto& later) {
                    return std::find(later.in.begin(), later.in.end(), entry.first) != later.in.end();
                });
            if (!read) planes_.give(entry.second);
            return !read;
        });
    }

    std::vector<float> vector(const std::string& name) const {
        return name.empty() ? std::vector<float>() : source_.whole(name);
    }

    void add(const Op& op) {
        if (op.kind == OpKind::linear) {
            for (auto& earlier : steps_) {
                if (earlier.step.op.kind != OpKind::linear || earlier.in != op.in) continue;
                add_linear(op, earlier);
                return;
            }
        }
        Named made;
        made.step.op = op;
        made.in = op.in;
        if (op.kind == OpKind::linear) {
            add_linear(op, made);
        } else {
            made.out = op.out;
            describe(op, made.step);
        }
        steps_.push_back(std::move(made));
    }

    void add_linear(const Op& op, Named& to) const {
        to.step.linears.push_back({&weights_.matrix(op), vector(op.bias)});
        to.step.width.push_back(op.rows);
        to.out.push_back(op.out[0]);
    }

    void describe(const Op& op, DecoderStep& step) {
        if (op.kind == OpKind::rms_norm || op.kind == OpKind::layer_norm) {
            step.weight = vector(op.weight);
            step.bias = vector(op.bias);
            if (op.kind == OpKind::rms_norm)
                for (float& value : step.weight) value += float(op.value);
        }
        if (op.kind == OpKind::rope) {
            auto& known = plan_.rotations;
            const auto same =
                std::find_if(known.begin(), known.end(), [&](const Op& r) { return same_rotation(r, op); });
            step.rotation = int(same - known.begin());
            if (same == known.end()) known.push_back(op);
        }
        if (op.kind == OpKind::attention) {
            step.layer = int(plan_.attentions.size());
            plan_.attentions.push_back(op);
        }
    }

    const std::vector<Op>& ops_;
    const WeightSource& source_;
    const ResidentWeights& weights_;
    DecoderPlan& plan_;
    Planes& planes_;
    std::vector<Named> steps_;
};

/// The epilogue runs on each sequence's last token alone, the prologue knows nothing of earlier ones.
void refuse_attention(const std::vector<Op>& ops, const char* part) {
    for (const auto& op : ops)
        if (op.kind == OpKind::attention || op.kind == OpKind::rope)
            bad_input("text cannot be generated with this graph: its ", part, " has the op ", op_name(op.kind));
}

}  // namespace

DecoderPlan::DecoderPlan(const Graph& graph, const WeightSource& source, const ResidentWeights& weights) {
    refuse_attention(graph.prologue, "prologue");
    refuse_attention(graph.epilogue, "epilogue");
    Planes all;
    const auto part = [&](const std::vector<Op>& ops, int input, const std::string& result) {
        return PartMaker(ops, source, weights, *this, all).make(input, result);
    };
    prologue = part(graph.prologue, -1, "x");
    int value = prologue.output;
    for (const auto& block : graph.blocks) {
        blocks.push_back(part(block.ops, value, "y"));
        value = blocks.back().output;
    }
    epilogue = part(graph.epilogue, value, "logits");
    planes = all.count();
}

}  // namespace kerf::core
