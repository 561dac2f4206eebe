// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/model_scope.hpp"

#include <algorithm>
#include <list>
#include <optional>
#include <set>

#include "core/exec/gradient_sweep.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "core/plugin_api/model_scope.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

/// The ops of a graph by the tensors that they read.
class OpsByTensor {
public:
    explicit OpsByTensor(const Graph& graph) {
        const auto add = [&](const std::vector<Op>& ops) {
            for (const auto& op : ops)
                for (const auto& tensor : {op.weight, op.bias})
                    if (!tensor.empty()) ops_[tensor].push_back(&op);
        };
        add(graph.prologue);
        for (const auto& block : graph.blocks) add(block.ops);
        add(graph.epilogue);
    }
    const Op* linear(const std::string& tensor) const {
        for (const Op* op : ops_.at(tensor))
            if (op->kind == OpKind::linear && op->weight == tensor) return op;
        return nullptr;
    }
    const std::vector<const Op*>& of(const std::string& tensor) const { return ops_.at(tensor); }

    /// As kerf.model/1 says it.
    std::string kind(const std::string& tensor) const {
        const auto& all = ops_.at(tensor);
        const bool head = linear(tensor) != nullptr;
        for (const Op* op : all) {
            if (op->kind == OpKind::embedding) return op->in[0] != "tokens" ? "positions" : head ? "tied" : "tokens";
            if (op->kind == OpKind::rms_norm) return "rms_norm";
            if (op->kind == OpKind::layer_norm) return "layer_norm";
        }
        return all.front()->role;
    }

private:
    std::map<std::string, std::vector<const Op*>> ops_;
};

/// A tensor as plugins see it: a linear [out, in], a table as it is, a vector as one row.
struct Values {
    std::vector<float> data;
    std::int64_t rows = 0, columns = 0;
};
Values values_of(const Model& model, const OpsByTensor& ops, const std::string& tensor) {
    const WeightSource source = model.source();
    if (const Op* linear = ops.linear(tensor)) return {linear_weight(source, *linear), linear->rows, linear->columns};
    const Op& op = *ops.of(tensor).front();
    if (op.kind == OpKind::embedding) return {source.whole(tensor), op.rows, op.columns};
    Values out{source.whole(tensor), 1, 0};
    out.columns = std::int64_t(out.data.size());
    return out;
}

/// The first `length` tokens of windows [first, first + count).
Windows part_of(const Windows& all, const kerf_sweep_request& request) {
    const std::int64_t count = request.windows > 0 ? request.windows : all.samples - request.first_window;
    const std::int64_t length = request.length > 0 ? request.length : all.length;
    if (request.first_window < 0 || count < 1 || request.first_window + count > all.samples)
        bad_input("calibration has ", all.samples, " windows, which do not hold ", request.windows, " from number ",
                  request.first_window, " on; set calibration.samples higher");
    if (length > all.length)
        bad_input("calibration has windows of ", all.length, " tokens, not the ", length,
                  " that are asked for; set calibration.length higher");
    Windows out;
    out.samples = count;
    out.length = length;
    for (std::int64_t w = 0; w < count; ++w) {
        const auto window = all.window(request.first_window + w).first(std::size_t(length));
        out.ids.insert(out.ids.end(), window.begin(), window.end());
    }
    return out;
}

class ModelScope final : public WholeModel {
public:
    ModelScope(const Model& model, const Windows* windows, const std::filesystem::path& scratch,
               const BlockRunner::Hooks& hooks)
        : model_(model), windows_(windows), scratch_(scratch), hooks_(hooks) {
        find();
    }
    const Model& model() const { return model_; }
    const std::vector<ModelEdit>& edits() const { return edits_; }

    std::int64_t parameters() const override { return model_.parameters(); }
    std::int64_t blocks() const override { return std::int64_t(model_.graph().blocks.size()); }

    void commit(bool keep_divisor) override {
        ModelEdit edit;
        edit.keep_divisor = keep_divisor;
        for (const auto& axis : axes)
            if (axis->removed && !axis->removed->empty()) edit.removals.push_back({axis->axis.name, *axis->removed});
        if (!edit.removals.empty()) carry_out(std::move(edit));
        find();
    }

    void keep_blocks(std::int64_t count) override {
        for (const auto& axis : axes)
            if (axis->removed && !axis->removed->empty())
                bad_input("keep_blocks: units of ", axis->axis.name,
                          " are removed and not committed; call commit() first");
        ModelEdit edit;
        edit.keep_blocks = count;
        core::keep_blocks(model_.graph(), count);  // refuses a count that cannot be
        carry_out(std::move(edit));
        find();
    }

    const std::string& kind(const Place& place) const override { return kinds_.at(place.tensor); }

