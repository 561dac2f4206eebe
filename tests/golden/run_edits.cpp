// SPDX-License-Identifier: Apache-2.0
// What kerf says of structure, held against what models compute: for every model in tests/data/models that has weights,
// and for small random ones of every shape that the ops can describe.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <random>

#include "core/eval/evaluate.hpp"
#include "core/exec/decoder.hpp"
#include "core/pipeline/save.hpp"
#include "core/support/error.hpp"
#include "core/weights/safetensors_writer.hpp"
#include "tests/golden/run_fixture.hpp"
#include "tests/unit/small_graphs.hpp"

namespace kerf::core {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A folder with random weights for a graph. Its config names a family that kerf knows; the graph is kerf.json's.
Model random_model(const Graph& graph, const fs::path& folder) {
    fs::create_directories(folder);
    std::vector<PlannedTensor> planned;
    for (const auto& tensor : expected_tensors(graph)) planned.push_back({tensor.name, DType::f32, tensor.shape});
    const ShardPlan plan(planned, std::uint64_t{1} << 40, {});
    ShardWriter writer(plan, folder, false);
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0, 0.4f);
    for (const auto& tensor : planned) {
        std::vector<float> values(tensor.bytes() / sizeof(float));
        for (auto& value : values) value = normal(random) + (tensor.name.find("n") == 0 ? 1.0f : 0.0f);
        writer.write(tensor.name, std::as_bytes(std::span(values)));
    }
    writer.sync();
    write_atomically(folder / "config.json", R"({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
      "intermediate_size": 96, "vocab_size": 40, "num_hidden_layers": 2})");
    write_atomically(folder / "kerf.json", json{{"edited", true}, {"graph", graph_json(graph)}}.dump());
    return Model::open(folder, components());
}

Windows windows_for(const Model& model) {
    Windows windows;
    windows.samples = 2;
    windows.length = 19;
    std::mt19937 random(3);
    std::uniform_int_distribution<std::int64_t> id(0, model.graph().vocabulary - 1);
    for (std::int64_t i = 0; i < windows.samples * windows.length; ++i) windows.ids.push_back(id(random));
    return windows;
}

/// A few units of an axis that can go together; none where none can.
std::vector<std::int64_t> some_units(const Axis& axis) {
    if (!axis.fixed.empty()) return {};
    std::vector<std::int64_t> out;
    if (axis.balanced > 1) {
        const std::int64_t each = axis.size / axis.balanced;
        for (std::int64_t run = 0; run < axis.balanced; ++run) out.push_back(run * each + (run + 1) % each);
        return out;
    }
    const std::int64_t count = std::min<std::int64_t>(3, axis.size - axis.keep);
    for (std::int64_t i = 0; i < count; ++i) out.push_back((i * 5 + 1) % axis.size);
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
}

/// Parameters that are left, from the places of an axis alone.
std::int64_t parameters_left(const Graph& graph, const Axis& axis, const std::vector<std::int64_t>& units) {
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (const auto& tensor : expected_tensors(graph)) shapes[tensor.name] = tensor.shape;
    for (const auto unit : units) {
        for (const auto& place : axis.places)
            shapes.at(place.tensor)[std::size_t(place.dimension)] -= std::int64_t(place.layout.indices(unit).size());
        if (!axis.whole.empty())
            for (const auto& tensor : axis.whole[std::size_t(unit)]) shapes.erase(tensor);
    }
    std::int64_t sum = 0;
    for (const auto& [name, shape] : shapes) {
        std::int64_t elements = 1;
        for (const auto size : shape) elements *= size;
        sum += elements;
    }
    return sum;
}

std::vector<std::string> models_with_weights() {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(test_data("models"))) {
        const fs::path folder = entry.path();
        const bool has_weights = fs::exists(folder / "model.safetensors") || fs::exists(folder / "pytorch_model.bin") ||
                                 fs::exists(folder / "model.safetensors.index.json");
        if (fs::exists(folder / "config.json") && has_weights) out.push_back(folder.filename().string());
    }
    for (const auto& [name, graph] : small::all()) out.push_back("small_" + name);
    std::sort(out.begin(), out.end());
    return out;
}

class EditedModel : public testing::TestWithParam<std::string> {
protected:
    Model open(const fs::path& scratch) const {
        const std::string name = GetParam();
        const std::string prefix = "small_";
        if (!name.starts_with(prefix)) return Model::open(test_data("models/" + name), components());
        return random_model(small::all().at(name.substr(prefix.size()))(), scratch / "model");
    }
};

