// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/graph/graph.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"
#include "host/loader/plugin.hpp"

namespace kerf {

using core::OpKind;
using nlohmann::json;

/// The adapter of the plugin kerf-NAME.so of this build.
inline const kerf_adapter& adapter(const std::string& name) {
    static std::map<std::string, host::LoadedPlugin> loaded;
    auto found = loaded.find(name);
    if (found == loaded.end())
        found = loaded.emplace(name, host::load_plugin(KERF_BUILD "/lib/kerf/kerf-" + name + ".so")).first;
    return *found->second.adapters.at(0);
}

inline core::Graph graph_of(const std::string& name, const json& config) {
    const auto& a = adapter(name);
    std::int32_t yes = 0;
    core::check_call("accepts",
                     [&](kerf_error* e) { return a.accepts(core::host_table(), core::as_values(config), &yes, e); });
    if (!yes) core::bad_input("not accepted");
    std::string document;
    const auto sink = [](void* to, kerf_text piece) { static_cast<std::string*>(to)->append(piece.data, piece.size); };
    core::check_call("describe", [&](kerf_error* e) {
        return a.describe(core::host_table(), core::as_values(config), sink, &document, e);
    });
    return core::parse_graph(json::parse(document), name);
}

inline std::string refusal(const std::string& name, const json& config) {
    try {
        graph_of(name, config);
    } catch (const core::Error& error) {
        return error.what();
    }
    return "taken";
}

inline std::vector<std::string> tensors(const core::Graph& graph) {
    std::vector<std::string> names;
    for (const auto& tensor : core::expected_tensors(graph)) names.push_back(tensor.name);
    return names;
}

inline bool reads(const core::Graph& graph, const std::string& tensor) {
    const auto names = tensors(graph);
    return std::find(names.begin(), names.end(), tensor) != names.end();
}

inline const core::Op& op_of(const core::Graph& graph, OpKind kind, std::size_t block = 0) {
    const auto& ops = graph.blocks.at(block).ops;
    return *std::find_if(ops.begin(), ops.end(), [&](const auto& op) { return op.kind == kind; });
}

}  // namespace kerf
