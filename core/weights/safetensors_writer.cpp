// SPDX-License-Identifier: Apache-2.0
#include "core/weights/safetensors_writer.hpp"

#include <fcntl.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/support/error.hpp"
#include "core/support/parallel.hpp"

namespace kerf::core {
namespace {

std::string quoted(const std::string& text) {
    return nlohmann::json(text).dump();
}

std::string joined(const std::vector<std::int64_t>& shape) {
    std::string out;
    for (const std::int64_t size : shape) {
        if (!out.empty()) out += ',';
        out += std::to_string(size);
    }
    return out;
}

/// The JSON text of one shard's header, its entries in the order of the data.
class HeaderText {
public:
    explicit HeaderText(const std::map<std::string, std::string>& metadata) {
        if (metadata.empty()) return;
        std::string pairs;
        for (const auto& [key, value] : metadata) {
            if (!pairs.empty()) pairs += ',';
            pairs += quoted(key) + ':' + quoted(value);
        }
        add("__metadata__", "{" + pairs + "}");
    }
    void add(const PlannedTensor& tensor, std::uint64_t begin) {
        add(tensor.name, text("{\"dtype\":\"", dtype_name(tensor.dtype), "\",\"shape\":[", joined(tensor.shape),
                              "],\"data_offsets\":[", begin, ",", begin + tensor.bytes(), "]}"));
    }
    /// With the length before it, padded with spaces so that the data begin at a multiple of 8.
    std::string finish() const {
        std::string json = entries_ + "}";
        json.resize((json.size() + 7) / 8 * 8, ' ');
        const std::uint64_t length = json.size();
        std::string out(sizeof length, '\0');
        std::memcpy(out.data(), &length, sizeof length);
        return out + json;
    }

private:
    void add(const std::string& key, const std::string& value) {
        if (entries_.size() > 1) entries_ += ',';
        entries_ += quoted(key) + ':' + value;
    }
    std::string entries_ = "{";
};

/// Which shard each tensor goes to: the next one as soon as this one would grow past the limit.
std::vector<std::size_t> share_out(const std::vector<PlannedTensor>& tensors, std::uint64_t shard_bytes) {
    std::vector<std::size_t> shard_of;
    std::size_t shard = 0;
    std::uint64_t filled = 0;
    bool empty = true;
    for (const auto& tensor : tensors) {
        const std::uint64_t bytes = tensor.bytes();
        if (!empty && (filled > shard_bytes || bytes > shard_bytes - filled)) {
            ++shard;
            filled = 0;
        }
        empty = false;
        filled += bytes;
        shard_of.push_back(shard);
    }
    return shard_of;
}

/// Takes the room on the disk where the file system can; elsewhere the file is sparse.
void reserve(File& file, std::uint64_t bytes) {
    while (::fallocate(file.descriptor(), 0, 0, static_cast<off_t>(bytes)) != 0) {
        if (errno == EINTR) continue;
        if (errno == ENOSPC || errno == EDQUOT)
            bad_environment(file.path().string(), ": the disk has no room for the ", format_bytes(double(bytes)),
                            " of this file; free some space or choose another output folder");
        file.resize(bytes);  // says itself what is wrong, if anything but the missing support is
        return;
    }
}

unsigned long crc32_on(unsigned long crc, std::span<const std::byte> bytes) {
    return ::crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
}

/// Writes on all threads, and gives the checksum that goes on from `crc`. A write is a copy into the page cache, which
/// one thread does at a fraction of the memory's rate.
unsigned long write_and_sum(File& file, std::uint64_t offset, std::span<const std::byte> bytes, unsigned long crc) {
    constexpr std::size_t piece = 1 << 18;  // an eighth of what comes at a time from a tensor that is copied, or less
    std::vector<unsigned long> sums((bytes.size() + piece - 1) / piece, crc);
    parallel_for(static_cast<std::int64_t>(bytes.size()), piece, [&](std::int64_t lo, std::int64_t hi) {
        const auto part = bytes.subspan(static_cast<std::size_t>(lo), static_cast<std::size_t>(hi - lo));
        file.write_at(offset + static_cast<std::uint64_t>(lo), part);
        auto& sum = sums[static_cast<std::size_t>(lo) / piece];
        sum = crc32_on(lo == 0 ? crc : 0, part);
    });
    for (std::size_t i = 1; i < sums.size(); ++i)
        sums[0] = ::crc32_combine(sums[0], sums[i], static_cast<z_off_t>(std::min(piece, bytes.size() - i * piece)));
    return sums.empty() ? crc : sums[0];
}

std::string hex(unsigned long crc) {
    std::array<char, 9> out{};
    std::snprintf(out.data(), out.size(), "%08lx", crc);
    return out.data();
}

}  // namespace

std::uint64_t PlannedTensor::bytes() const {
    const auto size = tensor_bytes(dtype, shape);
    if (!size) internal_error("planned tensor ", name, " has the impossible shape ", format_shape(shape));
    return *size;
}

ShardPlan::ShardPlan(std::vector<PlannedTensor> tensors, std::uint64_t shard_bytes,
                     std::map<std::string, std::string> metadata)
    : tensors_(std::move(tensors)) {
    const auto shard_of = share_out(tensors_, shard_bytes);
    const std::size_t shards = shard_of.empty() ? 1 : shard_of.back() + 1;
    std::vector<HeaderText> headers(shards, HeaderText(metadata));
    std::vector<std::uint64_t> filled(shards, 0);
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
        const auto& tensor = tensors_[i];
        const std::size_t shard = shard_of[i];
        headers[shard].add(tensor, filled[shard]);
        if (!places_.emplace(tensor.name, Place{shard, filled[shard], tensor.bytes()}).second)
            internal_error("two planned tensors have the name ", tensor.name);
        filled[shard] += tensor.bytes();
    }
    for (std::size_t shard = 0; shard < shards; ++shard) {
        headers_.push_back(headers[shard].finish());
        sizes_.push_back(headers_[shard].size() + filled[shard]);
    }
    for (auto& [name, place] : places_) place.offset += headers_[place.shard].size();
}

