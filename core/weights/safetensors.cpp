// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/support/error.hpp"
#include "core/weights/bounded.hpp"
#include "core/weights/tensor_file.hpp"

namespace kerf::core {
namespace {

constexpr std::uint64_t header_limit = 100'000'000;  // as the reference implementation
constexpr std::size_t rank_limit = 64;

struct Entry {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    std::vector<std::uint64_t> offsets;
    bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Takes the header as a stream of events, so that nothing but what the format knows is ever built: no tree, no depth,
/// and no key twice. The shape of a header is fixed: an object of tensors, each an object of one text and two lists.
class HeaderEvents {
public:
    explicit HeaderEvents(const std::string& file) : file_(file) {}
    std::vector<Entry> entries;
    std::map<std::string, std::string> metadata;

    bool key(std::string& name) {
        if (in_metadata_) {
            if (metadata.contains(name)) refuse("__metadata__ has the key \"", name, "\" twice");
            field_ = name;
        } else if (depth_ == 1) {
            begin_entry(name);
        } else {
            field_ = name;
        }
        return true;
    }
    bool start_object(std::size_t) {
        ++depth_;
        if (depth_ > 2 || (depth_ == 2 && list_)) unexpected("an object");
        return true;
    }
    bool end_object() {
        if (--depth_ == 1) in_metadata_ = false;
        return true;
    }
    bool string(std::string& value) {
        if (in_metadata_ && depth_ == 2) {
            metadata.emplace(field_, value);
        } else if (depth_ == 2 && !list_ && field_ == "dtype") {
            once(entries.back().has_dtype);
            entries.back().dtype = value;
        } else {
            unexpected("a text");
        }
        return true;
    }
    bool start_array(std::size_t) {
        if (depth_ != 2 || in_metadata_ || list_ || (field_ != "shape" && field_ != "data_offsets"))
            unexpected("a list");
        once(field_ == "shape" ? entries.back().has_shape : entries.back().has_offsets);
        list_ = true;
        return true;
    }
    bool end_array() {
        list_ = false;
        return true;
    }
    bool number_unsigned(std::uint64_t value) {
        if (!list_) unexpected("a number");
        Entry& entry = entries.back();
        if (field_ == "data_offsets") {
            if (entry.offsets.size() == 2) refuse("tensor ", entry.name, " has more than two data_offsets");
            entry.offsets.push_back(value);
            return true;
        }
        if (entry.shape.size() == rank_limit)
            refuse("tensor ", entry.name, " has more than ", rank_limit, " dimensions");
        if (value > INT64_MAX) refuse("tensor ", entry.name, " has a dimension of ", value);
        entry.shape.push_back(static_cast<std::int64_t>(value));
        return true;
    }
    bool number_integer(std::int64_t value) { unexpected(text("the negative number ", value)); }
    bool number_float(double, const std::string& written) { unexpected(text("the number ", written)); }
    bool null() { unexpected("null"); }
    bool boolean(bool) { unexpected("true or false"); }
    bool binary(nlohmann::json::binary_t&) { unexpected("binary data"); }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
        refuse("is not valid JSON in UTF-8 at byte ", position, " of the header");
    }

private:
    template <class... Pieces>
    [[noreturn]] void refuse(const Pieces&... pieces) const {
        bad_input(file_, ": the safetensors header ", pieces...);
    }
    [[noreturn]] void unexpected(std::string_view found) const {
        const bool in_entry = depth_ >= 2 && !in_metadata_ && !entries.empty();
        refuse("has ", found, " where it cannot be", in_entry ? text(", in tensor ", entries.back().name) : "",
               in_metadata_ ? ", in __metadata__" : "");
    }
    void once(bool& seen) const {
        if (seen) refuse("gives \"", field_, "\" of tensor ", entries.back().name, " twice");
        seen = true;
    }
    void begin_entry(const std::string& name) {
        in_metadata_ = name == "__metadata__";
        if (in_metadata_) {
            if (metadata_seen_) refuse("has __metadata__ twice");
            metadata_seen_ = true;
            return;
        }
        if (has_control_characters(name)) refuse("has a tensor name with control characters in it");
        entries.emplace_back().name = name;
    }

