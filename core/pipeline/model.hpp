// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/exec/program.hpp"
#include "core/graph/edit.hpp"
#include "core/graph/graph.hpp"
#include "core/pipeline/components.hpp"
#include "core/support/json_text.hpp"
#include "core/weights/checkpoint.hpp"

namespace kerf::core {

/// A model folder, or the GGUF file that stands for one, understood: its config, the graph that an adapter made of it,
/// and its mapped weights, checked against each other. Reads no weight.
class Model {
public:
    /// A folder whose config.json is an export (core/export) has the graph that it holds, one whose kerf.json says
    /// `"edited": true` that of kerf.json: the shapes are not those of the family's config any more. Errors (input): no
    /// config.json, unknown architecture (with the families that are known), missing tensor, wrong shape.
    static Model open(const std::filesystem::path& folder, const Components& components);
    /// config.json and graph alone, for a folder that need not have weights, or for a config's own path.
    static Model describe(const std::filesystem::path& path, const Components& components);
    /// The same graph over other weights (a stage's result), checked likewise.
    Model with_weights(Checkpoint checkpoint) const;
    /// The model after an edit of its graph; weights are edited when they are read. Without weights (describe()) the
    /// graph alone.
    Model edited(const Edit& edit) const;
    /// Whether the graph is another than that of config.json.
    bool is_edited() const noexcept { return edited_; }

    const nlohmann::json& config() const noexcept { return config_; }
    const Graph& graph() const noexcept { return graph_; }
    const Checkpoint& checkpoint() const noexcept { return *checkpoint_; }
    bool has_weights() const noexcept { return checkpoint_ != nullptr; }      ///< not after describe()
    const std::filesystem::path& folder() const noexcept { return folder_; }  ///< or the GGUF file
    const AdapterComponent& adapter() const noexcept { return *adapter_; }

    /// Reads for a Program. `this` must outlive it.
    WeightSource source() const;
    /// The name under which the checkpoint holds a tensor of the graph: some files, saved from the model without its
    /// head, leave out the leading component ("model.", "transformer.").
    std::string stored_name(const std::string& name) const;
    const StoredTensor& tensor(const std::string& name) const { return checkpoint_->at(stored_name(name)); }
    std::int64_t parameters() const;
    /// Has the system read a block's weights while something else runs; nothing happens past the last block.
    void prefetch(std::size_t block) const;

    /// Refuses windows that the model cannot take: longer than its positions.
    void check_length(std::int64_t length, const std::string& what) const;

private:
    void take_weights(Checkpoint checkpoint);
    void check_weights() const;
    void take_edited_graph();

    std::filesystem::path folder_;
    nlohmann::json config_;
    Graph graph_;
    std::shared_ptr<const Checkpoint> checkpoint_;
    const AdapterComponent* adapter_ = nullptr;
    bool edited_ = false;
};

/// The graph that an adapter makes of a config. Error(input) for a config that it refuses.
Graph graph_of(const nlohmann::json& config, const AdapterComponent& adapter, const Components& components);

}  // namespace kerf::core
