// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/block_runner.hpp"
#include "core/pipeline/model.hpp"
#include "core/pipeline/run.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

json linears_of(const Model& model, const std::vector<Op>& ops) {
    json out = json::array();
    for (const auto& op : ops) {
        if (op.kind != OpKind::linear) continue;
        out.push_back({{"name", op.name},
                       {"role", op.role},
                       {"shape", {op.rows, op.columns}},
                       {"dtype", model.checkpoint().storage(model.stored_name(op.weight))},
                       {"bias", !op.bias.empty()},
                       {"input", op.in[0]}});
    }
    return out;
}

double flops_of(const std::vector<Op>& ops, std::int64_t length) {
    double sum = 0;
    for (const auto& op : ops) sum += op_flops(op, 1, length);
    return sum;
}

}  // namespace

json inspect_model(const std::filesystem::path& folder, const Components& components) {
    const Model model = Model::open(folder, components);
    const Graph& graph = model.graph();
    // Attention's share grows with the length; a window of one token leaves the weights alone.
    constexpr std::int64_t one_token = 1;
    double flops = flops_of(graph.prologue, one_token) + flops_of(graph.epilogue, one_token);
    json blocks = json::array();
    for (const auto& block : graph.blocks) {
        flops += flops_of(block.ops, one_token);
        blocks.push_back({{"name", block.name},
                          {"parameters", parameter_count(expected_tensors(block.ops))},
                          {"flops_per_token", flops_of(block.ops, one_token)},
                          {"linears", linears_of(model, block.ops)}});
    }
    std::map<std::string, std::uint64_t> dtypes;
    for (const auto& name : model.checkpoint().names())
        dtypes[model.checkpoint().storage(name)] += model.checkpoint().stored_bytes(name);
    return {
        {"model", folder.string()},
        {"family", graph.family},
        {"adapter", {{"id", model.adapter().id}, {"version", model.adapter().version}}},
        {"hidden", graph.hidden},
        {"vocabulary", graph.vocabulary},
        {"positions", graph.positions},
        {"parameters", model.parameters()},
        {"flops_per_token", flops},
        {"bytes", model.checkpoint().bytes()},
        {"bytes_by_dtype", dtypes},
        {"blocks", blocks},
        {"outside", {{"prologue", linears_of(model, graph.prologue)}, {"epilogue", linears_of(model, graph.epilogue)}}},
        {"graph", graph_json(graph)}};
}

}  // namespace kerf::core