TEST_P(EditedModel, ComputesWithoutUnitsWhatTheDenseOneDoesWithZeroes) {
    const ScratchFolder scratch;
    const Model dense = open(scratch.path());
    const Windows windows = windows_for(dense);
    const auto run = [&](const Model& model) { return logits(model, windows, DType::f32, scratch.path()); };
    const auto before = run(dense);
    const auto axes = find_axes(dense.graph());
    for (const auto& axis : axes) {
        const auto units = some_units(axis);
        if (units.empty()) continue;
        const std::vector<Removal> removals{{axis.name, units}};
        const Model removed = dense.edited(remove(dense.graph(), axes, removals));
        const auto expected = run(dense.edited(zero(dense.graph(), axes, removals)));
        EXPECT_LE(distance(run(removed), expected), 1e-5 * largest(expected)) << axis.name;
        EXPECT_GT(distance(before, expected), 1e-5 * largest(expected)) << axis.name << ": zeroing changes nothing";
        EXPECT_EQ(removed.parameters(), parameters_left(dense.graph(), axis, units)) << axis.name;
    }
}

/// Whether keys can be repeated: where they come out of a fused linear group by group they cannot.
bool can_expand(const Graph& graph) {
    for (const auto& block : graph.blocks)
        for (const auto& op : block.ops)
            if (op.kind == OpKind::split && op.groups > 1) return false;
    return true;
}

TEST_P(EditedModel, ComputesTheSameOnceEveryQueryHeadHasAKeyOfItsOwn) {
    const ScratchFolder scratch;
    const Model dense = open(scratch.path());
    const bool grouped =
        std::any_of(dense.graph().blocks[0].ops.begin(), dense.graph().blocks[0].ops.end(),
                    [](const Op& op) { return op.kind == OpKind::attention && op.heads != op.kv_heads; });
    if (grouped && !can_expand(dense.graph())) {
        EXPECT_THROW(expand_keys(dense.graph()), Error);
        return;
    }
    const Model expanded = dense.edited(expand_keys(dense.graph()));
    EXPECT_EQ(expanded.parameters() > dense.parameters(), grouped);
    for (const auto& block : expanded.graph().blocks) {
        for (const auto& op : block.ops) {
            if (op.kind == OpKind::attention) {
                EXPECT_EQ(op.heads, op.kv_heads);
            }
        }
    }
    const Windows windows = windows_for(dense);
    const auto run = [&](const Model& model) { return logits(model, windows, DType::f32, scratch.path()); };
    const auto expected = run(dense);
    EXPECT_LE(distance(run(expanded), expected), 1e-5 * largest(expected));

    // Any head can go now, whatever its group was.
    const auto axes = find_axes(expanded.graph());
    for (const auto& axis : axes) {
        if (axis.kind != AxisKind::heads || axis.size < 2) continue;
        const std::vector<Removal> removals{{axis.name, {1}}};
        const auto zeroed = run(expanded.edited(zero(expanded.graph(), axes, removals)));
        EXPECT_LE(distance(run(expanded.edited(remove(expanded.graph(), axes, removals))), zeroed),
                  1e-5 * largest(zeroed))
            << axis.name;
    }
}

/// Cuts of all kinds at once, other ones in each block.
std::vector<Removal> many_removals(const std::vector<Axis>& axes) {
    std::vector<Removal> out;
    for (const auto& axis : axes) {
        if (axis.is_view() && axis.kind != AxisKind::value_features) continue;
        if (axis.kind == AxisKind::mlp && axis.name.find("experts") != std::string::npos) continue;
        auto units = some_units(axis);
        if (axis.block > 0 && units.size() > 1) units.pop_back();
        if (!units.empty()) out.push_back({axis.name, units});
    }
    return out;
}

TEST_P(EditedModel, IsTheSameModelAfterSavingAndLoading) {
    const ScratchFolder scratch;
    const Model dense = open(scratch.path());
    const Windows windows = windows_for(dense);
    const auto axes = find_axes(dense.graph());
    const auto removals = many_removals(axes);
    const Model edited = dense.edited(remove(dense.graph(), axes, removals));
    save_model(edited, components(), scratch.path() / "saved");
    const Model loaded = Model::open(scratch.path() / "saved", components());
    EXPECT_EQ(graph_json(loaded.graph()), graph_json(edited.graph()));
    EXPECT_LT(loaded.parameters(), dense.parameters());
    const auto expected = logits(edited, windows, DType::f32, scratch.path());
    EXPECT_EQ(distance(logits(loaded, windows, DType::f32, scratch.path()), expected), 0);
    EXPECT_THROW(save_model(edited, components(), scratch.path() / "saved"), Error);

    const auto zeroed = logits(dense.edited(zero(dense.graph(), axes, removals)), windows, DType::f32, scratch.path());
    EXPECT_LE(distance(expected, zeroed), 1e-5 * largest(zeroed));
}

