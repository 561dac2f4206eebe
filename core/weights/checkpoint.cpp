// SPDX-License-Identifier: Apache-2.0
#include "core/weights/checkpoint.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "core/support/error.hpp"
#include "core/support/json_text.hpp"
#include "core/weights/bounded.hpp"
#include "core/weights/edited_tensor.hpp"
#include "core/weights/gguf_model.hpp"

namespace kerf::core {
namespace {

using Json = nlohmann::json;

bool is_torch_archive(std::string_view file) {
    return file.ends_with(".bin") || file.ends_with(".pt") || file.ends_with(".pth");
}

/// The file that says what a folder's weights are, or nothing.
std::string weights_in(const std::filesystem::path& folder) {
    std::error_code status;
    for (const char* file :
         {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"})
        if (std::filesystem::exists(folder / file, status)) return file;
    return {};
}

/// An index may name files of its own folder alone: a path in it could lead anywhere.
void check_shard_name(const std::string& file, const std::string& index) {
    const bool known_kind = file.ends_with(".safetensors") || is_torch_archive(file);
    if (!known_kind || file.find_first_of("/\\") != std::string::npos || file.starts_with('.') ||
        has_control_characters(file))
        bad_input(index, ": names the shard ", Json(file).dump(),
                  ", which is not the name of a .safetensors or .bin file beside it");
}

/// Tensor name → shard file, as the index says.
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& path) {
    const std::string index = path.string();
    const Json document = parse_json(read_text(path), index);
    const auto map = document.is_object() ? document.find("weight_map") : document.end();
    if (map == document.end() || !map->is_object()) bad_input(index, ": has no object \"weight_map\"");
    std::map<std::string, std::string> weight_map;
    for (const auto& [name, file] : map->items()) {
        if (!file.is_string()) bad_input(index, ": the shard of tensor ", name, " is not a text");
        check_shard_name(file.get<std::string>(), index);
        weight_map.emplace(name, file.get<std::string>());
    }
    if (weight_map.empty()) bad_input(index, ": \"weight_map\" names no tensor");
    return weight_map;
}

std::string element_place(const std::vector<std::int64_t>& shape, std::int64_t index) {
    std::vector<std::int64_t> place(shape.size());
    for (std::size_t d = shape.size(); d-- > 0;) {
        place[d] = index % shape[d];
        index /= shape[d];
    }
    return format_shape(place);
}

std::int64_t row_elements(const StoredTensor& tensor) {
    return tensor.shape.empty() || tensor.shape[0] == 0 ? 1 : tensor.elements() / tensor.shape[0];
}

/// A weight that the tensors of a GPTQ-packed layer stand for.
class GptqTensor final : public LazyTensor {
public:
    GptqTensor(const GptqLayout& layout, GptqVersion version, std::array<const StoredTensor*, 4> parts)
        : LazyTensor({layout.name + ".weight", DType::f16, {layout.out, layout.in}, {}}),
          layout_(layout),
          version_(version),
          parts_(parts) {}

    void read_rows(std::int64_t first, std::span<float> out) const override {
        if (first == 0 && out.size() == static_cast<std::size_t>(layout_.out * layout_.in)) return decode(out);
        std::vector<float> all(static_cast<std::size_t>(layout_.out * layout_.in));
        decode(all);
        std::copy_n(all.begin() + first * layout_.in, out.size(), out.begin());
    }
    std::string storage() const override { return text("GPTQ ", layout_.bits, "-bit"); }
    std::uint64_t stored_bytes() const override {
        std::uint64_t bytes = 0;
        for_each_part([&](const StoredTensor& part) { bytes += part.bytes.size(); });
        return bytes;
    }
    bool has_cheap_rows() const noexcept override { return false; }
    void for_each_part(const std::function<void(const StoredTensor&)>& visit) const override {
        for (const StoredTensor* part : parts_)
            if (part) visit(*part);
    }

private:
    void decode(std::span<float> out) const {
        const auto& [qweight, qzeros, scales, g_idx] = parts_;
        const auto index = g_idx ? g_idx->bytes : std::span<const std::byte>();
        gptq_decode(layout_, {qweight->bytes, qzeros->bytes, *scales, index}, version_, out);
    }

    GptqLayout layout_;
    GptqVersion version_;
    std::array<const StoredTensor*, 4> parts_;  // qweight, qzeros, scales, g_idx; the last may be null
};

/// A packed weight as [in, out].
class TurnedTensor final : public LazyTensor {
public:
    explicit TurnedTensor(std::shared_ptr<const GptqTensor> packed)
        : LazyTensor(packed->described()), packed_(std::move(packed)) {
        std::swap(described_.shape[0], described_.shape[1]);
    }

    void read_rows(std::int64_t first, std::span<float> out) const override {
        const std::int64_t inputs = described_.shape[0], outputs = described_.shape[1];
        std::vector<float> all(static_cast<std::size_t>(inputs * outputs));
        packed_->read_rows(0, all);
        for (std::int64_t at = 0; at < static_cast<std::int64_t>(out.size()); ++at) {
            const std::int64_t input = first + at / outputs, output = at % outputs;
            out[static_cast<std::size_t>(at)] = all[static_cast<std::size_t>(output * inputs + input)];
        }
    }
    std::string storage() const override { return packed_->storage(); }
    std::uint64_t stored_bytes() const override { return packed_->stored_bytes(); }
    bool has_cheap_rows() const noexcept override { return false; }
    void for_each_part(const std::function<void(const StoredTensor&)>& visit) const override {
        packed_->for_each_part(visit);
    }

private:
    std::shared_ptr<const GptqTensor> packed_;
};

}  // namespace

/// What config.json says of a GPTQ-packed checkpoint.
struct Checkpoint::GptqSettings {
    std::string file;  ///< the config, for messages
    int bits = 0;
    std::int64_t group_size = -1;
    GptqVersion version = GptqVersion::v1;

