// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/save.hpp"

#include <algorithm>
#include <array>
#include <set>

#include "core/graph/residual.hpp"
#include "core/pipeline/output.hpp"
#include "core/support/error.hpp"
#include "core/version.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

/// A size of the graph, and how configs spell it.
struct Setting {
    std::vector<const char*> keys;
    json value;
};

/// Of the norms of the residual stream, where it is one number.
json common_epsilon(const Graph& graph) {
    json out;
    for (std::size_t part = 0; part < graph.blocks.size() + 2; ++part)
        for (const auto& op : part_ops(graph, part)) {
            if (op.kind != OpKind::rms_norm || op.heads != 1 || op.rows != graph.hidden) continue;
            if (!out.is_null() && out != op.eps) return {};
            out = op.eps;
        }
    return out;
}

/// Whether the head has the embedding's weight.
bool is_tied(const Graph& graph) {
    for (const auto& table : graph.prologue)
        for (const auto& op : graph.epilogue)
            if (table.kind == OpKind::embedding && op.kind == OpKind::linear && op.weight == table.weight) return true;
    return false;
}

/// The one size of all axes of a kind; 0 when they differ, or there are none.
std::int64_t common_size(const std::vector<Axis>& axes, AxisKind kind) {
    std::int64_t size = 0;
    for (const auto& axis : axes) {
        if (axis.kind != kind) continue;
        if (size != 0 && size != axis.size) return 0;
        size = axis.size;
    }
    return size;
}

/// The sizes that configs set, always the same ones in the same order.
std::vector<Setting> settings_of(const Graph& graph) {
    const std::vector<Axis> axes = find_axes(graph);
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
    for (const auto& block : graph.blocks)
        for (const auto& op : block.ops)
            if (op.kind == OpKind::attention && heads == 0) {
                heads = op.heads;
                kv_heads = op.kv_heads;
                head_dim = op.head_dim;
            }
    return {{{"num_hidden_layers", "n_layer", "n_layers", "num_layers"}, std::int64_t(graph.blocks.size())},
            {{"hidden_size", "n_embd", "d_model"}, graph.hidden},
            {{"intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"}, common_size(axes, AxisKind::mlp)},
            {{"num_local_experts", "num_experts"}, common_size(axes, AxisKind::experts)},
            {{"num_attention_heads", "n_head"}, heads},
            {{"num_key_value_heads", "num_kv_heads"}, kv_heads},
            {{"rms_norm_eps"}, common_epsilon(graph)},
            {{"tie_word_embeddings"}, is_tied(graph)},
            {{"head_dim"}, head_dim}};
}

/// Sizes that differ or are not there are 0, other values null.
bool is_known(const json& value) {
    return !value.is_null() && value != 0;
}

/// Those that an edit has changed. The size of a head is never left to be divided out of others that have changed.
std::vector<Setting> changed_settings(const Graph& before, const Graph& after) {
    const std::vector<Setting> old = settings_of(before), now = settings_of(after);
    std::vector<Setting> out;
    for (std::size_t i = 0; i < now.size(); ++i)
        if (is_known(now[i].value) && (now[i].value != old[i].value || (i + 1 == now.size() && !out.empty())))
            out.push_back(now[i]);
    return out;
}

/// Tries the settings one after the other: under the keys that the config has, or else under each that it could have,
/// or not at all.
class StockSearch {
public:
    StockSearch(const Model& model, const Components& components)
        : model_(model), components_(components), wanted_(graph_json(model.graph())) {}

