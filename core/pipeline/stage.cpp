// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/stage.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "core/pipeline/basis_stage.hpp"
#include "core/pipeline/model_stage.hpp"
#include "core/plugin_api/axis.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/options.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

std::vector<int> version_numbers(std::string_view version) {
    std::vector<int> out;
    while (!version.empty()) {
        int number = 0;
        const auto [end, status] = std::from_chars(version.data(), version.data() + version.size(), number);
        if (status != std::errc()) break;
        out.push_back(number);
        version.remove_prefix(std::size_t(end - version.data()));
        if (version.empty() || version[0] != '.') break;
        version.remove_prefix(1);
    }
    out.resize(std::max<std::size_t>(out.size(), 3));
    return out;
}

/// ">=1.0", "1.2", "<2": whether `version` is what the recipe asks for.
bool version_fits(const std::string& wanted, const std::string& version) {
    const auto digits = wanted.find_first_of("0123456789");
    const std::string relation = wanted.substr(0, std::min(digits, wanted.find(' ')));
    const auto asked = version_numbers(digits == std::string::npos ? "" : std::string_view(wanted).substr(digits));
    const auto has = version_numbers(version);
    if (relation == ">=") return has >= asked;
    if (relation == ">") return has > asked;
    if (relation == "<=") return has <= asked;
    if (relation == "<") return has < asked;
    return has == asked;
}

const MethodComponent& find_method(const StageSpec& spec, const Components& components) {
    if (const auto* method = components.method(spec.method)) {
        if (!spec.version.empty() && !version_fits(spec.version, method->version))
            bad_input(spec.location, ": method ", spec.method, " is here in version ", method->version, " (",
                      method->file.string(), "), the recipe asks for ", spec.version);
        return *method;
    }
    std::vector<std::string> known;
    std::string list;
    for (const auto& method : components.methods) {
        known.push_back(method.id);
        list += (list.empty() ? "" : ", ") + method.id;
    }
    const std::string near = nearest(spec.method, known);
    bad_input(spec.location, ": unknown method \"", spec.method, "\"",
              near.empty() ? "" : text("; did you mean \"", near, "\"?"),
              near.empty()
                  ? text("; known: ", list.empty() ? "none (no method plugin was found; see --plugin-path)" : list)
                  : "");
}

bool any_match(const std::vector<std::string>& globs, const std::string& name) {
    return std::any_of(globs.begin(), globs.end(), [&](const auto& glob) { return glob_match(glob, name); });
}

class TargetPicker {
public:
    TargetPicker(const Recipe& recipe, std::size_t index, const Components& components)
        : spec_(recipe.stages[index]),
          components_(components),
          method_(find_method(spec_, components)),
          options_(parse_schema(schema(), method_.id)) {
        for (const auto& [glob, values] : spec_.overrides)
            check_override(options_, values, text(spec_.location, ": override \"", glob, "\""));
    }

    const MethodComponent& method() const { return method_; }

    /// `block`: the name of an axis's block, which overrides may name too.
    std::shared_ptr<const MethodInstance> instance_for(const std::string& name, const std::string& block = {}) {
        json options = spec_.options.is_object() ? spec_.options : json::object();
        for (const auto& [glob, values] : spec_.overrides)
            if (glob_match(glob, name) || (!block.empty() && glob_match(glob, block))) options.update(values);
        return instance(std::move(options));
    }
    std::shared_ptr<const MethodInstance> instance(json options) {
        const json full = validate_options(schema(), options, method_.id, spec_.where);
        auto& made = instances_[full.dump()];
        if (!made) made = std::make_shared<MethodInstance>(method_, components_.host, full);
        return made;
    }

    /// Options that the recipe has and that do nothing.
    std::vector<std::string> idle() const {
        json options = spec_.options.is_object() ? spec_.options : json::object();
        auto out = idle_options(options_, options, validate_options(schema(), options, method_.id, spec_.where));
        for (const auto& [glob, values] : spec_.overrides) {
            json own = options;
            own.update(values);
            for (const auto& sentence :
                 idle_options(options_, values, validate_options(schema(), own, method_.id, spec_.where)))
                out.push_back(text("override \"", glob, "\": ", sentence));
        }
        return out;
    }

    /// Whether include and exclude leave an axis; patterns name it or its block.
    bool wanted(const Axis& axis, const std::string& block) const {
        const auto matches = [&](const auto& globs) { return any_match(globs, axis.name) || any_match(globs, block); };
        return !matches(spec_.exclude) && (spec_.include.empty() || matches(spec_.include));
    }

