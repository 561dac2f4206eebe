// SPDX-License-Identifier: Apache-2.0
// What a method of scope MODEL can do to a model, through the tables that plugins get.
#include <functional>

#include "core/pipeline/model_scope.hpp"
#include "core/plugin_api/host_table.hpp"
#include "core/support/error.hpp"
#include "kerf/model.hpp"
#include "tests/golden/run_fixture.hpp"

namespace kerf::core {
namespace {

/// What prune_model() does in the next call.
std::function<void(kerf::Structure&, kerf::Job&)> body;

struct NoChoice {};
class Probe final : public kerf::ModelMethod<NoChoice> {
public:
    static constexpr kerf::Info info{"probe", "1.0.0", "Does what the test says"};
    kerf::AxisPlan plan(const kerf::AxisShape& axis) const override {
        kerf::AxisPlan out;
        if (axis.kind == kerf::AxisKind::mlp) out.remove = axis.size / 4;
        return out;
    }
    void prune(kerf::Structure& structure, kerf::Job& job) const override { body(structure, job); }
};

class ModelScopeTest : public testing::Test {
protected:
    PrunedModel run(const Windows* windows, std::function<void(kerf::Structure&, kerf::Job&)> what) {
        body = std::move(what);
        return prune_model(model_, instance_, windows, scratch_.path(), hooks_);
    }
    std::string refusal(const Windows* windows, std::function<void(kerf::Structure&, kerf::Job&)> what) {
        try {
            run(windows, std::move(what));
        } catch (const Error& error) {
            EXPECT_EQ(error.fault(), Fault::input);
            return error.what();
        }
        return "";
    }
    static Windows windows() {
        return token_windows(golden_file("llama-tiny", "tokens-llama-tiny.safetensors"), "calib", 4);
    }
    static kerf::Axis& named(kerf::Structure& structure, std::string_view name) {
        for (auto& axis : structure.axes())
            if (axis.name() == name) return axis;
        throw std::runtime_error("no such axis");
    }