TEST_P(EditedModel, DecodesTokenByTokenToTheLogitsOfTheFullForwardPass) {
    const ScratchFolder scratch;
    const Model dense = open(scratch.path());
    const auto axes = find_axes(dense.graph());
    auto removals = many_removals(axes);
    for (const auto& axis : axes)
        if (axis.kind == AxisKind::rotary_pairs && axis.block == 0 && axis.size > 1)
            removals.push_back({axis.name, {1}});
    const Model edited = dense.edited(remove(dense.graph(), axes, removals));
    const Windows windows = windows_for(edited);
    const auto expected = logits(edited, windows, DType::f32, scratch.path());
    const auto vocabulary = std::size_t(edited.graph().vocabulary);
    const double bound = 1e-5 * largest(expected);

    Decoder decoder(edited.graph(), edited.source(), DType::f32);
    Sequence sequence = decoder.start(windows.length);
    const auto ids = windows.window(0);
    const std::size_t prompt = 11;
    for (std::size_t at = 0; at < ids.size(); at = std::max(prompt, at + 1)) {
        const std::size_t count = at == 0 ? prompt : 1, last = at + count - 1;
        const auto got = decoder.append(sequence, ids.subspan(at, count));
        const std::span row(expected.data() + last * vocabulary, vocabulary);
        EXPECT_LE(distance({got.begin(), got.end()}, {row.begin(), row.end()}), bound) << "token " << last;
    }
}

TEST_P(EditedModel, CanBeEditedAgain) {
    const ScratchFolder scratch;
    const Model dense = open(scratch.path());
    const Windows windows = windows_for(dense);
    const auto axes = find_axes(dense.graph());
    const auto& axis = *std::find_if(axes.begin(), axes.end(), [](const Axis& a) { return a.kind == AxisKind::mlp; });
    const Model at_once =
        dense.edited(remove(dense.graph(), axes, std::vector<Removal>{{axis.name, {2, 7}}, {"residual", {1, 4}}}));
    const Model first =
        dense.edited(remove(dense.graph(), axes, std::vector<Removal>{{axis.name, {2}}, {"residual", {1}}}));
    const Model then = first.edited(
        remove(first.graph(), find_axes(first.graph()), std::vector<Removal>{{axis.name, {6}}, {"residual", {3}}}));
    EXPECT_EQ(graph_json(then.graph()), graph_json(at_once.graph()));
    EXPECT_EQ(distance(logits(then, windows, DType::f32, scratch.path()),
                       logits(at_once, windows, DType::f32, scratch.path())),
              0);
}

TEST_P(EditedModel, MasksElementsOfALinearWhateverItsLayout) {
    const ScratchFolder scratch;
    const Model dense = open(scratch.path());
    const Op& op = *std::find_if(dense.graph().blocks[0].ops.begin(), dense.graph().blocks[0].ops.end(),
                                 [](const Op& o) { return o.kind == OpKind::linear; });
    std::vector<bool> keep(std::size_t(op.rows * op.columns));
    for (std::size_t i = 0; i < keep.size(); ++i) keep[i] = i % 3 != 0;
    const auto before = dense.source().whole(op.weight);
    const Model masked = dense.edited(mask(dense.graph(), op.name, keep));
    const auto after = masked.source().whole(op.weight);
    ASSERT_EQ(after.size(), before.size());
    for (std::int64_t out = 0; out < op.rows; ++out)
        for (std::int64_t in = 0; in < op.columns; ++in) {
            const auto at = std::size_t(op.transposed ? in * op.rows + out : out * op.columns + in);
            const float expected = keep[std::size_t(out * op.columns + in)] ? before[at] : 0;
            ASSERT_EQ(after[at], expected) << out << ", " << in;
        }
}