    /// Without include: what blocks hold but routers, which are small and choose between things that are not
    /// continuous, and shortcuts, through which the whole residual stream goes.
    bool wanted(const Op& linear, bool in_blocks) const {
        if (any_match(spec_.exclude, linear.name)) return false;
        if (!spec_.include.empty()) return any_match(spec_.include, linear.name);
        return in_blocks && linear.role != "router" && linear.role != "shortcut";
    }

    /// `fixed`: names of what the method leaves alone anyway, which exclude may name too.
    void check_globs(const std::vector<std::string>& names, const std::vector<std::string>& fixed = {},
                     const std::string& what = "linear layer (kerf inspect lists their names)") const {
        const auto matches = [](const std::vector<std::string>& among, const std::string& glob) {
            return std::any_of(among.begin(), among.end(), [&](const auto& name) { return glob_match(glob, name); });
        };
        for (const auto& glob : spec_.include)
            if (!matches(names, glob)) bad_input(spec_.location, ": include \"", glob, "\" matches no ", what);
        for (const auto& glob : spec_.exclude)
            if (!matches(names, glob) && !matches(fixed, glob))
                bad_input(spec_.location, ": exclude \"", glob, "\" matches no ", what);
        for (const auto& [glob, values] : spec_.overrides)
            if (!matches(names, glob)) bad_input(spec_.location, ": override \"", glob, "\" matches no ", what);
    }

private:
    std::string_view schema() const { return {method_.table->options_schema.data, method_.table->options_schema.size}; }

    const StageSpec& spec_;
    const Components& components_;
    const MethodComponent& method_;
    std::vector<OptionSpec> options_;
    std::map<std::string, std::shared_ptr<MethodInstance>> instances_;
};

void check_target(const StageSpec& spec, const Graph& graph, const Op& op, const Stage& stage, std::size_t block) {
    if (block < graph.blocks.size()) return;
    for (const auto& table : graph.prologue)
        if (table.kind == OpKind::embedding && table.weight == op.weight)
            bad_input(spec.location, ": ", op.name, " shares its weight with the embedding (", op.weight,
                      "); compressing one would change the other, leave it out of include");
    if ((stage.sequential == Sequential::none || stage.sequential == Sequential::shared) && stage.calibrated)
        bad_input(spec.location, ": ", op.name, " cannot be calibrated with sequential = \"",
                  stage.sequential == Sequential::none ? "none" : "shared", "\"; use \"group\"");
}

}  // namespace

MethodInstance::MethodInstance(const MethodComponent& method, const kerf_host* host, json options)
    : method_(method), options_(std::move(options)) {
    check_call(method.id,
               [&](kerf_error* error) { return method.table->create(host, as_values(options_), &self_, error); });
}

std::uint64_t MethodInstance::needs() const noexcept {
    const kerf_method& table = *method_.table;
    return KERF_HAS(kerf_method, &table, needs_of) ? table.needs_of(self_) : table.needs;
}

MethodInstance::~MethodInstance() {
    if (self_ && method_.table->destroy) method_.table->destroy(self_);
}

MethodInstance::Cost MethodInstance::cost(const std::string& linear, std::int64_t out, std::int64_t in,
                                          std::int64_t tokens) const {
    kerf_linear_shape shape{sizeof(kerf_linear_shape), 0, out, in, tokens, {linear.data(), linear.size()}};
    kerf_cost raw{};
    raw.struct_size = sizeof(kerf_cost);
    check_call(text(linear, ": ", method_.id),
               [&](kerf_error* error) { return method_.table->cost(self_, &shape, &raw, error); });
    return {raw.scratch_bytes,
            raw.flops,
            raw.bits_per_weight,
            std::string(raw.layout.data ? raw.layout.data : "", raw.layout.size),
            raw.bits,
            raw.group_size};
}

std::vector<kerf_axis_plan> MethodInstance::plan_axes(const std::vector<kerf_axis_shape>& shapes) const {
    std::vector<kerf_axis_plan> plans(shapes.size(), blank_plan());
    std::vector<const kerf_axis_shape*> asked;
    std::vector<kerf_axis_plan*> answers;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        asked.push_back(&shapes[i]);
        answers.push_back(&plans[i]);
    }
    check_call(method_.id, [&](kerf_error* error) {
        return method_.table->plan_axes(self_, asked.data(), asked.size(), answers.data(), error);
    });
    return plans;
}

