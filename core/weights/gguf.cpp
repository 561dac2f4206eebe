// SPDX-License-Identifier: Apache-2.0
#include "core/weights/gguf.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>

#include "core/support/error.hpp"

namespace kerf::core {
namespace {

constexpr std::string_view magic = "GGUF";
using Type = GgufValue::Type;

constexpr std::array<std::string_view, 13> type_names{"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                      "bool", "string", "array", "u64", "i64", "f64"};
std::string_view name_of(Type type) {
    return type_names[static_cast<std::size_t>(type)];
}

/// Of a number; 8 for a text (its length alone), 12 for an array (its type and length).
std::uint64_t least_bytes(Type type) {
    switch (type) {
        case Type::u8:
        case Type::i8:
        case Type::boolean:
            return 1;
        case Type::u16:
        case Type::i16:
            return 2;
        case Type::u32:
        case Type::i32:
        case Type::f32:
            return 4;
        case Type::array:
            return 12;
        default:
            return 8;
    }
}

template <class T>
double read_as(std::span<const std::byte> bytes) {
    T value;
    std::memcpy(&value, bytes.data(), sizeof value);
    return static_cast<double>(value);
}

/// Nothing for a text or an array. Whole numbers beyond 2^53 are rounded.
std::optional<double> as_number(Type type, std::span<const std::byte> bytes) {
    switch (type) {
        case Type::u8:
        case Type::boolean:
            return read_as<std::uint8_t>(bytes);
        case Type::i8:
            return read_as<std::int8_t>(bytes);
        case Type::u16:
            return read_as<std::uint16_t>(bytes);
        case Type::i16:
            return read_as<std::int16_t>(bytes);
        case Type::u32:
            return read_as<std::uint32_t>(bytes);
        case Type::i32:
            return read_as<std::int32_t>(bytes);
        case Type::f32:
            return shortest_decimal(static_cast<float>(read_as<float>(bytes)));
        case Type::u64:
            return read_as<std::uint64_t>(bytes);
        case Type::i64:
            return read_as<std::int64_t>(bytes);
        case Type::f64:
            return read_as<double>(bytes);
        default:
            return std::nullopt;
    }
}

bool is_whole(Type type) {
    return type != Type::f32 && type != Type::f64 && type != Type::boolean && type != Type::string &&
           type != Type::array;
}

}  // namespace

/// A tensor as the header says it is.
struct GgufFile::Entry {
    std::string name;
    const GgufType* type = nullptr;
    std::vector<std::int64_t> shape;
    std::uint64_t offset = 0, bytes = 0;
};

/// Reads the header. Counts are held against the bytes that are left before anything is made of them.
struct GgufFile::Reader {
    BoundedReader in;
    const std::string& file;

    template <class... Pieces>
    [[noreturn]] void refuse(const Pieces&... pieces) const {
        bad_input(file, ": ", pieces...);
    }

    std::pair<std::uint64_t, std::uint64_t> read_counts() {
        if (in.left() < magic.size() || in.characters(magic.size()) != magic)
            refuse("does not begin with \"GGUF\", so it is no GGUF file");
        const auto version = in.number<std::uint32_t>();
        if (version >= 0x10000u && std::uint32_t{__builtin_bswap32(version)} < 0x10000u)
            refuse("is a big-endian GGUF file; kerf reads little-endian ones");
        if (version != 2 && version != 3) refuse("is GGUF version ", version, "; kerf reads versions 2 and 3");
        const auto tensors = in.number<std::uint64_t>(), values = in.number<std::uint64_t>();
        // name, rank, one dimension, type, offset; key, type, one byte
        constexpr std::uint64_t least_tensor = 8 + 4 + 8 + 4 + 8, least_value = 8 + 4 + 1;
        check_room(values, least_value, "values of metadata");
        check_room(tensors, least_tensor, "tensors");
        return {tensors, values};
    }