    std::optional<json> run() {
        const auto dense = graph_of_config(model_.config());
        if (!dense) return {};
        settings_ = changed_settings(*dense, model_.graph());
        json config = model_.config();
        // One entry a layer, which transformers counts.
        if (config.contains("layer_types") && config["layer_types"].size() > model_.graph().blocks.size())
            config["layer_types"].erase(config["layer_types"].begin() + std::ptrdiff_t(model_.graph().blocks.size()),
                                        config["layer_types"].end());
        return search(0, config);
    }

private:
    std::optional<json> search(std::size_t next, const json& config) {
        if (next == settings_.size()) return makes_the_graph(config) ? std::optional(config) : std::nullopt;
        const Setting& setting = settings_[next];
        json with = config;
        for (const auto* key : setting.keys)
            if (config.contains(key)) with[key] = setting.value;
        if (with != config) return search(next + 1, with);
        if (auto found = search(next + 1, config)) return found;
        for (const auto* key : setting.keys) {
            if (config.contains(key)) continue;
            with[key] = setting.value;
            if (auto found = search(next + 1, with)) return found;
            with = config;
        }
        return {};
    }

    /// transformers makes no Llama and no Gemma 2 whose heads do not divide the hidden size, whatever head_dim says, and
    /// counts the factors of Phi-3's longrope by the size of a head that it divides out itself.
    static bool refused_by_its_class(const json& config) {
        const std::string type = config.value("model_type", "");
        const std::int64_t heads = config.value("num_attention_heads", std::int64_t{1});
        const std::int64_t hidden = config.value("hidden_size", std::int64_t{0});
        if (heads <= 0) return false;
        if (type == "llama" || type == "gemma2") return hidden % heads != 0;
        if (type != "phi3") return false;
        const bool factors = std::any_of(rope_keys.begin(), rope_keys.end(), [&](const char* key) {
            return config.contains(key) && config[key].is_object() && config[key].contains("short_factor");
        });
        return factors && config.value("head_dim", hidden / heads) * heads != hidden;
    }

    bool makes_the_graph(const json& config) const {
        if (refused_by_its_class(config)) return false;
        const auto graph = graph_of_config(config);
        return graph && graph_json(*graph) == wanted_;
    }

    /// Nothing for a config that the adapter refuses.
    std::optional<Graph> graph_of_config(const json& config) const {
        try {
            return graph_of(config, model_.adapter(), components_);
        } catch (const Error&) {
            return {};
        }
    }

    static constexpr std::array rope_keys{"rope_parameters", "rope_scaling"};
    const Model& model_;
    const Components& components_;
    json wanted_;
    std::vector<Setting> settings_;
};

}  // namespace

std::optional<json> stock_config(const Model& model, const Components& components) {
    return StockSearch(model, components).run();
}

FinalConfig final_config(const Model& model, const OutputLayout& layout, const Components& components) {
    FinalConfig out{output_config(model, layout), true};
    if (!model.is_edited()) return out;
    const auto stock = stock_config(model, components);
    out.stock = stock.has_value();
    if (stock)
        for (const auto& [key, value] : stock->items())
            if (!out.config.contains(key) || model.config().value(key, json()) != value) out.config[key] = value;
    return out;
}

void save_model(const Model& model, const Components& components, const std::filesystem::path& folder,
                const SaveOptions& options) {
    namespace fs = std::filesystem;
    std::error_code status;
    if (fs::exists(folder, status)) bad_input(folder.string(), ": is there already; name another folder, or remove it");
    const fs::path partial = folder.string() + ".partial";
    fs::remove_all(partial, status);
    fs::create_directories(partial, status);
    if (status) bad_environment(partial.string(), ": cannot be made (", status.message(), ")");

    const OutputLayout layout(model, model, nullptr, {.dtype = options.dtype, .shard_bytes = options.shard_bytes});
    ResultWriter writer(layout, model, partial, false);
    for (std::size_t block = 0; block <= layout.outside(); ++block) writer.write_copied(block);
    writer.sync();

    const auto [config, stock] = final_config(model, layout, components);
    write_config(partial, config, model.graph(), !stock);
    const json kerf{
        {"kerf", version()}, {"edited", !stock}, {"graph", graph_json(model.graph())}, {"crc32", writer.checksums()}};
    write_atomically(partial / "kerf.json", kerf.dump(1) + "\n");
    copy_side_files(model.folder(), partial);
    fs::rename(partial, folder, status);
    if (status) bad_environment(folder.string(), ": cannot be made (", status.message(), ")");
}

}  // namespace kerf::core