void MethodInstance::prune(kerf_job* job, kerf_axis* axis) const {
    check_call(text(axis->axis.name, ": ", method_.id),
               [&](kerf_error* error) { return method_.table->prune_axis(self_, job, axis, error); });
}

AxisCurve MethodInstance::survey(kerf_job* job, kerf_axis* axis) const {
    const kerf_method& table = *method_.table;
    const std::string what = text(axis->axis.name, ": ", method_.id);
    if (!KERF_HAS(kerf_method, &table, survey_axis) || !KERF_HAS(kerf_method, &table, allocate_axes))
        throw Error(Fault::internal, text(what, ": wants a survey and has no survey_axis() and allocate_axes()"));
    AxisCurve out;
    check_call(what, [&](kerf_error* error) { return table.survey_axis(self_, job, axis, take_curve, &out, error); });
    bool sound = !out.units.empty() && out.units.front() == 0 && out.units.back() <= axis->axis.size - axis->axis.keep;
    for (std::size_t i = 0; sound && i < out.units.size(); ++i)
        sound = std::isfinite(out.costs[i]) && (i == 0 || out.units[i] > out.units[i - 1]);
    if (!sound)
        throw Error(Fault::internal,
                    text(what, ": its survey gave a curve that does not ascend from no unit to at most ",
                         axis->axis.size - axis->axis.keep, ", or costs that are not finite"));
    return out;
}

std::vector<std::int64_t> MethodInstance::allocate(const std::vector<kerf_axis_shape>& shapes,
                                                   const std::vector<const AxisCurve*>& curves) const {
    std::vector<const kerf_axis_shape*> asked;
    std::vector<kerf_axis_curve> raw(curves.size());
    std::vector<const kerf_axis_curve*> given;
    std::vector<std::int64_t> out;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        asked.push_back(&shapes[i]);
        out.push_back(shapes[i].planned);
        if (curves[i])
            raw[i] = {sizeof(kerf_axis_curve), 0, std::int64_t(curves[i]->units.size()), curves[i]->units.data(),
                      curves[i]->costs.data()};
        given.push_back(curves[i] ? &raw[i] : nullptr);
    }
    check_call(method_.id, [&](kerf_error* error) {
        return method_.table->allocate_axes(self_, asked.data(), given.data(), asked.size(), out.data(), error);
    });
    return out;
}

void MethodInstance::compress(kerf_job* job, kerf_layer* layer) const {
    const kerf_text name = host_table()->name(layer);
    check_call(text(std::string_view(name.data, name.size), ": ", method_.id),
               [&](kerf_error* error) { return method_.table->compress(self_, job, layer, error); });
}

void MethodInstance::prune(kerf_job* job, kerf_model* model) const {
    check_call(method_.id, [&](kerf_error* error) { return method_.table->prune_model(self_, job, model, error); });
}

void MethodInstance::plan_bases(const kerf_residual* residual, kerf_basis_plan* plan) const {
    check_call(method_.id, [&](kerf_error* error) { return method_.table->bases->plan(self_, residual, plan, error); });
}

void MethodInstance::survey(kerf_job* job, const kerf_residual* residual, std::int64_t position,
                            const kerf_covariance* covariance) const {
    const kerf_text name = residual->positions[position].name;
    check_call(text(std::string_view(name.data, name.size), ": ", method_.id), [&](kerf_error* error) {
        return method_.table->bases->survey(self_, job, residual, position, covariance, error);
    });
}

void MethodInstance::choose_basis(kerf_job* job, const kerf_residual* residual, std::int64_t position,
                                  const kerf_covariance* covariance, DLTensor* q) const {
    const kerf_text name = residual->positions[position].name;
    check_call(text(std::string_view(name.data, name.size), ": ", method_.id), [&](kerf_error* error) {
        return method_.table->bases->basis(self_, job, residual, position, covariance, q, error);
    });
}

std::vector<const Target*> Stage::in_block(std::size_t block) const {
    std::vector<const Target*> out;
    for (const auto& target : targets)
        if (target.block == block) out.push_back(&target);
    return out;
}

const std::vector<Op>& block_ops(const Graph& graph, std::size_t block) {
    return block < graph.blocks.size() ? graph.blocks[block].ops : graph.epilogue;
}