    void check_room(std::uint64_t count, std::uint64_t least, std::string_view what) const {
        if (count > in.left() / least)
            refuse("claims ", count, " ", what, ", for which the ", in.left(), " bytes that follow are too few");
    }

    std::string_view read_text(std::string_view what) {
        const auto length = in.number<std::uint64_t>();
        if (length > in.left())
            refuse("has a ", what, " of ", length, " bytes, but only ", in.left(), " follow; is it cut off?");
        return in.characters(length);
    }

    std::string read_name(std::string_view what) {
        constexpr std::size_t longest = 65535;
        const std::string_view name = read_text(what);
        if (name.empty() || name.size() > longest || has_control_characters(name))
            refuse("has a ", what, " that is empty, longer than ", longest, " bytes or has control characters in it");
        return std::string(name);
    }

    Type read_type(const std::string& key) {
        const auto type = in.number<std::uint32_t>();
        if (type >= type_names.size()) refuse("gives ", key, " the type ", type, ", which no GGUF file has");
        return static_cast<Type>(type);
    }

    std::span<const std::byte> read_plain(Type type, const std::string& key) {
        if (type == Type::string) {
            const std::string_view found = read_text("text");
            return std::as_bytes(std::span(found));
        }
        const auto bytes = in.take(least_bytes(type));
        if (type == Type::boolean && std::to_integer<unsigned>(bytes[0]) > 1)
            refuse("gives ", key, " a bool that is neither 0 nor 1");
        return bytes;
    }

    /// The elements of an array, which may be arrays themselves.
    void pass_elements(Type element, std::uint64_t count, const std::string& key, int depth) {
        constexpr int deepest = 4;
        check_room(count, least_bytes(element), "elements of " + key);
        if (element == Type::string || element == Type::boolean) {
            for (std::uint64_t i = 0; i < count; ++i) read_plain(element, key);
        } else if (element == Type::array) {
            if (depth == deepest) refuse("nests the arrays of ", key, " more than ", deepest, " deep");
            for (std::uint64_t i = 0; i < count; ++i) {
                const Type inner = read_type(key);
                pass_elements(inner, in.number<std::uint64_t>(), key, depth + 1);
            }
        } else {
            in.take(count * least_bytes(element));
        }
    }

    GgufValue read_value(const std::string& key, std::span<const std::byte> all) {
        GgufValue out;
        out.type = read_type(key);
        if (out.type != Type::array) {
            out.bytes = read_plain(out.type, key);
            return out;
        }
        out.element = read_type(key);
        out.count = in.number<std::uint64_t>();
        const std::size_t begin = in.position();
        pass_elements(out.element, out.count, key, 1);
        out.bytes = all.subspan(begin, in.position() - begin);
        return out;
    }

    Entry read_tensor() {
        Entry out;
        out.name = read_name("tensor name");
        const auto rank = in.number<std::uint32_t>();
        if (rank < 1 || rank > 4) refuse("tensor ", out.name, " has ", rank, " dimensions; 1 to 4 are possible");
        for (std::uint32_t d = 0; d < rank; ++d) {
            const auto size = in.number<std::uint64_t>();
            if (size < 1 || size > static_cast<std::uint64_t>(INT64_MAX))
                refuse("tensor ", out.name, " has a dimension of ", size);
            out.shape.insert(out.shape.begin(), static_cast<std::int64_t>(size));
        }
        const auto type = in.number<std::uint32_t>();
        out.type = gguf_type(type);
        if (!out.type) refuse("tensor ", out.name, " is of type ", type, ", which kerf does not know");
        if (!out.type->readable())
            refuse("tensor ", out.name, " is ", out.type->name,
                   ", a quantisation that kerf does not decode (it decodes F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, "
                   "Q8_0 and Q2_K to Q6_K)");
        out.offset = in.number<std::uint64_t>();
        out.bytes = bytes_of(out);
        return out;
    }

