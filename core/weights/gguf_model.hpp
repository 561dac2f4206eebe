// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/support/json_text.hpp"
#include "core/weights/gguf.hpp"
#include "core/weights/lazy_tensor.hpp"

namespace kerf::core {

/// How the rows of a Hugging Face tensor follow from those of the GGUF tensor: the format's converter puts some in the
/// order that its runtime likes.
struct GgufRows {
    enum class Order {
        same,
        rotary,  ///< within each of `heads` heads, row i of half j was put at 2 i + j
        grouped  ///< q of all heads, k, v; Hugging Face has q…, k, v of each KV group together
    };
    Order order = Order::same;
    std::int64_t heads = 1, kv_heads = 1, head_dim = 0;
    std::int64_t first = 0;  ///< of the stored rows: a part of a fused or stacked tensor

    std::int64_t stored(std::int64_t row) const;  ///< where row `row` lies
};

/// A tensor of the model under its Hugging Face name.
struct GgufView {
    std::string name;
    const StoredTensor* stored = nullptr;
    std::vector<std::int64_t> shape;
    GgufRows rows;
    bool transposed = false;  ///< of GPT-2's weights: [in, out]
    double add = 0;           ///< Gemma's norms are stored with 1 added to them

    bool as_stored() const { return rows.order == GgufRows::Order::same && !transposed && add == 0; }
};

/// A GGUF file as the Hugging Face model folder that it was made of.
class GgufModel {
public:
    /// Error(input): an unreadable file (GgufFile), an architecture that kerf does not know, metadata that is missing,
    /// a tensor that does not belong to the architecture.
    static GgufModel open(const std::filesystem::path& path);

    /// What config.json would be.
    const nlohmann::json& config() const noexcept { return config_; }
    const std::vector<GgufView>& views() const noexcept { return views_; }
    const std::shared_ptr<const GgufFile>& file() const noexcept { return file_; }

private:
    std::shared_ptr<const GgufFile> file_;
    nlohmann::json config_;
    std::vector<GgufView> views_;
};

/// A GGUF tensor that has to be decoded or put in another order.
class GgufTensor final : public LazyTensor {
public:
    GgufTensor(std::shared_ptr<const GgufFile> file, GgufView view);

    void read_rows(std::int64_t first, std::span<float> out) const override;
    std::string storage() const override;
    std::uint64_t stored_bytes() const override;
    bool has_cheap_rows() const noexcept override { return !view_.transposed; }
    void for_each_part(const std::function<void(const StoredTensor&)>& visit) const override { visit(*view_.stored); }

private:
    void read_stored_row(std::int64_t row, std::span<float> out) const;
    void read_columns(std::int64_t first, std::span<float> out) const;

    std::shared_ptr<const GgufFile> file_;
    GgufView view_;
    std::int64_t stored_columns_;
};

namespace gguf {

/// A family, as the format's converter writes it.
struct Architecture;
/// Error(input) with the known ones for another `general.architecture`.
const Architecture& architecture_of(const GgufFile& file);
nlohmann::json config_of(const GgufFile& file, const Architecture& architecture);
std::vector<GgufView> views_of(const GgufFile& file, const Architecture& architecture, const nlohmann::json& config);

}  // namespace gguf
}  // namespace kerf::core
