// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/stream_pass.hpp"

#include <algorithm>

#include "core/eval/evaluate.hpp"
#include "core/pipeline/model_stage.hpp"
#include "core/support/error.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;
constexpr std::int64_t outside = -2;

bool streams(const Stage& stage) {
    return !stage.bases && !(stage.whole && !stage.whole->by_axes);
}

/// Whether the graph behind the stage is known before it has run, and what comes later can start from a block.
bool can_be_followed(const Stage& stage, std::size_t blocks) {
    // Of some views the graph says which units are left, not only how many.
    const auto says_which = [](const AxisTarget& target) {
        return target.axis->is_view() && target.axis->kind != AxisKind::query_heads;
    };
    // The head comes after all blocks, and what a later stage copies beside them is copied before.
    const bool head = std::any_of(stage.targets.begin(), stage.targets.end(),
                                  [&](const Target& target) { return target.block == blocks; });
    return streams(stage) && !head && std::none_of(stage.axes.begin(), stage.axes.end(), says_which);
}

}  // namespace

std::size_t end_of_pass(const std::vector<Stage>& stages, std::size_t first, std::size_t blocks) {
    std::size_t last = first + 1;
    // What a method that sees the whole model, or surveys it, will do is known once there is its input.
    while (last < stages.size() && can_be_followed(stages[last - 1], blocks) && streams(stages[last]) &&
           !stages[last].whole && !stages[last].surveys())
        ++last;
    return last;
}

std::vector<Removal> removals_of(const Journal& journal, const Stage& stage, std::size_t index, std::int64_t block) {
    std::vector<Removal> out;
    if (stage.whole && !stage.whole->by_axes)
        for (const auto& loss : stage.whole->losses) out.push_back({(*stage.all_axes)[loss.axis].name, loss.units});
    for (const auto* entry : journal.of_stage("block", std::int64_t(index))) {
        if (block >= 0 && entry->value("block", std::int64_t{-1}) != block) continue;
        for (auto& removal : removals_from(*entry)) out.push_back(std::move(removal));
    }
    return out;
}

struct StreamPass::Part {
    Part(const RunTools& tools, std::size_t index, const Model& from)
        : index(index),
          stage(index < tools.prepared.stages.size() ? &tools.prepared.stages[index] : nullptr),
          input(stage ? stage->start(from) : from),
          planned(stage ? planned_result(input, *stage) : input),
          layout(layout_of(tools.recipe, tools.prepared, index, planned)),
          folder(tools.folder_of(index)),
          last_block(stage ? stage->last_block() : 0) {}

    bool shares() const { return stage && stage->sequential == Sequential::shared; }
    bool has_stream() const { return stage && stage->has_stream(); }
    std::int64_t number() const { return std::int64_t(index); }

    std::size_t index;
    const Stage* stage;
    Model input, planned;
    OutputLayout layout;
    std::filesystem::path folder;
    std::size_t last_block;  ///< the last one through which the tokens have to go
    std::optional<ResultWriter> writer;
    std::optional<Units> units;
    std::optional<States> states, dense;  ///< on the blocks as the stage leaves them, and as it found them
    double seconds = 0;
};

StreamPass::StreamPass(RunTools tools, std::size_t first, std::size_t last, const Model& input) : tools_(tools) {
    for (std::size_t index = first; index < last; ++index) {
        // A later stage reads what the one before has written of the block.
        const Part* before = parts_.empty() ? nullptr : parts_.back().get();
        parts_.push_back(std::make_unique<Part>(
            tools_, index, before ? before->planned.with_weights(Checkpoint::open(before->folder)) : input));
        Part& part = *parts_.back();
        if (part.shares() && parts_.size() > 1) {
            Part& lends = *parts_[parts_.size() - 2];
            lends.last_block = std::max(lends.last_block, part.last_block);
        }
        open(part);
    }
}

StreamPass::~StreamPass() = default;

const Model& StreamPass::input(std::size_t number) const {
    return parts_[number]->input;
}
double StreamPass::seconds(std::size_t number) const {
    return parts_[number]->seconds;
}
const OutputLayout& StreamPass::layout(std::size_t number) const {
    return parts_[number]->layout;
}

