// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "core/pipeline/block_runner.hpp"
#include "core/pipeline/tools.hpp"

namespace kerf::core {

/// One past the last of the stages from `first` on that go through the blocks together: none of them needs more of its
/// input than the block that it works on and what the earlier ones gave, so the bytes are those of one stage after the
/// other.
std::size_t end_of_pass(const std::vector<Stage>& stages, std::size_t first, std::size_t blocks);

/// Units that a stage removed: in one block, or in all.
std::vector<Removal> removals_of(const Journal& journal, const Stage& stage, std::size_t index,
                                 std::int64_t block = -1);

/// One walk over the blocks for stages [first, last): each block goes through all of them before the next is read. A
/// recipe without stages has one that copies. Every stage has its own stream of calibration tokens, on which the blocks
/// are as it leaves them, but for one with sequential = "shared", which takes the Grams of the stage before.
class StreamPass {
public:
    StreamPass(RunTools tools, std::size_t first, std::size_t last, const Model& input);
    ~StreamPass();
    void run();

    /// Of the number-th stage of the pass; results and times after run().
    const Model& input(std::size_t number) const;
    Model result(std::size_t number) const;
    /// The result's shape over the input's weights; of a stage that prunes, after run().
    Model view(std::size_t number) const;
    double seconds(std::size_t number) const;
    const OutputLayout& layout(std::size_t number) const;

private:
    struct Part;
    void open(Part& part);
    void embed(Part& part);
    void block(std::size_t block);
    bool is_done(const Part& part, std::size_t block) const;
    bool is_finished(const Part& part) const;
    void stream_again(Part& part, std::size_t block);
    void make(Part& part, std::size_t block, const Part* sharer);
    std::int64_t compress(Part& part, BlockRunner& runner, std::size_t block, const Part* sharer);
    void add_metrics(std::size_t stage, nlohmann::json& linears, nlohmann::json line);
    BlockRunner::Hooks hooks(Part& part, nlohmann::json& linears, PrunedParts& pruned);

    RunTools tools_;
    std::vector<std::unique_ptr<Part>> parts_;
    BlockRunner::Grams shared_;  ///< of the block that the stage before a sharing one has just done
};

}  // namespace kerf::core
