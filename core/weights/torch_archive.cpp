// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <optional>

#include "core/support/error.hpp"
#include "core/weights/bounded.hpp"
#include "core/weights/pickle.hpp"
#include "core/weights/tensor_file.hpp"
#include "core/weights/zip_archive.hpp"

namespace kerf::core {
namespace {

/// Row-major without gaps: dimensions of size 1 may have any stride.
bool is_contiguous(const PickledTensor& tensor) {
    std::int64_t expected = 1;
    for (std::size_t d = tensor.shape.size(); d-- > 0;) {
        if (tensor.shape[d] != 1 && tensor.strides[d] != expected) return false;
        expected *= tensor.shape[d];
    }
    return true;
}

/// Index of the last element of a view that has elements, or nothing when that overflows.
std::optional<std::int64_t> last_element(const PickledTensor& tensor) {
    std::int64_t last = tensor.offset;
    for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
        std::int64_t reach = 0;
        if (__builtin_mul_overflow(tensor.shape[d] - 1, tensor.strides[d], &reach)) return std::nullopt;
        if (__builtin_add_overflow(last, reach, &last)) return std::nullopt;
    }
    return last;
}

/// Copies a strided view in row-major order. `source` is the first byte of the storage.
void gather(const PickledTensor& tensor, const std::byte* source, std::span<std::byte> out) {
    const std::size_t width = dtype_bytes(tensor.dtype);
    std::vector<std::int64_t> index(tensor.shape.size(), 0);
    std::vector<std::int64_t> strides = tensor.strides;
    for (std::size_t d = 0; d < strides.size(); ++d)
        if (tensor.shape[d] == 1) strides[d] = 0;  // never stepped along, so a file may say anything
    std::int64_t at = tensor.offset;
    for (std::size_t done = 0; done < out.size(); done += width) {
        std::memcpy(out.data() + done, source + static_cast<std::size_t>(at) * width, width);
        for (std::size_t d = index.size(); d-- > 0;) {
            at += strides[d];
            if (++index[d] < tensor.shape[d]) break;
            at -= strides[d] * tensor.shape[d];
            index[d] = 0;
        }
    }
}

class TorchArchive final : public TensorFile {
public:
    explicit TorchArchive(const std::filesystem::path& path) : TensorFile(path) {
        refuse_old_format();
        const ZipArchive archive(mapped_.bytes(), path_.string());
        const auto& pickle = find_pickle(archive);
        const std::string prefix = pickle.name.substr(0, pickle.name.size() - std::string_view("data.pkl").size());
        check_byte_order(archive, prefix);
        archive.verify(pickle);
        const auto pickled = read_state_dictionary(pickle.bytes, path_.string() + ": " + pickle.name);
        tensors_.reserve(pickled.size());
        for (const auto& tensor : pickled) add(tensor, archive, prefix);
        index_tensors();
    }

private:
    template <class... Pieces>
    [[noreturn]] void refuse(const PickledTensor& tensor, const Pieces&... pieces) const {
        bad_input(path_.string(), ": tensor ", tensor.name, " ", pieces...);
    }

    void refuse_old_format() const {
        const std::string_view bytes = BoundedReader::as_text(mapped_.bytes());
        if (bytes.starts_with("\x80\x02"))
            bad_input(
                path_.string(),
                ": is in the format of torch before 1.6, or a bare pickle; load and save it once with a newer torch");
    }

    const ZipArchive::Entry& find_pickle(const ZipArchive& archive) const {
        const ZipArchive::Entry* found = nullptr;
        for (const auto& entry : archive.entries()) {
            const std::string_view name = entry.name;
            if (!name.ends_with("/data.pkl") || name.find('/') + std::string_view("/data.pkl").size() != name.size())
                continue;
            if (found) bad_input(path_.string(), ": has two pickles, ", found->name, " and ", name);
            found = &entry;
        }
        if (!found)
            bad_input(path_.string(), ": is a zip archive without FOLDER/data.pkl, so torch.save did not write it");
        return *found;
    }

    void check_byte_order(const ZipArchive& archive, const std::string& prefix) const {
        const auto* order = archive.find(prefix + "byteorder");
        if (!order) return;  // written by torch before 2.1, which had little-endian archives alone
        if (BoundedReader::as_text(order->bytes) != "little")
            bad_input(path_.string(), ": was saved on a big-endian machine; kerf reads little-endian archives");
    }

    void add(const PickledTensor& tensor, const ZipArchive& archive, const std::string& prefix) {
        const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
        const bool negative = tensor.offset < 0 ||
                              std::any_of(tensor.strides.begin(), tensor.strides.end(), [](auto s) { return s < 0; });
        if (!bytes || negative)
            refuse(tensor, "has an impossible shape ", format_shape(tensor.shape), " or strides ",
                   format_shape(tensor.strides));
        const auto storage = storage_of(tensor, archive, prefix);
        StoredTensor stored{tensor.name, tensor.dtype, tensor.shape, {}};
        if (*bytes != 0) stored.bytes = view(tensor, storage, static_cast<std::size_t>(*bytes));
        tensors_.push_back(std::move(stored));
    }

    std::span<const std::byte> storage_of(const PickledTensor& tensor, const ZipArchive& archive,
                                          const std::string& prefix) const {
        const auto* entry = archive.find(prefix + "data/" + tensor.storage);
        if (!entry) refuse(tensor, "is in a storage that the archive lacks");
        const auto wanted = tensor_bytes(tensor.dtype, {tensor.storage_elements});
        if (!wanted || *wanted != entry->bytes.size())
            refuse(tensor, "is in a storage of ", tensor.storage_elements, " ", dtype_name(tensor.dtype), ", but ",
                   entry->name, " has ", entry->bytes.size(), " bytes");
        return entry->bytes;
    }

    std::span<const std::byte> view(const PickledTensor& tensor, std::span<const std::byte> storage,
                                    std::size_t bytes) {
        const auto last = last_element(tensor);
        if (!last || *last >= tensor.storage_elements)
            refuse(tensor, "of ", format_shape(tensor.shape), " reaches past the end of its storage of ",
                   tensor.storage_elements, " elements");
        if (is_contiguous(tensor))
            return storage.subspan(static_cast<std::size_t>(tensor.offset) * dtype_bytes(tensor.dtype), bytes);
        // A stride of 0, or many views of one storage, could stand for any amount of memory.
        if (bytes > storage.size() || bytes > mapped_.bytes().size() - copied_bytes_)
            refuse(tensor, "repeats its storage, as expand() does; save a contiguous copy of it");
        copied_bytes_ += bytes;
        auto& copy = copies_.emplace_back(bytes);
        gather(tensor, storage.data(), copy);
        return copy;
    }

    std::vector<std::vector<std::byte>> copies_;
    std::size_t copied_bytes_ = 0;
};

}  // namespace

std::unique_ptr<TensorFile> open_torch_archive(const std::filesystem::path& path) {
    return std::make_unique<TorchArchive>(path);
}

}  // namespace kerf::core
