// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/output.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/export/export.hpp"
#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "core/text/gguf_tokenizer.hpp"
#include "core/version.hpp"
#include "core/weights/gguf.hpp"

namespace kerf::core {
namespace {

/// Which block reads each stored tensor first; tensors that no block reads are "outside" (blocks.size()).
std::map<std::string, std::size_t> owners(const Model& model) {
    std::map<std::string, std::size_t> out;
    const Graph& graph = model.graph();
    for (const auto& tensor : expected_tensors(graph.prologue))
        out.emplace(model.stored_name(tensor.name), graph.blocks.size());
    for (std::size_t block = 0; block < graph.blocks.size(); ++block)
        for (const auto& tensor : expected_tensors(graph.blocks[block].ops))
            out.emplace(model.stored_name(tensor.name), block);
    return out;
}

/// What most of a checkpoint's floating-point elements are.
std::optional<DType> main_dtype(const Checkpoint& checkpoint) {
    std::map<DType, std::int64_t> elements;
    for (const auto& name : checkpoint.names()) {
        const StoredTensor& stored = checkpoint.at(name);
        if (is_floating(stored.dtype)) elements[stored.dtype] += stored.elements();
    }
    const auto most = std::max_element(elements.begin(), elements.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    return most == elements.end() ? std::nullopt : std::optional(most->first);
}

/// config.json's settings for the whole model; linears that stay dense are listed as GPTQModel's "dynamic" exceptions.
nlohmann::json gptq_settings(const Model& model, const Stage& stage) {
    const auto& first = stage.targets.front();
    std::set<std::string> packed;
    for (const auto& target : stage.targets) {
        packed.insert(target.name);
        if (target.cost.bits != first.cost.bits || target.cost.group_size != first.cost.group_size)
            bad_input("output.format = \"gptq\" has one bit width and group size for the whole model, but ",
                      target.name, " has ", target.cost.bits, " bits and groups of ", target.cost.group_size, ", ",
                      first.name, " ", first.cost.bits, " and ", first.cost.group_size,
                      "; use format = \"hf\" or drop the override");
    }
    nlohmann::json dense = nlohmann::json::object();
    for (const auto& block : model.graph().blocks)
        for (const auto& op : block.ops)
            if (op.kind == OpKind::linear && !packed.contains(op.name))
                dense["-:^" + op.name + "$"] = nlohmann::json::object();
    const auto& options = stage.options;
    const bool ordered = options.value("act_order", false) || options.value("order", "") == "act";
    nlohmann::json out{
        {"bits", first.cost.bits},
        {"group_size", first.cost.group_size},
        {"desc_act", ordered && !options.value("static_groups", false) && first.cost.group_size > 0},
        {"sym", options.value("sym", false)},
        {"lm_head", packed.contains("lm_head")},
        {"quant_method", "gptq"},
        {"method", "gptq"},
        {"checkpoint_format", "gptq"},
        {"format", "gptq"},
        {"pack_dtype", "int32"},
        {"true_sequential", stage.sequential == Sequential::group || stage.sequential == Sequential::linear},
        {"damp_percent", options.value("damp", 0.01)},
        {"meta", {{"quantizer", {"kerf:" + version()}}}}};
    if (!dense.empty()) out["dynamic"] = dense;
    return out;
}

}  // namespace

OutputLayout::OutputLayout(const Model& model, const Model& original, const Stage* stage, Options options)
    : options_(std::move(options)) {
    const Checkpoint& checkpoint = model.checkpoint();
    const std::size_t outside = model.graph().blocks.size();
    copied_.resize(outside + 1);
    std::map<std::string, const Target*> targets;
    std::set<std::string> refitted;  // new weights of linears that read what is pruned
    if (stage && stage->structural) {
        if (options_.format != "hf")
            bad_input(
                "output.format = \"", options_.format,
                "\" holds integer codes, but the last stage removes structures; use \"hf\", or quantise after it");
        for (const auto& target : stage->axes)
            for (const auto op : target.consumers)
                refitted.insert(model.stored_name(block_ops(model.graph(), target.block)[op].weight));
    }
    if (stage)
        for (const auto& target : stage->targets)
            targets.emplace(model.stored_name(block_ops(model.graph(), target.block)[target.op].weight), &target);
    const auto owner = owners(model);
    // Of a tensor that the input had not, a shortcut: as its model is, not as the stage before kept its weights.
    const auto usual = main_dtype(original.checkpoint());
    std::vector<PlannedTensor> planned;
    for (const auto& name : checkpoint.names()) {
        const StoredTensor& stored = checkpoint.at(name);
        const StoredTensor* before = original.checkpoint().find(name);
        const DType as_before = before ? before->dtype : usual.value_or(stored.dtype);
        dtypes_[name] = !is_floating(stored.dtype) ? stored.dtype : options_.dtype.value_or(as_before);
        if (const auto target = targets.find(name); target != targets.end()) {
            if (options_.keep_exact) dtypes_[name] = DType::f32;
            place_linear(model, *target->second, planned);
            continue;
        }
        if (options_.keep_exact && refitted.contains(name)) dtypes_[name] = DType::f32;
        planned.push_back({name, dtypes_[name], stored.shape});
        const auto found = owner.find(name);
        copied_[found == owner.end() ? outside : found->second].push_back(name);
    }
    shards_ = std::make_unique<ShardPlan>(std::move(planned), options_.shard_bytes,
                                          std::map<std::string, std::string>{{"format", "pt"}});
    if (options_.format == "gptq" && stage) settings_ = gptq_settings(model, *stage);
}

void OutputLayout::place_linear(const Model& model, const Target& target, std::vector<PlannedTensor>& out) {
    const Op& op = block_ops(model.graph(), target.block)[target.op];
    const std::string stored = model.stored_name(op.weight);
    std::vector<PlannedTensor> made;
    if (options_.format == "gptq") {
        if (target.cost.layout != "int-group/1")
            bad_input(target.name, ": output.format = \"gptq\" holds integer codes, but ", target.method->method().id,
                      " gives ", target.cost.layout, " here; use format = \"hf\"");
        const std::string module = stored.substr(0, stored.size() - std::string_view(".weight").size());
        GptqLayout layout{module, target.out, target.in, target.cost.bits, target.cost.group_size};
        made = gptq_tensors(layout);
        packed_.emplace(target.name, layout);
    } else {
        made = {{stored, dtypes_.at(stored), model.checkpoint().at(stored).shape}};
    }
    std::uint64_t bytes = 0;
    for (const auto& tensor : made) bytes += tensor.bytes();
    linear_bytes_[target.name] = bytes;
    out.insert(out.end(), made.begin(), made.end());
}

DType OutputLayout::dtype_of(const std::string& stored_name) const {
    return dtypes_.at(stored_name);
}

const GptqLayout* OutputLayout::packed(const std::string& linear) const {
    const auto found = packed_.find(linear);
    return found == packed_.end() ? nullptr : &found->second;
}

nlohmann::json OutputLayout::quantization_config() const {
    return settings_;
}

ResultWriter::ResultWriter(const OutputLayout& layout, const Model& model, const std::filesystem::path& folder,
                           bool resume)
    : layout_(layout), model_(model), writer_(std::make_unique<ShardWriter>(layout.shards(), folder, resume)) {
    const std::string index = layout.shards().index_json();
    if (!index.empty()) write_atomically(folder / "model.safetensors.index.json", index);
}

void ResultWriter::write_linear(const Target& target, const Compressed& made) {
    if (const GptqLayout* layout = layout_.packed(target.name)) {
        const GptqView view{made.codes->codes, made.codes->scales, made.codes->zeros, made.codes->group_index};
        const GptqPacked packed = gptq_pack(*layout, view, layout_.version());
        writer_->write(layout->name + ".g_idx", packed.g_idx);
        writer_->write(layout->name + ".qweight", packed.qweight);
        writer_->write(layout->name + ".qzeros", packed.qzeros);
        writer_->write(layout->name + ".scales", packed.scales);
        return;
    }
    const Op& op = block_ops(model_.graph(), target.block)[target.op];
    const std::string stored = model_.stored_name(op.weight);
    const DType dtype = layout_.dtype_of(stored);
    if (dtype == DType::f32 && !op.transposed) return writer_->write(stored, std::as_bytes(std::span(made.weight)));
    std::vector<std::byte> bytes(made.weight.size() * dtype_bytes(dtype));
    if (op.transposed) {
        std::vector<float> turned(made.weight.size());
        for (std::int64_t o = 0; o < target.out; ++o)
            for (std::int64_t i = 0; i < target.in; ++i)
                turned[std::size_t(i * target.out + o)] = made.weight[std::size_t(o * target.in + i)];
        from_float32(turned, dtype, bytes);
    } else {
        from_float32(made.weight, dtype, bytes);
    }
    writer_->write(stored, bytes);
}

/// A piece at a time, so that an embedding of gigabytes costs no more memory than a bias.
void ResultWriter::copy_floating(const Checkpoint& from, const StoredTensor& stored, DType dtype) {
    constexpr float past_float16 = 65520;  // rounds to infinity
    const bool as_it_is = dtype == stored.dtype && !stored.bytes.empty();
    std::vector<std::byte> converted;
    std::size_t done = 0;  // bytes of the result
    from.read_pieces(stored.name, [&](std::span<const float> values) {
        const std::size_t bytes = values.size() * dtype_bytes(dtype);
        if (as_it_is) {
            writer_->write_piece(stored.name, stored.bytes.subspan(done, bytes));
        } else {
            for (const float value : values)
                if (dtype == DType::f16 && !(std::abs(value) < past_float16))
                    bad_input(from.folder().string(), ": tensor ", stored.name, " has the value ", value,
                              ", which float16 cannot hold; use dtype bfloat16 or float32");
            converted.resize(bytes);
            from_float32(values, dtype, converted);
            writer_->write_piece(stored.name, converted);
        }
        done += bytes;
    });
}

void ResultWriter::write_copied(std::size_t block, const Model* edited) {
    const Checkpoint& from = (edited ? *edited : model_).checkpoint();
    for (const auto& name : layout_.copied(block)) {
        const StoredTensor& stored = from.at(name);
        if (is_floating(stored.dtype))
            copy_floating(from, stored, layout_.dtype_of(name));
        else
            writer_->write(name, stored.bytes);
        from.forget(name);
    }
}

nlohmann::json output_config(const Model& original, const OutputLayout& layout) {
    nlohmann::json config = original.config();
    config.erase("quantization_config");
    if (layout.options().dtype) {
        constexpr std::array<std::pair<DType, const char*>, 3> names{
            {{DType::f32, "float32"}, {DType::f16, "float16"}, {DType::bf16, "bfloat16"}}};
        for (const auto& [dtype, name] : names)
            if (dtype == *layout.options().dtype) config[config.contains("dtype") ? "dtype" : "torch_dtype"] = name;
    }
    if (const auto settings = layout.quantization_config(); !settings.is_null())
        config["quantization_config"] = settings;
    return config;
}

void write_config(const std::filesystem::path& folder, const nlohmann::json& config, const Graph& graph,
                  bool any_shape) {
    if (any_shape) write_modeling_code(folder);
    const nlohmann::json written = any_shape ? exported_config(config, graph) : config;
    write_atomically(folder / "config.json", written.dump(2) + "\n");
}

namespace {

/// generation_config.json: where to stop, above all. Chat models may have an end of turn beside the end of the text.
nlohmann::json generation_config(const GgufFile& file) {
    nlohmann::json out = nlohmann::json::object(), ends = nlohmann::json::array();
    const auto put = [&](const char* key, const char* name) {
        if (file.has(key)) out[name] = file.count(key);
    };
    put("tokenizer.ggml.bos_token_id", "bos_token_id");
    put("tokenizer.ggml.padding_token_id", "pad_token_id");
    for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
        if (file.has(key) && (ends.empty() || ends[0] != file.count(key))) ends.push_back(file.count(key));
    if (!ends.empty()) out["eos_token_id"] = ends.size() == 1 ? ends[0] : ends;
    return out;
}

void write_gguf_side_files(const std::filesystem::path& from, const std::filesystem::path& to) {
    const GgufFile file(from);
    const auto tokenizer = read_gguf_tokenizer(file);
    if (!tokenizer) return;
    write_atomically(to / "tokenizer.json", tokenizer->tokenizer.dump(1) + "\n");
    write_atomically(to / "tokenizer_config.json", tokenizer->config.dump(2) + "\n");
    write_atomically(to / "generation_config.json", generation_config(file).dump(2) + "\n");
}

}  // namespace

void copy_side_files(const std::filesystem::path& from, const std::filesystem::path& to) {
    static const std::set<std::string> names{"tokenizer.json",
                                             "tokenizer.model",
                                             "tokenizer_config.json",
                                             "vocab.json",
                                             "merges.txt",
                                             "special_tokens_map.json",
                                             "added_tokens.json",
                                             "generation_config.json",
                                             "chat_template.jinja",
                                             "chat_template.json",
                                             "LICENSE",
                                             "LICENSE.txt"};
    if (is_gguf(from)) return write_gguf_side_files(from, to);
    for (const auto& entry : std::filesystem::directory_iterator(from))
        if (entry.is_regular_file() && names.contains(entry.path().filename().string()))
            write_atomically(to / entry.path().filename(), read_text(entry.path(), 256u << 20));
}

}  // namespace kerf::core
