// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/support/file.hpp"
#include "core/weights/tensor.hpp"

namespace kerf::core {

/// One tensor that will be written: known before any weight is read, so that sizes and headers are exact at plan time.
struct PlannedTensor {
    std::string name;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
    std::uint64_t bytes() const;  ///< Error(internal) when the shape has no size in 63 bits
};

/// Where each planned tensor goes: shards of at most `shard_bytes` of tensors, the header not counted (a larger tensor
/// gets one of its own), in the order given; file names as transformers writes them (model.safetensors, or
/// model-00001-of-00003.safetensors + index). The same arguments give the same bytes of header.
class ShardPlan {
public:
    /// Error(internal) for a name that comes twice, or a shape without a size.
    ShardPlan(std::vector<PlannedTensor> tensors, std::uint64_t shard_bytes,
              std::map<std::string, std::string> metadata);

    struct Place {
        std::size_t shard;
        std::uint64_t offset;  ///< from the start of the file
        std::uint64_t bytes;
    };
    const std::vector<PlannedTensor>& tensors() const noexcept { return tensors_; }
    const Place& place(std::string_view name) const;  ///< Error(internal) for an unknown name
    std::size_t shards() const noexcept { return headers_.size(); }
    std::string shard_name(std::size_t shard) const;
    const std::string& header(std::size_t shard) const { return headers_[shard]; }  ///< length prefix included
    std::uint64_t shard_bytes(std::size_t shard) const { return sizes_[shard]; }    ///< header included
    std::uint64_t total_bytes() const;                                              ///< of all shard files
    /// model.safetensors.index.json, empty for one shard.
    std::string index_json() const;

private:
    std::vector<PlannedTensor> tensors_;
    std::map<std::string, Place, std::less<>> places_;
    std::vector<std::string> headers_;
    std::vector<std::uint64_t> sizes_;
};

/// Writes tensors of a ShardPlan at their final offsets, in any order, each whole or in pieces from its first byte on.
class ShardWriter {
public:
    /// Creates (or, with `resume`, opens) the shard files in `folder` at their final size, with their headers. Their
    /// room on the disk is taken at once: a full disk shows here, as Error(environment) with the bytes needed. With
    /// `resume`, a file that is missing or has another size or header than planned is Error(input).
    ShardWriter(const ShardPlan& plan, const std::filesystem::path& folder, bool resume);
    void write(std::string_view name, std::span<const std::byte> bytes);  ///< size must be the planned one
    /// The next bytes of a tensor; its checksum is there once it has the planned size.
    void write_piece(std::string_view name, std::span<const std::byte> bytes);
    /// All that was written is on the disk, and the files are in their folder, before it returns.
    void sync();
    /// Lower-case hex CRC-32 of every tensor written through this object so far.
    const std::map<std::string, std::string>& checksums() const noexcept { return checksums_; }

private:
    void create_files();
    void open_files();

    const ShardPlan& plan_;
    std::filesystem::path folder_;
    struct Begun {
        std::uint64_t bytes = 0;
        unsigned long crc = 0;
    };
    std::vector<File> files_;
    std::map<std::string, Begun, std::less<>> begun_;  ///< tensors of which some pieces are written
    std::map<std::string, std::string> checksums_;
};

}  // namespace kerf::core