const ShardPlan::Place& ShardPlan::place(std::string_view name) const {
    const auto at = places_.find(name);
    if (at == places_.end()) internal_error("no tensor ", name, " was planned");
    return at->second;
}

std::string ShardPlan::shard_name(std::size_t shard) const {
    if (shards() == 1) return "model.safetensors";
    std::array<char, 64> name{};
    std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", shard + 1, shards());
    return name.data();
}

std::uint64_t ShardPlan::total_bytes() const {
    std::uint64_t total = 0;
    for (const std::uint64_t size : sizes_) total += size;
    return total;
}

std::string ShardPlan::index_json() const {
    if (shards() == 1) return {};
    std::uint64_t tensor_bytes = 0;
    nlohmann::json weight_map = nlohmann::json::object();
    for (const auto& [name, place] : places_) {
        tensor_bytes += place.bytes;
        weight_map[name] = shard_name(place.shard);
    }
    const nlohmann::json index = {{"metadata", {{"total_size", tensor_bytes}}}, {"weight_map", std::move(weight_map)}};
    return index.dump(2) + "\n";
}

ShardWriter::ShardWriter(const ShardPlan& plan, const std::filesystem::path& folder, bool resume)
    : plan_(plan), folder_(folder) {
    if (resume)
        open_files();
    else
        create_files();
}

void ShardWriter::create_files() {
    for (std::size_t shard = 0; shard < plan_.shards(); ++shard) {
        File file = File::open(folder_ / plan_.shard_name(shard), File::Mode::write_new);
        reserve(file, plan_.shard_bytes(shard));
        file.write_at(0, std::as_bytes(std::span(plan_.header(shard))));
        files_.push_back(std::move(file));
    }
}

void ShardWriter::open_files() {
    for (std::size_t shard = 0; shard < plan_.shards(); ++shard) {
        const auto path = folder_ / plan_.shard_name(shard);
        std::error_code status;
        if (!std::filesystem::is_regular_file(path, status))
            bad_input(path.string(), ": is missing, so the run cannot be resumed; start it anew");
        File file = File::open(path, File::Mode::read_write);
        if (file.size() != plan_.shard_bytes(shard))
            bad_input(path.string(), ": has ", file.size(), " bytes where ", plan_.shard_bytes(shard),
                      " are planned, so it is not of the run to be resumed; start it anew");
        std::string header(plan_.header(shard).size(), '\0');
        file.read_at(0, std::as_writable_bytes(std::span(header)));
        if (header != plan_.header(shard))
            bad_input(path.string(),
                      ": its header is not the planned one, so it is not of the run to be resumed; start it anew");
        files_.push_back(std::move(file));
    }
}

void ShardWriter::write(std::string_view name, std::span<const std::byte> bytes) {
    const auto& place = plan_.place(name);
    if (bytes.size() != place.bytes)
        internal_error("tensor ", name, " has ", bytes.size(), " bytes where ", place.bytes, " are planned");
    begun_.erase(std::string(name));
    write_piece(name, bytes);
}

void ShardWriter::write_piece(std::string_view name, std::span<const std::byte> bytes) {
    const auto& place = plan_.place(name);
    Begun& begun = begun_[std::string(name)];
    if (bytes.size() > place.bytes - begun.bytes)
        internal_error("tensor ", name, " gets more than the ", place.bytes, " bytes that are planned");
    begun.crc = write_and_sum(files_[place.shard], place.offset + begun.bytes, bytes, begun.crc);
    begun.bytes += bytes.size();
    if (begun.bytes < place.bytes) return;
    checksums_.insert_or_assign(std::string(name), hex(begun.crc));
    begun_.erase(std::string(name));
}

void ShardWriter::sync() {
    for (auto& file : files_) file.sync();
    sync_folder(folder_);
}

}  // namespace kerf::core