    ScratchFolder scratch_;
    Model model_ = Model::open(test_data("models/llama-tiny"), components());
    MethodComponent method_{"probe", "1.0.0", "probe", {}, Probe::kerf_table<Probe>()};
    MethodInstance instance_{method_, host_table(), nlohmann::json::object()};
    BlockRunner::Hooks hooks_{.made = {},
                              .pruned = {},
                              .progress = [](double) {},
                              .log = [](int, const std::string&) {},
                              .check_cancelled = [] {}};
};

const std::string mlp = "model.layers.0.mlp", up = "model.layers.0.mlp.up_proj.weight";

TEST_F(ModelScopeTest, ACommitLeavesASmallerModelWithUnitsNumberedAnew) {
    const PrunedModel pruned = run(nullptr, [&](kerf::Structure& structure, kerf::Job&) {
        const kerf::WholeModel whole(structure);
        const auto before = whole.parameters(), size = named(structure, mlp).size();
        const std::vector<std::int64_t> units{0, 2};
        named(structure, mlp).remove(units);
        EXPECT_EQ(whole.parameters(), before);
        kerf::Structure after = whole.commit(true);
        EXPECT_EQ(whole.parameters(), before - 2 * 3 * 256);
        EXPECT_EQ(named(after, mlp).size(), size - 2);
        named(after, mlp).remove(units);  // committed when the method returns
    });
    ASSERT_EQ(pruned.edits.size(), 2u);
    const Axis& axis = axis_named(find_axes(pruned.model.graph()), mlp);
    EXPECT_EQ(axis.size, 704 - 4);
    // Unit 0 of the second commit was unit 1, unit 2 was unit 4.
    const auto dense = model_.source().whole(up), left = pruned.model.source().whole(up);
    EXPECT_TRUE(std::equal(left.begin(), left.begin() + 256, dense.begin() + 3 * 256));
    EXPECT_TRUE(std::equal(left.begin() + 256, left.begin() + 512, dense.begin() + 5 * 256));
}

TEST_F(ModelScopeTest, AnAxisFromBeforeACommitIsRefused) {
    const std::vector<std::int64_t> units{1};
    EXPECT_NE(refusal(nullptr,
                      [&](kerf::Structure& structure, kerf::Job&) {
                          kerf::WholeModel(structure).commit(true);
                          named(structure, mlp).remove(units);
                      }),
              "");
    EXPECT_NE(refusal(nullptr,
                      [&](kerf::Structure& structure, kerf::Job&) {
                          kerf::WholeModel(structure).commit(true);
                          named(structure, mlp).values(0);
                      })
                  .find("before the last commit"),
              std::string::npos);
}

TEST_F(ModelScopeTest, ASweepHandsOutWhatWasAskedForAndFollowsCommits) {
    const Windows some = windows();
    run(&some, [&](kerf::Structure& structure, kerf::Job& job) {
        const kerf::WholeModel whole(structure);
        const std::vector<std::string> tensors{up, "model.embed_tokens.weight", "model.norm.weight"};
        const auto shapes = [&] {
            std::map<std::string, std::pair<std::int64_t, std::int64_t>> out;
            const double loss = whole.gradients(job, {1, 2, 32}, tensors, true, [&](const kerf::Gradient& gradient) {
                out[std::string(gradient.tensor)] = {gradient.mean.rows(), gradient.mean.columns()};
                EXPECT_EQ(gradient.values.shape(), gradient.mean.shape());
                EXPECT_EQ(gradient.squares.shape(), gradient.mean.shape());
            });
            EXPECT_GT(loss, 1);
            EXPECT_LT(loss, 8);  // a guess would be ln 2048 = 7.6
            return out;
        };
        const auto before = shapes();
        ASSERT_EQ(before.size(), 3u);
        EXPECT_EQ(before.at(up), (std::pair<std::int64_t, std::int64_t>{704, 256}));
        EXPECT_EQ(before.at("model.norm.weight"), (std::pair<std::int64_t, std::int64_t>{1, 256}));
        named(structure, mlp).remove(std::vector<std::int64_t>{5});
        whole.commit(true);
        EXPECT_EQ(shapes().at(up), (std::pair<std::int64_t, std::int64_t>{703, 256}));
    });
}

TEST_F(ModelScopeTest, ASweepThatCannotBeIsRefusedInWords) {
    const Windows some = windows();
    const auto sweep = [](kerf::SweepWindows part, const std::string& tensor) {
        return [=](kerf::Structure& structure, kerf::Job& job) {
            const std::vector<std::string> tensors{tensor};
            kerf::WholeModel(structure).gradients(job, part, tensors, false, [](const kerf::Gradient&) {});
        };
    };
    EXPECT_NE(refusal(nullptr, sweep({}, up)).find("calibration"), std::string::npos);
    EXPECT_NE(refusal(&some, sweep({}, "no.such.weight")).find("no.such.weight"), std::string::npos);
    EXPECT_NE(refusal(&some, sweep({3, 2, 0}, up)).find("4 windows"), std::string::npos);
    EXPECT_NE(refusal(&some, sweep({0, 0, 257}, up)).find("256 tokens"), std::string::npos);
    EXPECT_NE(refusal(&some,
                      [](kerf::Structure& structure, kerf::Job& job) {
                          const std::vector<std::string> tensors{up};
                          kerf::WholeModel(structure).gradients(
                              job, {0, 1, 16}, tensors, false,
                              [](const kerf::Gradient&) { kerf::bad_value("not what I want"); });
                      })
                  .find("not what I want"),
              std::string::npos);
}

TEST_F(ModelScopeTest, BlocksGoFromTheEnd) {
    const PrunedModel pruned =
        run(nullptr, [](kerf::Structure& structure, kerf::Job&) { kerf::WholeModel(structure).keep_blocks(3); });
    EXPECT_EQ(pruned.model.graph().blocks.size(), 3u);
    EXPECT_EQ(pruned.model.parameters(), 3262208);
    for (const std::int64_t count : {0, 5})
        EXPECT_NE(refusal(nullptr, [count](kerf::Structure& structure,
                                           kerf::Job&) { kerf::WholeModel(structure).keep_blocks(count); })
                      .find("4 layers"),
                  std::string::npos);
}

TEST_F(ModelScopeTest, APlanIsAskedForEveryAxis) {
    const ModelPlan planned = plan_model(model_, instance_, 0);
    ASSERT_EQ(planned.removals.size(), 4u);
    EXPECT_EQ(planned.axes[planned.removals[0].axis].name, mlp);
    EXPECT_EQ(planned.removals[0].plan.remove, 176);
}

}  // namespace
}  // namespace kerf::core
