// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/weights/bounded.hpp"
#include "core/weights/gguf_blocks.hpp"
#include "core/weights/tensor_file.hpp"

namespace kerf::core {

/// One value of a GGUF file's metadata. It refers to the mapped file.
struct GgufValue {
    enum class Type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

    Type type = Type::u8;
    Type element = Type::u8;           ///< of an array
    std::uint64_t count = 1;           ///< elements of an array
    std::span<const std::byte> bytes;  ///< of the number, of the text, or of all elements of the array
};

/// GGUF, versions 2 and 3, little-endian: metadata, and tensors in quantised blocks or in plain types.
///
/// tensors() has a plain tensor as it is (shape [out, in], as Hugging Face files have it; GGUF lists dimensions the
/// other way round); a quantised one is there as its bytes, u8 [rows, bytes of a row], and described() has its type and
/// shape.
class GgufFile final : public TensorFile {
public:
    struct Described {
        const GgufType* type;
        std::vector<std::int64_t> shape;  ///< the last dimension is a multiple of type->elements
    };

    /// Error(input) names the file and what is wrong: another format or byte order, a version that kerf does not know,
    /// counts or lengths beyond the end of the file, a key or tensor that is there twice, unknown types, a misaligned
    /// tensor, one that overlaps another or ends beyond the file, a quantisation without a decoder.
    explicit GgufFile(const std::filesystem::path& path);

    const std::filesystem::path& path() const noexcept { return path_; }
    const Described& described(const StoredTensor& tensor) const { return described_.at(tensor.name); }

    // Metadata. Each is Error(input) that names the key when its value is of another type; the ones without
    // `otherwise` also when there is none.
    bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
    std::uint64_t count(std::string_view key) const;  ///< a whole number, not negative, of any integer type
    std::uint64_t count(std::string_view key, std::uint64_t otherwise) const;
    double real(std::string_view key, double otherwise) const;
    bool flag(std::string_view key, bool otherwise) const;
    std::string_view text(std::string_view key) const;
    std::string_view text(std::string_view key, std::string_view otherwise) const;
    std::vector<std::string_view> texts(std::string_view key) const;
    std::vector<double> numbers(std::string_view key) const;  ///< an array of numbers of any type
    /// Whether a key holds an array: some counts are one number, or one a block.
    bool is_array(std::string_view key) const;

private:
    struct Entry;
    struct Reader;

    const GgufValue* value_of(std::string_view key) const;
    const GgufValue& value_at(std::string_view key) const;
    template <class... Pieces>
    [[noreturn]] void refuse(const Pieces&... pieces) const;
    void place(const std::vector<Entry>& entries, std::uint64_t data, std::uint64_t alignment);
    void add(const Entry& entry, std::span<const std::byte> bytes);

    std::map<std::string, GgufValue, std::less<>> values_;
    std::map<std::string, Described, std::less<>> described_;
};

/// The double nearest to the shortest decimal that rounds to `value`: what a configuration said before it was stored as
/// float32, 1e-05 rather than 9.999999747378752e-06.
double shortest_decimal(float value);

/// The format's first four bytes, or a name that ends in .gguf: whether a path is to be read as one.
bool is_gguf(const std::filesystem::path& path);

/// For readers of any format.
std::unique_ptr<TensorFile> open_gguf(const std::filesystem::path& path);

}  // namespace kerf::core