const MethodComponent* Components::method(const std::string& id) const {
    for (const auto& method : methods)
        if (method.id == id) return &method;
    return nullptr;
}

std::vector<const AxisTarget*> Stage::axes_in_block(std::size_t block) const {
    std::vector<const AxisTarget*> out;
    for (const auto& target : axes)
        if (target.block == block) out.push_back(&target);
    return out;
}

bool Stage::surveys() const {
    return std::any_of(axes.begin(), axes.end(), [](const AxisTarget& target) { return target.surveyed; });
}

std::size_t Stage::last_block() const {
    std::size_t last = 0;
    for (const auto& target : targets) last = std::max(last, target.block);
    for (const auto& target : axes) last = std::max(last, target.block);
    return last;
}

std::vector<std::size_t> consumers_of(const Axis& axis, const std::vector<Op>& ops) {
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < ops.size(); ++i)
        for (const auto& place : axis.places)
            if (ops[i].kind == OpKind::linear && place.role == Place::Role::input && place.module == ops[i].name)
                out.push_back(i);
    return out;
}

void check_count(const std::string& method, const Axis& axis, std::int64_t count, const char* what) {
    const std::int64_t run = std::max<std::int64_t>(1, axis.balanced);
    if (count > axis.size - axis.keep || count % run != 0)
        bad_input(method, ": ", what, " ", count, " of the ", axis.size, " units of ", axis.name,
                  run > 1 ? text(", which come in ", run, " runs") : "", "; at least ", axis.keep, " must stay");
}