Model StreamPass::view(std::size_t number) const {
    const Part& part = *parts_[number];
    Model out = part.input;
    if (part.stage && part.stage->structural && !part.stage->zeroed) {
        const auto removed = removals_of(tools_.journal, *part.stage, part.index);
        if (!removed.empty()) out = part.input.edited(remove(part.input.graph(), *part.stage->all_axes, removed));
    }
    if (number + 1 < parts_.size() && graph_json(out.graph()) != graph_json(part.planned.graph()))
        throw Error(Fault::internal, text(part.stage->method_id, ": left another graph than planned"));
    return out;
}

Model StreamPass::result(std::size_t number) const {
    return view(number).with_weights(Checkpoint::open(parts_[number]->folder));
}

void StreamPass::open(Part& part) {
    std::filesystem::create_directories(part.folder);
    if (part.folder != tools_.folder) write_atomically(part.folder / "config.json", part.input.config().dump());
    const bool begun = tools_.journal.find("block", part.number(), outside) != nullptr;
    part.writer.emplace(part.layout, part.input, part.folder, begun);
    if (begun) return;
    part.writer->write_copied(part.layout.outside());
    part.writer->sync();
    tools_.journal.add(
        {{"kind", "block"}, {"stage", part.index}, {"block", outside}, {"checksums", part.writer->checksums()}});
}

void StreamPass::embed(Part& part) {
    part.units.emplace(*part.stage->windows);
    const auto begin = [&](std::optional<States>& stream) {
        stream.emplace(*part.units, tools_.folder, tools_.recipe.model.compute);
        embed_all(part.input, *part.units, tools_.recipe.model.compute, *stream);
    };
    begin(part.states);
    if (part.stage->dense_stream) begin(part.dense);
}

void StreamPass::run() {
    for (std::size_t i = 0; i < parts_.size(); ++i) {
        const bool lends = i + 1 < parts_.size() && parts_[i + 1]->shares();
        if (parts_[i]->has_stream() && !(is_finished(*parts_[i]) && (!lends || is_finished(*parts_[i + 1]))))
            embed(*parts_[i]);
    }
    const std::size_t blocks = parts_.front()->input.graph().blocks.size();
    for (std::size_t number = 0; number <= blocks; ++number) {
        tools_.meter.check_cancelled();
        parts_.front()->input.prefetch(number + 1);
        block(number);
    }
}

void StreamPass::block(std::size_t block) {
    const bool epilogue = block == parts_.front()->input.graph().blocks.size();
    for (std::size_t i = 0; i < parts_.size(); ++i) {
        Part& part = *parts_[i];
        if (epilogue && (!part.stage || part.stage->in_block(block).empty())) continue;
        const Part* sharer = i + 1 < parts_.size() && parts_[i + 1]->shares() ? parts_[i + 1].get() : nullptr;
        const auto started = std::chrono::steady_clock::now();
        tools_.meter.check_cancelled();
        tools_.meter.phase(part.stage ? part.stage->method_id : "copy");
        // Grams are not kept from an earlier run: what lends them does the block again.
        if (is_done(part, block) && (!sharer || is_done(*sharer, block)))
            stream_again(part, block);
        else
            make(part, block, sharer);
        part.seconds += seconds_since(started);
    }
    shared_.clear();
}

bool StreamPass::is_done(const Part& part, std::size_t block) const {
    return tools_.journal.find("block", part.number(), std::int64_t(block)) != nullptr;
}

/// Whether an earlier run has done all blocks; they are done in order.
bool StreamPass::is_finished(const Part& part) const {
    const std::size_t blocks = part.input.graph().blocks.size();
    const bool head = part.stage && !part.stage->in_block(blocks).empty();
    return is_done(part, head ? blocks : blocks - 1);
}

/// The output of a block that an earlier run finished, from the weights on disk (from the dense ones where that is what
/// later blocks are to see).
void StreamPass::stream_again(Part& part, std::size_t block) {
    if (!part.states || block >= part.last_block) return;
    const Stage& stage = *part.stage;
    const Model done = stage.sequential == Sequential::none ? part.input
                       : stage.structural
                           ? streamed_model(part.input, stage, block,
                                            removals_of(tools_.journal, stage, part.index, std::int64_t(block)),
                                            Checkpoint::open(part.folder))
                           : part.input.with_weights(Checkpoint::open(part.folder));
    run_block(done, block, *part.units, tools_.recipe.model.compute, *part.states, {});
    if (part.dense) run_block(part.input, block, *part.units, tools_.recipe.model.compute, *part.dense, {});
}