    std::uint64_t bytes_of(const Entry& entry) const {
        const auto& type = *entry.type;
        if (entry.shape.back() % type.elements != 0)
            refuse("tensor ", entry.name, " has rows of ", entry.shape.back(), ", which blocks of ", type.elements,
                   " (", type.name, ") do not fill");
        std::vector<std::int64_t> sizes = entry.shape;
        sizes.back() = sizes.back() / type.elements;
        sizes.push_back(type.bytes);
        const auto bytes = tensor_bytes(DType::u8, sizes);
        // Elements are counted in 63 bits elsewhere.
        if (!bytes || !tensor_bytes(DType::f64, entry.shape))
            refuse("tensor ", entry.name, " of shape ", format_shape(entry.shape), " is larger than any file");
        return *bytes;
    }
};

template <class... Pieces>
void GgufFile::refuse(const Pieces&... pieces) const {
    bad_input(path_.string(), ": ", pieces...);
}

GgufFile::GgufFile(const std::filesystem::path& path) : TensorFile(path) {
    const std::string file = path_.string();
    const auto all = mapped_.bytes();
    Reader reader{BoundedReader(all, file), file};
    const auto [tensors, values] = reader.read_counts();
    for (std::uint64_t i = 0; i < values; ++i) {
        std::string key = reader.read_name("key");
        const GgufValue value = reader.read_value(key, all);
        if (!values_.try_emplace(key, value).second) refuse("gives the key ", key, " twice");
    }
    std::vector<Entry> entries;
    for (std::uint64_t i = 0; i < tensors; ++i) entries.push_back(reader.read_tensor());
    const std::uint64_t alignment = count("general.alignment", 32);
    if (alignment < 8 || alignment > (1u << 20) || !std::has_single_bit(alignment))
        refuse("general.alignment is ", alignment, ", not a power of two from 8 on");
    place(entries, (reader.in.position() + alignment - 1) / alignment * alignment, alignment);
}

/// Tensors may lie in any order and with gaps, but each in the file, aligned, and on no other.
void GgufFile::place(const std::vector<Entry>& entries, std::uint64_t data, std::uint64_t alignment) {
    const auto all = mapped_.bytes();
    const std::uint64_t room = data < all.size() ? all.size() - data : 0;
    std::vector<const Entry*> order;
    order.reserve(entries.size());
    for (const Entry& entry : entries) {
        if (entry.offset % alignment != 0)
            refuse("tensor ", entry.name, " begins at byte ", entry.offset, " of the data, which is not aligned to ",
                   alignment);
        if (entry.offset > room || entry.bytes > room - entry.offset)
            refuse("tensor ", entry.name, " takes ", entry.bytes, " bytes from byte ", entry.offset,
                   " of the data on, but there are only ", room, "; is the file cut off?");
        order.push_back(&entry);
    }
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) { return a->offset < b->offset; });
    for (std::size_t i = 1; i < order.size(); ++i)
        if (order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes)
            refuse("tensor ", order[i]->name, " overlaps tensor ", order[i - 1]->name);
    tensors_.reserve(entries.size());
    for (const Entry& entry : entries) add(entry, all.subspan(data + entry.offset, entry.bytes));
    index_tensors();
}

void GgufFile::add(const Entry& entry, std::span<const std::byte> bytes) {
    StoredTensor stored{entry.name, entry.type->plain.value_or(DType::u8), entry.shape, bytes};
    if (!entry.type->plain) {
        const std::int64_t row = entry.shape.back() / entry.type->elements * entry.type->bytes;
        stored.shape = {static_cast<std::int64_t>(entry.bytes) / row, row};
    }
    tensors_.push_back(std::move(stored));
    described_.emplace(entry.name, Described{entry.type, entry.shape});
}

const GgufValue* GgufFile::value_of(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
}