    double sweep(const kerf_sweep_request& request, const std::function<void(const kerf_gradient&)>& take) override;

private:
    void carry_out(ModelEdit edit) {
        model_ = edited(model_, edit);
        edits_.push_back(std::move(edit));
    }
    /// The axes of the model as it is. Those of before are kept, so that a plugin that still holds one is told.
    void find() {
        for (auto& axis : axes) {
            axis->removed.emplace();  // remove() is refused from now on
            spent_.push_back(std::move(axis));
        }
        axes.clear();
        axes_.push_back(find_axes(model_.graph()));
        ops_.emplace(model_.graph());
        for (const auto& tensor : expected_tensors(model_.graph())) kinds_[tensor.name] = ops_->kind(tensor.name);
        const std::int64_t tokens = windows_ ? windows_->samples * windows_->length : 0;
        const auto facts = axis_facts(model_.graph(), axes_.back(), tokens);
        const std::size_t generation = axes_.size();
        const auto reader = [this, generation](const Place& place) {
            if (generation != axes_.size())
                bad_input(place.tensor, ": is asked for through an axis from before the last commit()");
            Values values = values_of(model_, *ops_, place.tensor);
            return PlaceValues{std::move(values.data), {values.rows, values.columns}};
        };
        const auto last = std::make_shared<PlaceValues>();
        for (std::size_t i = 0; i < facts.size(); ++i)
            axes.push_back(std::make_unique<kerf_axis>(axes_.back()[i], facts[i], -1, reader, last));
    }

    Model model_;
    std::vector<ModelEdit> edits_;
    const Windows* windows_;
    const std::filesystem::path& scratch_;
    const BlockRunner::Hooks& hooks_;
    std::optional<OpsByTensor> ops_;            // of model_ as it is
    std::list<std::vector<Axis>> axes_;         // by commit; kerf_axis refers to them
    std::map<std::string, std::string> kinds_;  // by tensor; edits keep names
    std::vector<std::unique_ptr<kerf_axis>> spent_;
};

/// A matrix as a DLTensor; not to be copied.
struct View {
    std::int64_t shape[2], strides[2];
    DLTensor tensor;
    View(const std::vector<float>& data, std::int64_t rows, std::int64_t columns)
        : shape{rows, columns}, strides{columns, 1} {
        tensor = {const_cast<float*>(data.data()), {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, shape, strides, 0};
    }
    View(const View&) = delete;
    View& operator=(const View&) = delete;
};

double ModelScope::sweep(const kerf_sweep_request& request, const std::function<void(const kerf_gradient&)>& take) {
    if (windows_ == nullptr)
        bad_input("gradients need calibration text; add a [calibration] table with source and path to the recipe");
    std::set<std::string> wanted, known;
    for (std::size_t i = 0; i < request.tensor_count; ++i)
        wanted.emplace(request.tensors[i].data, request.tensors[i].size);
    for (const auto& tensor : expected_tensors(model_.graph())) known.insert(tensor.name);
    for (const auto& name : wanted)
        if (!known.contains(name)) bad_input("sweep: the model has no tensor ", name);
    const Windows windows = part_of(*windows_, request);
    SweepRequest sweep;
    sweep.wanted = [&](const std::string& tensor) { return wanted.contains(tensor); };
    sweep.squares = request.squares != 0;
    sweep.progress = hooks_.progress;
    sweep.check_cancelled = hooks_.check_cancelled;
    sweep.made = [&](TensorGradient&& made) {
        const auto values = values_of(model_, *ops_, made.tensor);
        const View value(values.data, made.rows, made.columns), mean(made.mean, made.rows, made.columns),
            squares(made.squares, made.rows, made.columns);
        kerf_gradient gradient{};
        gradient.struct_size = sizeof(gradient);
        gradient.tensor = {made.tensor.data(), made.tensor.size()};
        gradient.values = &value.tensor;
        gradient.mean = &mean.tensor;
        gradient.squares = sweep.squares ? &squares.tensor : nullptr;
        take(gradient);
    };
    return sweep_gradients(model_.graph(), model_.source(), windows, scratch_, sweep);
}

}  // namespace

Model edited(const Model& model, const ModelEdit& edit) {
    if (edit.keep_blocks > 0) return model.edited(keep_blocks(model.graph(), edit.keep_blocks));
    return model.edited(
        remove(model.graph(), find_axes(model.graph()), edit.removals, {.keep_divisor = edit.keep_divisor}));
}

nlohmann::json edits_json(const std::vector<ModelEdit>& edits) {
    nlohmann::json out = nlohmann::json::array();
    for (const auto& edit : edits)
        out.push_back({{"removed", removals_json(edit.removals)},
                       {"keep_divisor", edit.keep_divisor},
                       {"keep_blocks", edit.keep_blocks}});
    return out;
}

std::vector<ModelEdit> edits_from(const nlohmann::json& list) {
    std::vector<ModelEdit> out;
    for (const auto& edit : list)
        out.push_back(
            {removals_from(edit), edit.value("keep_divisor", true), edit.value("keep_blocks", std::int64_t{0})});
    return out;
}

PrunedModel prune_model(const Model& model, const MethodInstance& method, const Windows* windows,
                        const std::filesystem::path& scratch, const BlockRunner::Hooks& hooks) {
    ModelScope scope(model, windows, scratch, hooks);
    kerf_job job;
    job.log = hooks.log;
    method.prune(&job, &scope);
    scope.commit(true);
    return {scope.model(), scope.edits(), std::move(job.metrics)};
}

ModelPlan plan_model(const Model& model, const MethodInstance& method, std::int64_t tokens) {
    ModelPlan out;
    out.axes = find_axes(model.graph());
    out.facts = axis_facts(model.graph(), out.axes, tokens);
    std::vector<kerf_axis_shape> shapes;
    for (std::size_t i = 0; i < out.axes.size(); ++i) shapes.push_back(axis_shape(out.axes[i], out.facts[i], -1));
    const auto plans = method.plan_axes(shapes);
    for (std::size_t i = 0; i < plans.size(); ++i)
        if (plans[i].remove >= 0) out.removals.push_back({i, plans[i]});
    return out;
}

}  // namespace kerf::core
