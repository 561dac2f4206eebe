// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <map>

#include "core/graph/cost.hpp"
#include "core/pipeline/model.hpp"
#include "core/pipeline/run.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

/// What transformers takes for the dtype of a checkpoint whose config does not say.
constexpr DType silent_dtype = DType::f32;

/// How a model's tensors are stored or, where there are no weights, as config.json announces.
class Storage {
public:
    explicit Storage(const Model& model) : model_(model), announced_(announced(model.config())) {
        for (const auto& tensor : expected_tensors(model.graph())) {
            const DType dtype = model.has_weights() ? model.tensor(tensor.name).dtype : announced_;
            read_as_[dtype] += parameter_count({tensor});
            if (!model.has_weights()) bytes_[kind(tensor.name)] += bytes_of(tensor);
        }
        if (!model.has_weights()) return;
        // All that the file holds, be it more than the graph reads.
        const Checkpoint& weights = model.checkpoint();
        for (const auto& name : weights.names()) bytes_[weights.storage(name)] += weights.stored_bytes(name);
    }
    /// "F16", "Q4_1", "GPTQ 4-bit"
    std::string kind(const std::string& tensor) const {
        return model_.has_weights() ? model_.checkpoint().storage(model_.stored_name(tensor))
                                    : std::string(dtype_name(announced_));
    }
    /// What most weights are read as: the dtype that the cache is kept in.
    DType usual() const {
        return std::max_element(read_as_.begin(), read_as_.end(),
                                [](const auto& a, const auto& b) { return a.second < b.second; })
            ->first;
    }
    std::uint64_t bytes_of(const ExpectedTensor& tensor) const {
        return model_.has_weights() ? model_.checkpoint().stored_bytes(model_.stored_name(tensor.name))
                                    : std::uint64_t(parameter_count({tensor})) * dtype_bytes(announced_);
    }
    std::uint64_t bytes_of(const std::vector<Op>& ops) const {
        std::uint64_t sum = 0;
        for (const auto& tensor : expected_tensors(ops)) sum += bytes_of(tensor);
        return sum;
    }
    std::uint64_t bytes() const {
        std::uint64_t sum = 0;
        for (const auto& [kind, bytes] : bytes_) sum += bytes;
        return sum;
    }
    const std::map<std::string, std::uint64_t>& by_kind() const noexcept { return bytes_; }

private:
    static DType announced(const json& config) {
        for (const char* key : {"dtype", "torch_dtype"})
            if (config.contains(key) && config[key].is_string())
                if (const auto dtype = dtype_from_name(config[key].get<std::string>()); dtype && is_floating(*dtype))
                    return *dtype;
        return silent_dtype;
    }

    const Model& model_;
    DType announced_;
    std::map<DType, std::int64_t> read_as_;       ///< elements
    std::map<std::string, std::uint64_t> bytes_;  ///< by kind
};

json linears_of(const Storage& storage, const std::vector<Op>& ops) {
    json out = json::array();
    for (const auto& op : ops) {
        if (op.kind != OpKind::linear) continue;
        out.push_back({{"name", op.name},
                       {"role", op.role},
                       {"shape", {op.rows, op.columns}},
                       {"dtype", storage.kind(op.weight)},
                       {"bias", !op.bias.empty()},
                       {"input", op.in[0]}});
    }
    return out;
}

void add_cost(json& out, const Cost& cost, DType cache) {
    const auto value_bytes = std::int64_t(dtype_bytes(cache));
    out["parameters"] = cost.parameters;
    out["active_parameters"] = cost.active_parameters;
    out["flops_per_token"] = {{"prefill", cost.prefill_flops}, {"decode", cost.decode_flops}};
    out["kv_cache"] = {{"dtype", dtype_name(cache)},
                       {"bytes_per_token", cost.kv_values_per_token * value_bytes},
                       {"bytes", cost.kv_values * value_bytes}};
}

/// The size of all weights in each format that kerf writes; groups of 128 are GPTQ's usual.
json formats_of(const Graph& graph) {
    constexpr std::int64_t group_size = 128;
    constexpr std::array formats{WeightFormat{DType::f32},
                                 WeightFormat{DType::f16},
                                 WeightFormat{DType::f16, 8, group_size},
                                 WeightFormat{DType::f16, 4, group_size},
                                 WeightFormat{DType::f16, 3, group_size},
                                 WeightFormat{DType::f16, 2, group_size}};
    json out = json::array();
    for (const auto& format : formats) {
        json entry{{"dtype", dtype_name(format.dtype)},
                   {"bytes", weight_bytes(graph, format)},
                   {"bits_per_weight", bits_per_weight(graph, format)}};
        if (format.bits > 0) entry.update({{"bits", format.bits}, {"group_size", format.group_size}});
        out.push_back(std::move(entry));
    }
    return out;
}

std::int64_t checked_length(const Model& model, const std::filesystem::path& path, std::int64_t wanted) {
    constexpr std::int64_t usual = 2048;
    const std::int64_t most = model.graph().positions;
    if (most > 0 && wanted > most)
        bad_input("--length ", wanted, ": ", path.string(), " takes at most ", most, " tokens");
    if (wanted > 0) return wanted;
    return most > 0 ? std::min(usual, most) : usual;
}

}  // namespace

json inspect_model(const std::filesystem::path& path, const Components& components, std::int64_t wanted) {
    const bool weights = Checkpoint::present(path);
    const Model model = weights ? Model::open(path, components) : Model::describe(path, components);
    const Graph& graph = model.graph();
    const std::int64_t length = checked_length(model, path, wanted);
    const Storage storage(model);
    const GraphCost cost = cost_of(graph, length);

    json blocks = json::array();
    for (std::size_t b = 0; b < graph.blocks.size(); ++b) {
        json block{{"name", graph.blocks[b].name},
                   {"bytes", storage.bytes_of(graph.blocks[b].ops)},
                   {"linears", linears_of(storage, graph.blocks[b].ops)}};
        add_cost(block, cost.blocks[b], storage.usual());
        blocks.push_back(std::move(block));
    }
    json out{{"model", path.string()},
             {"family", graph.family},
             {"adapter", {{"id", model.adapter().id}, {"version", model.adapter().version}}},
             {"weights", weights},
             {"hidden", graph.hidden},
             {"vocabulary", graph.vocabulary},
             {"positions", graph.positions},
             {"length", length},
             {"bytes", model.has_weights() ? model.checkpoint().bytes() : storage.bytes()},
             {"bytes_by_dtype", storage.by_kind()},
             {"formats", formats_of(graph)},
             {"blocks", blocks},
             {"outside",
              {{"prologue", linears_of(storage, graph.prologue)}, {"epilogue", linears_of(storage, graph.epilogue)}}},
             {"graph", graph_json(graph)}};
    add_cost(out, cost.total, storage.usual());
    return out;
}

}  // namespace kerf::core