void StreamPass::make(Part& part, std::size_t block, const Part* sharer) {
    const bool epilogue = block == part.input.graph().blocks.size();
    ResultWriter& writer = *part.writer;
    json linears = json::array();
    PrunedParts pruned;
    const auto block_hooks = hooks(part, linears, pruned);
    const auto known = writer.checksums();
    std::int64_t runs = 0;
    if (part.stage) {
        BlockRunner runner(part.input, *part.stage, block, part.layout, block_hooks);
        runs = compress(part, runner, block, sharer);
    }
    if (!epilogue && pruned.removals.empty()) writer.write_copied(block);
    if (!epilogue && !pruned.removals.empty()) {
        const Model edited = pruned_model(part.input, *part.stage, pruned);
        writer.write_copied(block, &edited);
    }
    writer.sync();
    if (is_done(part, block)) return;
    json checksums = json::object();
    for (const auto& [name, sum] : writer.checksums())
        if (!known.contains(name)) checksums[name] = sum;
    json entry{{"kind", "block"},    {"stage", part.index}, {"block", block},
               {"linears", linears}, {"block_runs", runs},  {"checksums", checksums}};
    if (!pruned.removals.empty()) entry["removed"] = removals_json(pruned.removals);
    tools_.journal.add(entry);
}

/// Gives how often the tokens went through the block.
std::int64_t StreamPass::compress(Part& part, BlockRunner& runner, std::size_t block, const Part* sharer) {
    if (part.shares()) {
        runner.compress_with(shared_);
        return 0;
    }
    if (!part.has_stream()) {
        runner.compress_without_data();
        return 0;
    }
    if (block > part.last_block) return 0;
    if (sharer) runner.lend(input_groups(block_ops(sharer->input.graph(), block), *sharer->stage, block));
    runner.run(*part.units, *part.states, part.dense ? &*part.dense : nullptr, tools_.recipe.model.compute,
               block == part.last_block);
    shared_ = runner.take_lent();
    return BlockRunner::block_runs(part.stage->sequential, block == part.last_block);
}

/// A line of metrics.jsonl and of the report.
void StreamPass::add_metrics(std::size_t stage, json& linears, json line) {
    line["rss_bytes"] = resident_bytes();
    tools_.meter.detail(line["name"]);
    json event = line;
    event["stage"] = stage;
    tools_.events.add("linear", std::move(event));
    linears.push_back(std::move(line));
}

BlockRunner::Hooks StreamPass::hooks(Part& part, json& linears, PrunedParts& pruned) {
    return {.made =
                [this, &part, &linears](const Target& target, const Compressed& made) {
                    part.writer->write_linear(target, made);
                    json line{{"name", target.name}, {"shape", {target.out, target.in}}};
                    for (const auto& [key, value] : made.metrics) line[key] = value;
                    add_metrics(part.index, linears, std::move(line));
                },
            .pruned =
                [this, &part, &linears, &pruned](const AxisTarget& target, Pruned&& made) {
                    for (const auto& consumer : made.consumers) {
                        const Op& op = part.input.graph().blocks[target.block].ops[consumer.op];
                        json line{{"name", op.name},
                                  {"shape", {op.rows, op.columns}},
                                  {"axis", target.axis->name},
                                  {"units", target.axis->size},
                                  {"removed", made.units.size()}};
                        for (const auto& [key, value] : consumer.metrics) line[key] = value;
                        add_metrics(part.index, linears, std::move(line));
                    }
                    pruned.add(part.input, target, std::move(made));
                },
            .progress = [this](double flops) { tools_.meter.add(flops); },
            .log = [this](int level, const std::string& message) { tools_.meter.log(level, message); },
            .check_cancelled = [this] { tools_.meter.check_cancelled(); }};
}

}  // namespace kerf::core