INSTANTIATE_TEST_SUITE_P(Structure, EditedModel, testing::ValuesIn(models_with_weights()), [](const auto& info) {
    std::string name = info.param;
    std::replace_if(
        name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
    return name;
});

std::vector<Removal> from_all(const std::vector<Axis>& axes, AxisKind kind, const std::vector<std::int64_t>& units) {
    std::vector<Removal> out;
    for (const auto& axis : axes)
        if (axis.kind == kind) out.push_back({axis.name, units});
    return out;
}

TEST(StockConfig, SizesWhatIsCutAlikeInEveryBlock) {
    const ScratchFolder scratch;
    const Model dense = Model::open(test_data("models/llama-tiny"), components());
    const auto axes = find_axes(dense.graph());
    auto removals = from_all(axes, AxisKind::mlp, {0, 5, 6, 703});
    for (const auto& removal : from_all(axes, AxisKind::kv_groups, {1, 2})) removals.push_back(removal);
    const Model edited = dense.edited(remove(dense.graph(), axes, removals));
    const auto config = stock_config(edited, components());
    ASSERT_TRUE(config.has_value());
    EXPECT_EQ((*config)["intermediate_size"], 700);
    EXPECT_EQ((*config)["num_key_value_heads"], 2);
    EXPECT_EQ((*config)["num_attention_heads"], 4);
    EXPECT_EQ((*config)["head_dim"], 32);

    // such a folder says all in config.json, as any other model's
    save_model(edited, components(), scratch.path() / "saved");
    EXPECT_EQ(read_json(scratch.path() / "saved/kerf.json")["edited"], false);
    fs::remove(scratch.path() / "saved/kerf.json");
    const Model loaded = Model::open(scratch.path() / "saved", components());
    EXPECT_FALSE(loaded.is_edited());
    EXPECT_EQ(graph_json(loaded.graph()), graph_json(edited.graph()));
}

TEST(StockConfig, SaysWhatTheStockClassCannotExpress) {
    const Model llama = Model::open(test_data("models/llama-tiny"), components());
    const auto axes = find_axes(llama.graph());
    const auto stock = [&](const std::vector<Removal>& removals, RemoveOptions options = {}) {
        return stock_config(llama.edited(remove(llama.graph(), axes, removals, options)), components());
    };
    EXPECT_FALSE(stock({{"model.layers.0.mlp", {1}}}).has_value());             // blocks differ
    EXPECT_FALSE(stock({{"residual", {1}}}).has_value());                       // norms divide by the size that was
    EXPECT_FALSE(stock(from_all(axes, AxisKind::kv_groups, {1})).has_value());  // 6 heads do not divide 256
    EXPECT_FALSE(stock({{"residual", {1, 2}}}, {.keep_divisor = false}).has_value());  // nor 8 heads 254
    const auto narrow = stock({{"residual", {0, 1, 2, 3, 4, 5, 6, 7}}}, {.keep_divisor = false});
    ASSERT_TRUE(narrow.has_value());
    EXPECT_EQ((*narrow)["hidden_size"], llama.graph().hidden - 8);
    EXPECT_EQ((*narrow)["head_dim"], 32);
    EXPECT_EQ(stock_config(llama, components()), llama.config());

    const Model opt = Model::open(test_data("models/opt-tiny"), components());
    const auto opt_axes = find_axes(opt.graph());
    const auto opt_stock = [&](AxisKind kind) {
        return stock_config(opt.edited(remove(opt.graph(), opt_axes, from_all(opt_axes, kind, {0}))), components());
    };
    EXPECT_FALSE(opt_stock(AxisKind::heads).has_value());  // OPT divides hidden_size by the heads
    ASSERT_TRUE(opt_stock(AxisKind::mlp).has_value());
    EXPECT_EQ((*opt_stock(AxisKind::mlp))["ffn_dim"], opt.config()["ffn_dim"].get<std::int64_t>() - 1);
}

TEST(EditedFolder, IsRefusedInWordsWhenItsGraphIsBroken) {
    const ScratchFolder scratch;
    random_model(small::gqa(), scratch.path() / "model");
    const fs::path kerf = scratch.path() / "model/kerf.json";
    const json good = read_json(kerf);
    const auto refusal = [&](const json& document) -> std::string {
        write_atomically(kerf, document.dump());
        try {
            Model::open(scratch.path() / "model", components());
        } catch (const Error& error) {
            EXPECT_EQ(error.fault(), Fault::input);
            return error.what();
        }
        return "";
    };
    json bad = good;
    bad.erase("graph");
    EXPECT_NE(refusal(bad).find("lacks its graph"), std::string::npos);
    bad = good;
    bad["graph"]["blocks"][0]["ops"][0]["size"] = 23;
    EXPECT_NE(refusal(bad).find("kerf.json"), std::string::npos);
    bad = good;
    bad["graph"] = graph_json(small::fused());
    EXPECT_NE(refusal(bad).find("is missing"), std::string::npos);
    EXPECT_EQ(refusal(good), "");
}

}  // namespace
}  // namespace kerf::core