    const std::string& file_;
    std::string field_;
    int depth_ = 0;
    bool in_metadata_ = false, metadata_seen_ = false, list_ = false;
};

class SafetensorsFile final : public TensorFile {
public:
    explicit SafetensorsFile(const std::filesystem::path& path) : TensorFile(path) {
        const std::string file = path_.string();
        const auto bytes = mapped_.bytes();
        if (bytes.size() < 8) bad_input(file, ": ", bytes.size(), " bytes are too few for a safetensors file");
        BoundedReader reader(bytes, file);
        const auto length = reader.number<std::uint64_t>();
        if (length > header_limit)
            bad_input(file, ": claims a header of ", length,
                      " bytes, more than the 100 MB that a safetensors file may have");
        if (length > reader.left())
            bad_input(file, ": claims a header of ", length, " bytes, but only ", reader.left(),
                      " follow; is it cut off?");
        HeaderEvents events(file);
        read_header(reader.characters(length), events, file);
        metadata_ = std::move(events.metadata);
        place(events.entries, bytes.subspan(8 + length));
        index_tensors();
    }

private:
    static void read_header(std::string_view header, HeaderEvents& events, const std::string& file) {
        if (!header.starts_with('{')) bad_input(file, ": the safetensors header does not begin with {");
        // The JSON library takes a zero byte as the end of its input, which would let anything hide behind it.
        if (header.find('\0') != std::string_view::npos)
            bad_input(file, ": the safetensors header has a zero byte in it");
        nlohmann::json::sax_parse(header, &events);
    }

    /// The entries, in order of their offsets, have to tile the data: no hole, no overlap, nothing behind the last.
    void place(std::vector<Entry>& entries, std::span<const std::byte> data) {
        for (const Entry& entry : entries)
            if (!entry.has_dtype || !entry.has_shape || entry.offsets.size() != 2)
                refuse(entry, "lacks a dtype, a shape or two data_offsets");
        std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
        tensors_.reserve(entries.size());
        std::uint64_t filled = 0;
        for (Entry& entry : entries) {
            const std::uint64_t begin = entry.offsets[0], end = entry.offsets[1];
            if (begin > end) refuse(entry, "ends (byte ", end, ") before it begins (byte ", begin, ")");
            if (begin < filled) refuse(entry, "overlaps the one before it at byte ", begin, " of the data");
            if (begin > filled)
                refuse(entry, "begins at byte ", begin, " and leaves a hole of ", begin - filled, " bytes before it");
            if (end > data.size())
                refuse(entry, "ends at byte ", end, " of the data, but there are only ", data.size(),
                       "; is the file cut off?");
            tensors_.push_back(stored(entry, data.subspan(begin, end - begin)));
            filled = end;
        }
        if (filled != data.size())
            bad_input(path_.string(), ": ", data.size() - filled,
                      " bytes follow the last tensor, which no tensor owns");
    }

    StoredTensor stored(Entry& entry, std::span<const std::byte> bytes) const {
        const auto dtype = dtype_from_name(entry.dtype);
        if (!dtype || dtype_name(*dtype) != entry.dtype)
            refuse(entry, "has the dtype \"", entry.dtype, "\", which kerf does not know");
        const auto wanted = tensor_bytes(*dtype, entry.shape);
        if (!wanted || *wanted != bytes.size())
            refuse(entry, "of ", entry.dtype, " ", format_shape(entry.shape), " takes ",
                   wanted ? std::to_string(*wanted) : "more than 2^63", " bytes, but its data_offsets give it ",
                   bytes.size());
        return {std::move(entry.name), *dtype, std::move(entry.shape), bytes};
    }

    template <class... Pieces>
    [[noreturn]] void refuse(const Entry& entry, const Pieces&... pieces) const {
        bad_input(path_.string(), ": tensor ", entry.name, " ", pieces...);
    }
};

}  // namespace

std::unique_ptr<TensorFile> open_safetensors(const std::filesystem::path& path) {
    return std::make_unique<SafetensorsFile>(path);
}

}  // namespace kerf::core