const GgufValue& GgufFile::value_at(std::string_view key) const {
    const GgufValue* found = value_of(key);
    if (!found) refuse("lacks the metadata ", key);
    return *found;
}

std::uint64_t GgufFile::count(std::string_view key) const {
    const GgufValue& value = value_at(key);
    if (!is_whole(value.type)) refuse(key, " is of type ", name_of(value.type), ", not a whole number");
    const double number = *as_number(value.type, value.bytes);
    constexpr double most = 9007199254740992.0;  // 2^53: exact in a double
    if (number < 0 || number > most) refuse(key, " = ", number, " is out of range");
    return static_cast<std::uint64_t>(number);
}

std::uint64_t GgufFile::count(std::string_view key, std::uint64_t otherwise) const {
    return has(key) ? count(key) : otherwise;
}

double GgufFile::real(std::string_view key, double otherwise) const {
    const GgufValue* value = value_of(key);
    if (!value) return otherwise;
    const auto number = as_number(value->type, value->bytes);
    if (!number || value->type == Type::boolean) refuse(key, " is of type ", name_of(value->type), ", not a number");
    if (!(std::abs(*number) <= std::numeric_limits<double>::max())) refuse(key, " is not finite");
    return *number;
}

bool GgufFile::flag(std::string_view key, bool otherwise) const {
    const GgufValue* value = value_of(key);
    if (!value) return otherwise;
    if (value->type != Type::boolean) refuse(key, " is of type ", name_of(value->type), ", not a bool");
    return std::to_integer<int>(value->bytes[0]) != 0;
}

std::string_view GgufFile::text(std::string_view key) const {
    const GgufValue& value = value_at(key);
    if (value.type != Type::string) refuse(key, " is of type ", name_of(value.type), ", not a text");
    return BoundedReader::as_text(value.bytes);
}

std::string_view GgufFile::text(std::string_view key, std::string_view otherwise) const {
    return has(key) ? text(key) : otherwise;
}

std::vector<std::string_view> GgufFile::texts(std::string_view key) const {
    const GgufValue& value = value_at(key);
    if (value.type != Type::array || value.element != Type::string) refuse(key, " is not an array of texts");
    std::vector<std::string_view> out;
    out.reserve(value.count);
    BoundedReader in(value.bytes, path_.string());
    for (std::uint64_t i = 0; i < value.count; ++i) out.push_back(in.characters(in.number<std::uint64_t>()));
    return out;
}

std::vector<double> GgufFile::numbers(std::string_view key) const {
    const GgufValue& value = value_at(key);
    if (value.type != Type::array || value.element == Type::string || value.element == Type::boolean ||
        value.element == Type::array)
        refuse(key, " is not an array of numbers");
    const std::uint64_t size = least_bytes(value.element);
    std::vector<double> out;
    out.reserve(value.count);
    for (std::uint64_t i = 0; i < value.count; ++i)
        out.push_back(*as_number(value.element, value.bytes.subspan(i * size, size)));
    return out;
}

bool GgufFile::is_array(std::string_view key) const {
    const GgufValue* value = value_of(key);
    return value && value->type == Type::array;
}

double shortest_decimal(float value) {
    if (!std::isfinite(value)) return double(value);
    std::array<char, 32> digits{};
    const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), value);
    double out = 0;
    std::from_chars(digits.data(), written.ptr, out);
    return out;
}

bool is_gguf(const std::filesystem::path& path) {
    std::error_code reason;
    if (!std::filesystem::is_regular_file(path, reason)) return false;
    if (path.extension() == ".gguf") return true;
    std::array<char, magic.size()> begin{};
    std::ifstream(path, std::ios::binary).read(begin.data(), begin.size());
    return std::string_view(begin.data(), begin.size()) == magic;
}

std::unique_ptr<TensorFile> open_gguf(const std::filesystem::path& path) {
    return std::make_unique<GgufFile>(path);
}

}  // namespace kerf::core