    /// Nothing when there is no config.json, or its checkpoint is not GPTQ-packed.
    static std::optional<GptqSettings> read(const std::filesystem::path& folder);

private:
    std::int64_t integer(const Json& config, const char* key, std::int64_t lowest, std::int64_t highest) const;
    void read_version(const Json& config);
    void refuse_overrides(const Json& config) const;
};

std::optional<Checkpoint::GptqSettings> Checkpoint::GptqSettings::read(const std::filesystem::path& folder) {
    const auto path = folder / "config.json";
    std::error_code status;
    if (!std::filesystem::exists(path, status)) return std::nullopt;
    GptqSettings settings;
    settings.file = path.string();
    const Json document = parse_json(read_text(path), settings.file);
    const auto found = document.is_object() ? document.find("quantization_config") : document.end();
    if (found == document.end() || !found->is_object()) return std::nullopt;
    const Json& config = *found;
    if (!config.contains("quant_method")) return std::nullopt;
    // Weights of other methods may have the dense ones' names and shapes, and scales beside them.
    if (config["quant_method"] != "gptq")
        bad_input(settings.file, ": quantization_config: quant_method is ", config["quant_method"].dump(),
                  ", kerf reads \"gptq\", and weights that are not quantised, without this key");
    settings.bits = static_cast<int>(settings.integer(config, "bits", 2, 8));
    settings.group_size = settings.integer(config, "group_size", -1, 1 << 30);
    if (config.contains("pack_dtype") && config["pack_dtype"] != "int32")
        bad_input(settings.file, ": quantization_config: pack_dtype is ", config["pack_dtype"].dump(),
                  ", kerf reads \"int32\"");
    settings.read_version(config);
    settings.refuse_overrides(config);
    return settings;
}

std::int64_t Checkpoint::GptqSettings::integer(const Json& config, const char* key, std::int64_t lowest,
                                               std::int64_t highest) const {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_number_integer())
        bad_input(file, ": quantization_config: \"", key, "\" is missing or not an integer");
    // An unsigned number past int64 turns negative here, and is out of range as well.
    const auto value = found->get<std::int64_t>();
    if (value < lowest || value > highest)
        bad_input(file, ": quantization_config: ", key, " = ", found->dump(), " is not between ", lowest, " and ",
                  highest);
    return value;
}

void Checkpoint::GptqSettings::read_version(const Json& config) {
    const char* key = config.contains("checkpoint_format") ? "checkpoint_format" : "format";
    if (!config.contains(key) || config[key] == "gptq") return;
    if (config[key] != "gptq_v2")
        bad_input(file, ": quantization_config: ", key, " is ", config[key].dump(),
                  ", kerf reads \"gptq\" and \"gptq_v2\"");
    version = GptqVersion::v2;
}

/// "dynamic" gives modules settings of their own; a leading "-:" leaves a module dense, which its tensors show anyway.
void Checkpoint::GptqSettings::refuse_overrides(const Json& config) const {
    const auto dynamic = config.find("dynamic");
    if (dynamic == config.end() || dynamic->is_null()) return;
    if (!dynamic->is_object()) bad_input(file, ": quantization_config: \"dynamic\" is not an object");
    for (const auto& [pattern, value] : dynamic->items())
        if (!pattern.starts_with("-:"))
            bad_input(file, ": quantization_config: \"dynamic\" gives ", Json(pattern).dump(),
                      " settings of its own, which kerf does not read");
}

bool Checkpoint::present(const std::filesystem::path& path) {
    return is_gguf(path) || !weights_in(path).empty();
}

Checkpoint Checkpoint::open(const std::filesystem::path& folder) {
    Checkpoint checkpoint;
    checkpoint.folder_ = folder;
    std::error_code status;
    if (is_gguf(folder)) {
        checkpoint.open_gguf(folder);
        return checkpoint;
    }
    if (!std::filesystem::is_directory(folder, status)) bad_input(folder.string(), ": no such folder");
    const std::string file = weights_in(folder);
    if (file.empty())
        bad_input(folder.string(),
                  ": has no weights; expected model.safetensors, pytorch_model.bin, or an index of either");
    if (file.ends_with(".json"))
        checkpoint.open_index(file);
    else
        checkpoint.add_file(file);
    if (const auto settings = GptqSettings::read(folder)) checkpoint.show_packed(*settings);
    return checkpoint;
}

void Checkpoint::add_file(const std::string& file) {
    const auto path = folder_ / file;
    auto opened = is_torch_archive(file) ? open_torch_archive(path) : open_safetensors(path);
    for (const auto& tensor : opened->tensors()) {
        const auto added = places_.try_emplace(tensor.name, Place{opened.get(), &tensor, nullptr});
        if (added.second) continue;
        const TensorFile* const owner = added.first->second.file;
        const auto first =
            std::find_if(files_.begin(), files_.end(), [&](const auto& f) { return f.second.get() == owner; });
        bad_input(path.string(), ": holds the tensor ", tensor.name, ", which ", first->first.filename().string(),
                  " holds too");
    }
    files_.emplace_back(path, std::move(opened));
}

void Checkpoint::open_gguf(const std::filesystem::path& path) {
    const GgufModel model = GgufModel::open(path);
    const auto& file = model.file();
    for (const GgufView& view : model.views()) {
        Place place{file.get(), nullptr, nullptr};
        const auto& type = *file->described(*view.stored).type;
        if (type.plain && view.as_stored()) {
            StoredTensor part{view.name, *type.plain, view.shape, {}};
            const auto row = view.stored->bytes.size() / static_cast<std::size_t>(view.stored->elements()) *
                             static_cast<std::size_t>(row_elements(part));
            part.bytes = view.stored->bytes.subspan(static_cast<std::size_t>(view.rows.first) * row,
                                                    static_cast<std::size_t>(view.shape[0]) * row);
            place.tensor = &renamed_->emplace_back(std::move(part));
        } else {
            place.lazy = std::make_shared<GgufTensor>(file, view);
            place.tensor = &place.lazy->described();
        }
        if (!places_.try_emplace(view.name, std::move(place)).second)
            bad_input(path.string(), ": holds ", view.name, " twice, the second time as ", view.stored->name);
    }
    files_.emplace_back(path, file);
}

void Checkpoint::open_index(const std::string& index) {
    const auto path = folder_ / index;
    const auto weight_map = read_weight_map(path);
    std::set<std::string> shards;
    for (const auto& [name, file] : weight_map) shards.insert(file);
    for (const auto& file : shards) {
        std::error_code status;
        if (!std::filesystem::exists(folder_ / file, status))
            bad_input(path.string(), ": names the shard ", file, ", which is missing; is the download complete?");
        add_file(file);
    }
    for (const auto& [file, opened] : files_) {
        for (const auto& tensor : opened->tensors()) {
            const auto named = weight_map.find(tensor.name);
            if (named == weight_map.end())
                bad_input(file.string(), ": holds the tensor ", tensor.name, ", which ", index, " does not name");
            if (named->second != file.filename().string())
                bad_input(file.string(), ": holds the tensor ", tensor.name, ", which ", index, " places in ",
                          named->second);
        }
    }
    for (const auto& [name, file] : weight_map)
        if (!places_.contains(name))
            bad_input((folder_ / file).string(), ": lacks the tensor ", name, ", which ", index, " places in it");
}

void Checkpoint::show_packed(const GptqSettings& settings) {
    constexpr std::string_view suffix = ".qweight";
    std::vector<std::string> layers;
    for (const auto& [name, place] : places_)
        if (name.ends_with(suffix)) layers.push_back(name.substr(0, name.size() - suffix.size()));
    if (layers.empty()) bad_input(settings.file, ": quantization_config says gptq, but no tensor is named *.qweight");
    for (const auto& layer : layers) show_packed_layer(layer, settings);
}

void Checkpoint::show_packed_layer(const std::string& layer, const GptqSettings& settings) {
    const StoredTensor& qweight = at(layer + ".qweight");
    if (qweight.shape.size() != 2 || qweight.bytes.empty())
        bad_input(folder_.string(), ": tensor ", qweight.name, " has the shape ", format_shape(qweight.shape),
                  " where two dimensions belong");
    const GptqLayout layout{layer, qweight.shape[1], qweight.shape[0] * 32 / settings.bits, settings.bits,
                            settings.group_size};
    const TensorFile* const file = place(qweight.name).file;
    for (const auto& planned : gptq_tensors(layout)) {
        const bool is_index = planned.name.ends_with(".g_idx");
        if (is_index && !find(planned.name)) continue;  // the oldest writers leave out what follows from the group size
        const StoredTensor& stored = at(planned.name);
        const bool right_type =
            planned.name.ends_with(".scales") ? is_floating(stored.dtype) : stored.dtype == planned.dtype;
        if (!right_type || stored.shape != planned.shape)
            bad_input(folder_.string(), ": tensor ", stored.name, " is ", dtype_name(stored.dtype), " ",
                      format_shape(stored.shape), " where ", settings.bits, " bits in groups of ", settings.group_size,
                      " need ", dtype_name(planned.dtype), " ", format_shape(planned.shape));
    }
    const std::shared_ptr<const LazyTensor> packed = std::make_shared<GptqTensor>(
        layout, settings.version,
        std::array{&qweight, find(layer + ".qzeros"), find(layer + ".scales"), find(layer + ".g_idx")});
    for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"}) places_.erase(layer + part);
    const std::string& name = packed->described().name;
    if (!places_.try_emplace(name, Place{file, &packed->described(), packed}).second)
        bad_input(folder_.string(), ": holds both ", name, " and ", layer, ".qweight");
}

void Checkpoint::show_transposed(std::string_view name) {
    const auto found = places_.find(name);
    if (found == places_.end()) return;
    auto packed = std::dynamic_pointer_cast<const GptqTensor>(found->second.lazy);
    if (!packed) return;
    found->second.lazy = std::make_shared<TurnedTensor>(std::move(packed));
    found->second.tensor = &found->second.lazy->described();
}

const StoredTensor* Checkpoint::find(std::string_view name) const {
    const auto at = places_.find(name);
    return at == places_.end() ? nullptr : at->second.tensor;
}

const Checkpoint::Place& Checkpoint::place(std::string_view name) const {
    const auto at = places_.find(name);
    if (at == places_.end()) bad_input("tensor ", name, " is missing from ", folder_.string());
    return at->second;
}

const StoredTensor& Checkpoint::at(std::string_view name) const {
    return *place(name).tensor;
}

std::vector<std::string> Checkpoint::names() const {
    std::vector<std::string> names;
    names.reserve(places_.size());
    for (const auto& [name, place] : places_) names.push_back(name);
    return names;
}

std::string Checkpoint::storage(std::string_view name) const {
    const Place& found = place(name);
    return found.lazy ? found.lazy->storage() : std::string(dtype_name(found.tensor->dtype));
}

std::uint64_t Checkpoint::stored_bytes(std::string_view name) const {
    const Place& found = place(name);
    return found.lazy ? found.lazy->stored_bytes() : found.tensor->bytes.size();
}

std::uint64_t Checkpoint::bytes() const {
    std::uint64_t total = 0;
    for (const auto& [path, file] : files_)
        for (const auto& tensor : file->tensors()) total += tensor.bytes.size();
    return total;
}

std::vector<std::filesystem::path> Checkpoint::files() const {
    std::vector<std::filesystem::path> paths;
    for (const auto& [path, file] : files_) paths.push_back(path);
    return paths;
}

std::vector<float> Checkpoint::read(std::string_view name) const {
    std::vector<float> values(static_cast<std::size_t>(at(name).elements()));
    read_into(name, values);
    return values;
}

void Checkpoint::read_into(std::string_view name, std::span<float> out) const {
    const StoredTensor& tensor = at(name);
    if (out.size() != static_cast<std::size_t>(tensor.elements()))
        internal_error(name, ": ", out.size(), " places for a tensor of ", format_shape(tensor.shape));
    read_rows(name, 0, out);
    forget(name);
}

void Checkpoint::read_rows(std::string_view name, std::int64_t first, std::span<float> out) const {
    const Place& found = place(name);
    const StoredTensor& tensor = *found.tensor;
    const std::int64_t width = row_elements(tensor), begin = first * width;
    if (found.lazy) {
        found.lazy->read_rows(first, out);
    } else {
        const std::size_t size = dtype_bytes(tensor.dtype);
        const StoredTensor part{tensor.name,
                                tensor.dtype,
                                {static_cast<std::int64_t>(out.size())},
                                tensor.bytes.subspan(static_cast<std::size_t>(begin) * size, out.size() * size)};
        to_float32(part, out);
    }
    check_finite(tensor, begin, out);
}

void Checkpoint::check_finite(const StoredTensor& tensor, std::int64_t first, std::span<const float> values) const {
    const std::int64_t bad = first_non_finite(values);
    if (bad >= 0)
        bad_input(folder_.string(), ": tensor ", tensor.name, " is ", values[static_cast<std::size_t>(bad)], " at ",
                  element_place(tensor.shape, first + bad),
                  "; the checkpoint is damaged or was saved from a diverged model");
}

void Checkpoint::read_pieces(std::string_view name, const std::function<void(std::span<const float>)>& take) const {
    constexpr std::int64_t piece_elements = 1 << 18;  // 1 MiB of float32: half of a second-level cache
    const Place& found = place(name);
    const StoredTensor& tensor = *found.tensor;
    if (tensor.elements() == 0) return;
    const bool whole = found.lazy && !found.lazy->has_cheap_rows();
    const std::int64_t rows = tensor.shape.empty() ? 1 : tensor.shape[0], width = row_elements(tensor);
    const std::int64_t step = whole ? rows : std::max<std::int64_t>(1, piece_elements / width);
    std::vector<float> values(static_cast<std::size_t>(std::min(step, rows) * width));
    for (std::int64_t row = 0; row < rows; row += step) {
        const std::span<float> piece =
            std::span(values).first(static_cast<std::size_t>(std::min(step, rows - row) * width));
        read_rows(name, row, piece);
        take(piece);
        forget(name);
    }
}

void Checkpoint::forget(std::string_view name) const {
    for_each_part(place(name), [](const TensorFile& file, const StoredTensor& tensor) { file.forget(tensor); });
}

void Checkpoint::prefetch(std::string_view name) const {
    for_each_part(place(name), [](const TensorFile& file, const StoredTensor& tensor) { file.prefetch(tensor); });
}

void Checkpoint::for_each_part(const Place& found, void (*visit)(const TensorFile&, const StoredTensor&)) const {
    if (!found.lazy) return visit(*found.file, *found.tensor);
    // The parts may lie in several shards; each file leaves alone what is not of its own mapping.
    found.lazy->for_each_part([&](const StoredTensor& part) {
        for (const auto& [path, file] : files_) visit(*file, part);
    });
}

Checkpoint Checkpoint::edited(const TensorEdits& edits,
                              const std::function<std::string(const std::string&)>& stored_name) const {
    Checkpoint out = *this;
    for (const auto& name : edits.dropped) out.places_.erase(name);
    for (const auto& [name, selection] : edits.made) {
        const Place source = selection.source.empty() ? Place{} : place(selection.source);
        const auto made = std::make_shared<EditedTensor>(name, selection, source.tensor, source.lazy);
        out.places_.insert_or_assign(name, Place{source.file, &made->described(), made});
    }
    const auto find = [&](const std::string& name) {
        const Place& found = place(stored_name ? stored_name(name) : name);
        return TensorSource{found.tensor, found.lazy};
    };
    for (const auto& [name, computation] : edits.computed) {
        const auto made = computation->bind(name, find);
        out.places_.insert_or_assign(name, Place{nullptr, &made->described(), made});
    }
    return out;
}

}  // namespace kerf::core
