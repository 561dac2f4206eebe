// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/model.hpp"

#include <set>

#include "core/export/export.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"
#include "core/support/json_text.hpp"
#include "core/weights/gguf_model.hpp"

namespace kerf::core {
namespace {

std::string described(const AdapterComponent& adapter, const kerf_host* host, const nlohmann::json& config) {
    std::string document;
    const kerf_sink sink = [](void* context, kerf_text piece) {
        static_cast<std::string*>(context)->append(piece.data, piece.size);
    };
    check_call(text(adapter.id, " adapter"), [&](kerf_error* error) {
        return adapter.table->describe(host, as_values(config), sink, &document, error);
    });
    return document;
}

const AdapterComponent& adapter_for(const nlohmann::json& config, const std::string& file,
                                    const Components& components) {
    std::string families;
    for (const auto& adapter : components.adapters) {
        std::int32_t yes = 0;
        check_call(text(adapter.id, " adapter"), [&](kerf_error* error) {
            return adapter.table->accepts(components.host, as_values(config), &yes, error);
        });
        if (yes) return adapter;
        families += (families.empty() ? "" : ", ") + adapter.id;
    }
    const auto type = config.contains("model_type") && config["model_type"].is_string()
                          ? config["model_type"].get<std::string>()
                          : "";
    bad_input(file, ": no adapter knows the architecture \"", type.empty() ? "(no model_type)" : type,
              "\"; known: ", families.empty() ? "none (no adapter plugin was found)" : families);
}

}  // namespace

Model Model::describe(const std::filesystem::path& path, const Components& components) {
    const bool gguf = is_gguf(path);
    const bool config_alone = path.extension() == ".json" && std::filesystem::is_regular_file(path);
    if (!gguf && !config_alone && !std::filesystem::is_directory(path))
        bad_input(path.string(), ": no such folder; model.path names a folder in Hugging Face layout, or a GGUF file");
    const std::string file = (gguf || config_alone ? path : path / "config.json").string();
    Model model;
    model.folder_ = config_alone ? path.parent_path() : path;
    nlohmann::json config = gguf ? GgufModel::open(path).config() : read_json(file);
    if (!config.is_object()) bad_input(file, ": is not a JSON object");
    const nlohmann::json exported = exported_graph(config, file);
    model.config_ = family_config(std::move(config), file);
    model.adapter_ = &adapter_for(model.config_, file, components);
    if (!exported.is_null()) {
        model.graph_ = parse_graph(exported, file);
        model.edited_ = true;
        return model;
    }
    model.take_edited_graph();
    if (!model.edited_) model.graph_ = graph_of(model.config_, *model.adapter_, components);
    return model;
}

Graph graph_of(const nlohmann::json& config, const AdapterComponent& adapter, const Components& components) {
    const std::string document = described(adapter, components.host, config);
    nlohmann::json graph;
    try {
        graph = nlohmann::json::parse(document);
    } catch (const nlohmann::json::exception& error) {
        throw Error(Fault::internal,
                    text(adapter.id, " adapter: its graph document is not valid JSON (", error.what(), ")"));
    }
    return parse_graph(graph, text(adapter.id, " adapter"));
}

/// Other kerf.json files tell of a run that kept the shapes: config.json says all.
void Model::take_edited_graph() {
    const auto path = folder_ / "kerf.json";
    std::error_code status;
    if (!std::filesystem::exists(path, status)) return;
    const nlohmann::json document = read_json(path);
    if (!document.is_object() || !document.contains("edited") || document["edited"] != true) return;
    if (!document.contains("graph"))
        bad_input(path.string(), ": says that the model was edited, and lacks its graph; is the file whole?");
    graph_ = parse_graph(document["graph"], path.string());
    edited_ = true;
}

Model Model::edited(const Edit& edit) const {
    Model model = *this;
    model.graph_ = edit.graph;
    model.edited_ = true;
    if (!checkpoint_) return model;
    TensorEdits stored;
    for (const auto& [name, selection] : edit.tensors.made) {
        Selection made = selection;
        if (!made.source.empty()) made.source = stored_name(made.source);
        stored.made.emplace(stored_name(name), std::move(made));
    }
    for (const auto& [name, computation] : edit.tensors.computed)
        stored.computed.emplace(stored_name(name), computation);
    // What the new graph does not read goes too, or it would stay as it was: a second copy of a tied table, say.
    std::set<std::string> read;
    for (const auto& expected : expected_tensors(edit.graph)) read.insert(stored_name(expected.name));
    for (const auto& name : checkpoint_->names())
        if (!read.contains(name)) stored.dropped.push_back(name);
    model.checkpoint_ = std::make_shared<Checkpoint>(
        checkpoint_->edited(stored, [this](const std::string& name) { return stored_name(name); }));
    model.check_weights();
    return model;
}

Model Model::open(const std::filesystem::path& folder, const Components& components) {
    Model model = describe(folder, components);
    model.take_weights(Checkpoint::open(folder));
    return model;
}

Model Model::with_weights(Checkpoint checkpoint) const {
    Model model = *this;
    model.take_weights(std::move(checkpoint));
    return model;
}

namespace {

std::string name_in(const Checkpoint& checkpoint, const std::string& name) {
    const auto dot = name.find('.');
    if (dot == std::string::npos || checkpoint.find(name) || !checkpoint.find(name.substr(dot + 1))) return name;
    return name.substr(dot + 1);
}

}  // namespace

std::string Model::stored_name(const std::string& name) const {
    return name_in(*checkpoint_, name);
}

void Model::take_weights(Checkpoint checkpoint) {
    const auto turn = [&](const std::vector<Op>& ops) {
        for (const auto& op : ops)
            if (op.kind == OpKind::linear && op.transposed) checkpoint.show_transposed(name_in(checkpoint, op.weight));
    };
    turn(graph_.prologue);
    for (const auto& block : graph_.blocks) turn(block.ops);
    turn(graph_.epilogue);
    checkpoint_ = std::make_shared<const Checkpoint>(std::move(checkpoint));
    check_weights();
}

void Model::check_weights() const {
    for (const auto& expected : expected_tensors(graph_)) {
        const StoredTensor& stored = tensor(expected.name);
        if (stored.shape != expected.shape)
            bad_input(checkpoint_->folder().string(), ": tensor ", stored.name, " has the shape ",
                      format_shape(stored.shape), edited_ ? ", kerf.json" : ", config.json", " asks for ",
                      format_shape(expected.shape));
        if (!is_floating(stored.dtype))
            bad_input(checkpoint_->folder().string(), ": tensor ", stored.name, " is ", dtype_name(stored.dtype),
                      ", not floating point");
    }
}

void Model::prefetch(std::size_t block) const {
    if (block >= graph_.blocks.size()) return;
    for (const auto& expected : expected_tensors(graph_.blocks[block].ops))
        checkpoint_->prefetch(stored_name(expected.name));
}

WeightSource Model::source() const {
    return {.whole = [this](const std::string& name) { return checkpoint_->read(stored_name(name)); },
            .row = [this](const std::string& name, std::int64_t row,
                          std::span<float> out) { checkpoint_->read_rows(stored_name(name), row, out); }};
}

std::int64_t Model::parameters() const {
    return parameter_count(expected_tensors(graph_));
}

void Model::check_length(std::int64_t length, const std::string& what) const {
    if (graph_.positions > 0 && length > graph_.positions)
        bad_input(what, ": windows of ", length, " tokens are longer than the ", graph_.positions, " positions of ",
                  folder_.string(), "; set length to at most ", graph_.positions);
}

}  // namespace kerf::core