namespace {

void check_plan(const std::string& method, const Axis& axis, const kerf_axis_plan& plan) {
    if (plan.exact == 0 && plan.survey == 0)
        throw Error(Fault::input, text(method, ": does not know how many units of ", axis.name,
                                       " will go; a method that prunes axis by axis has to plan exact numbers, or to "
                                       "ask for a survey"));
    check_count(method, axis, plan.remove, "plans to remove");
}

/// Pools are one for a stage: an override may leave it, but not have one of its own.
void check_survey(const StageSpec& spec, const MethodInstance& own, const std::vector<kerf_axis_shape>& shapes,
                  const Stage& stage) {
    if (!stage.surveys()) return;
    const auto plans = own.plan_axes(shapes);
    if (std::none_of(plans.begin(), plans.end(), [](const auto& plan) { return plan.survey != 0; }))
        bad_input(spec.location,
                  ": an override asks for a survey, which weighs the axes of the whole stage against each "
                  "other; put its options into the stage itself");
    if (own.moments() == 0 || !stage.windows)
        throw Error(Fault::internal, text(spec.method, ": wants a survey without calibration"));
}

/// The axes that the method takes. Methods see all that lie inside a block, are read by linears of one input, and that
/// include and exclude leave.
void resolve_axes(const StageSpec& spec, TargetPicker& picker, const MethodInstance& base, const Graph& graph,
                  Stage& stage) {
    const std::int64_t tokens = stage.windows ? stage.windows->samples * stage.windows->length : 0;
    stage.all_axes = std::make_shared<const std::vector<Axis>>(find_axes(graph));
    const auto facts = axis_facts(graph, *stage.all_axes, tokens, stage.windows ? stage.windows->samples : 0);
    std::vector<std::size_t>& offered = stage.offered;
    std::vector<kerf_axis_shape> shapes;
    std::vector<std::string> names, fixed;
    for (std::size_t i = 0; i < facts.size(); ++i) {
        const Axis& axis = (*stage.all_axes)[i];
        const bool offers = axis.block >= 0 && facts[i].in_features > 0 && axis.fixed.empty();
        (offers ? names : fixed).push_back(axis.name);
        if (!offers) continue;
        const std::string& block = graph.blocks[std::size_t(axis.block)].name;
        names.push_back(block);
        if (!picker.wanted(axis, block)) continue;
        offered.push_back(i);
        shapes.push_back(axis_shape(axis, facts[i], -1));
    }
    std::map<const MethodInstance*, std::vector<kerf_axis_plan>> plans;
    for (std::size_t k = 0; k < offered.size(); ++k) {
        const Axis& axis = (*stage.all_axes)[offered[k]];
        const std::string& block = graph.blocks[std::size_t(axis.block)].name;
        const auto instance = picker.instance_for(axis.name, block);
        if ((instance->needs() ^ base.needs()) & KERF_NEEDS_OWN_KEYS)
            bad_input(spec.location, ": the override for ", axis.name,
                      " asks for keys of its own for every query head (or for none), which is for a whole stage");
        auto known = plans.find(instance.get());
        if (known == plans.end()) known = plans.emplace(instance.get(), instance->plan_axes(shapes)).first;
        const kerf_axis_plan& plan = known->second[k];
        if (plan.remove < 0) continue;
        check_plan(spec.method, axis, plan);
        stage.axes.push_back({&axis,
                              facts[offered[k]],
                              std::size_t(axis.block),
                              consumers_of(axis, graph.blocks[std::size_t(axis.block)].ops),
                              instance,
                              plan.remove,
                              plan.scratch_bytes,
                              plan.flops,
                              {},
                              plan.survey != 0,
                              plan.survey_bytes,
                              plan.survey_flops,
                              0});
    }
    picker.check_globs(names, fixed,
                       "axis or block; heads and channels are pruned by axes, not by linears (kerf inspect --axes "
                       "lists their names)");
    if (stage.axes.empty()) bad_input(spec.location, ": ", spec.method, " finds no axis of this model to prune");
    check_survey(spec, base, shapes, stage);
}

/// Adds the dense stream where options of the stage or of an override ask for it.
void resolve_dense_stream(const StageSpec& spec, const Graph& graph, Stage& stage) {
    for (const auto& target : stage.axes) {
        if ((target.method->needs() & KERF_NEEDS_DENSE_GRAM) == 0) continue;
        stage.dense_stream = true;
        if (graph.blocks[target.block].ops[target.consumers.front()].expert >= 0)
            bad_input(spec.location, ": ", target.axis->name,
                      " lies in a routed expert; pruned and dense model route tokens differently, so that the inputs "
                      "of an expert cannot be compared with the dense model's");
    }
    if (stage.refit && stage.dense_stream)
        bad_input(spec.location, ": refit = true fits weights anew to what they give in the current model, and ",
                  spec.method, " is to fit them to the dense model; leave one of them out");
}

/// `known`: the windows when they are at hand already.
std::shared_ptr<const Windows> windows_of(const StageSpec& spec, const Recipe& recipe, const Model& model,
                                          std::shared_ptr<const Windows> known) {
    const auto& source = spec.calibration ? spec.calibration : recipe.calibration;
    if (!source)
        bad_input(spec.location, ": ", spec.method,
                  " needs calibration text; add a [calibration] table with source and path");
    if (!known) {
        std::unique_ptr<Tokenizer> tokenizer;
        if (source->source != "tokens") tokenizer = Tokenizer::open(model.folder());
        known = std::make_shared<Windows>(calibration_windows(*source, tokenizer.get(), model.graph().vocabulary));
    }
    model.check_length(known->length, "calibration");
    return known;
}

/// A method that turns the residual stream works on the whole model.
void resolve_bases(Stage& stage, const StageSpec& spec, const Recipe& recipe, const Model& model,
                   std::shared_ptr<const MethodInstance> instance, std::shared_ptr<const Windows> windows) {
    if (!spec.include.empty() || !spec.exclude.empty() || !spec.overrides.empty())
        bad_input(
            spec.location, ": ", spec.method,
            " turns the residual stream, which all blocks share: include, exclude and override have no meaning here");
    for (const auto& tensor : expected_tensors(model.graph()))
        if (model.checkpoint().storage(model.stored_name(tensor.name)).starts_with("GPTQ"))
            bad_input(spec.location, ": ", tensor.name, " is packed; ", spec.method,
                      " multiplies weights by a basis, which has to come before they are quantised");
    for (const auto& block : model.graph().blocks)
        for (const auto& op : block.ops)
            if (op.role == "shortcut")
                bad_input(spec.location, ": the residual stream of ", block.name, " is sliced already (", op.name,
                          "); slice the model as it was, once, with a larger sparsity");
    try {  // a model that cannot be turned is refused before any text is read
        static_cast<void>(fuse_norms(model.graph()));
    } catch (const Error& error) {
        throw Error(error.fault(), text(spec.location, ": ", spec.method,
                                        " cannot turn the residual stream of this model: ", error.what(),
                                        "; slimgpt and llm_pruner can make it smaller"));
    }
    stage.windows = windows_of(spec, recipe, model, std::move(windows));
    const std::int64_t tokens = stage.windows->samples * stage.windows->length;
    stage.bases = std::make_shared<const BasisStage>(BasisStage::plan(
        std::move(instance), model, tokens, spec.refit ? std::optional(spec.refit_damp) : std::nullopt));
}

Stage resolve(const Recipe& recipe, std::size_t index, const Model& model, const Components& components,
              std::shared_ptr<const Windows> windows) {
    const StageSpec& spec = recipe.stages[index];
    TargetPicker picker(recipe, index, components);
    Stage stage;
    stage.method_id = spec.method;
    stage.method = &picker.method();
    stage.sequential = spec.sequential;
    const std::int32_t scope = method_scope(*stage.method->table);
    stage.structural = scope == KERF_SCOPE_AXES || scope == KERF_SCOPE_MODEL;
    const bool refits = stage.structural || scope == KERF_SCOPE_BASES;
    if ((!refits && spec.refit) || (!stage.structural && spec.zeroed))
        bad_input(spec.location, ": ", spec.zeroed ? "result = \"zeroed\"" : "refit = true",
                  " goes with methods that remove structures; ", spec.method, " does not");
    stage.refit = spec.refit;
    stage.refit_damp = spec.refit_damp;
    stage.zeroed = spec.zeroed;
    const auto instance = picker.instance(spec.options.is_object() ? spec.options : json::object());
    stage.options = instance->options();
    stage.notes = picker.idle();
    stage.own = instance;
    stage.calibrated = stage.refit || instance->moments() != 0;
    if (instance->needs() & KERF_NEEDS_OWN_KEYS)
        if (Edit edit = expand_keys(model.graph()); !edit.tensors.made.empty()) stage.expanded = std::move(edit);

    const Graph& graph = stage.expanded ? stage.expanded->graph : model.graph();
    if (scope == KERF_SCOPE_BASES) {
        resolve_bases(stage, spec, recipe, model, instance, std::move(windows));
        return stage;
    }
    // Whether a method that sees the whole model needs calibration is up to its options.
    const bool may_sweep = scope == KERF_SCOPE_MODEL && (spec.calibration || recipe.calibration);
    if (spec.sequential == Sequential::shared && windows)
        stage.windows = std::move(windows);
    else if (stage.calibrated || may_sweep)
        stage.windows = windows_of(spec, recipe, model, std::move(windows));
    if (stage.windows && !stage.windows->used.empty())
        bad_input(spec.location,
                  ": calibration with a mask goes with methods that turn the residual stream (slicegpt); ", spec.method,
                  " would count the padding; give it windows without");
    if (scope == KERF_SCOPE_MODEL) {
        plan_model_stage(stage, spec, model, instance);
        return stage;
    }
    if (stage.structural) {
        resolve_axes(spec, picker, *instance, graph, stage);
        resolve_dense_stream(spec, graph, stage);
        return stage;
    }
    std::vector<std::string> names;
    for (std::size_t block = 0; block <= graph.blocks.size(); ++block) {
        const auto& ops = block_ops(graph, block);
        for (std::size_t i = 0; i < ops.size(); ++i) {
            if (ops[i].kind != OpKind::linear) continue;
            names.push_back(ops[i].name);
            if (!picker.wanted(ops[i], block < graph.blocks.size())) continue;
            check_target(spec, graph, ops[i], stage, block);
            Target target{block, i, ops[i].name, ops[i].rows, ops[i].columns, picker.instance_for(ops[i].name), {}};
            const std::int64_t tokens = stage.windows ? stage.windows->samples * stage.windows->length : 0;
            target.cost = target.method->cost(target.name, target.out, target.in, tokens);
            stage.targets.push_back(std::move(target));
        }
    }
    picker.check_globs(names);
    if (stage.targets.empty())
        bad_input(spec.location, ": include and exclude leave no linear layer for ", spec.method);
    return stage;
}

}  // namespace

Stage resolve_stage(const Recipe& recipe, std::size_t index, const Model& model, const Components& components,
                    std::shared_ptr<const Windows> windows) {
    try {
        return resolve(recipe, index, model, components, std::move(windows));
    } catch (const Error& error) {
        // A method knows what is wrong with its options, but not where they stand.
        const std::string& method = recipe.stages[index].method;
        if (error.fault() != Fault::input || !std::string_view(error.what()).starts_with(method + ":")) throw;
        throw Error(Fault::input, text(recipe.stages[index].location, ": ", error.what()));
    }
}

}  // namespace kerf::core
