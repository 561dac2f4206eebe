// SPDX-License-Identifier: Apache-2.0
#include "core/calibration/documents.hpp"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "core/support/json_text.hpp"

namespace kerf::core {
namespace {

using nlohmann::json;

/// The lines of a file, plain or gzip: zlib finds out which.
class Lines {
public:
    explicit Lines(const std::string& path) : path_(path), file_(gzopen(path.c_str(), "rb")) {
        if (!file_) bad_input(path, ": cannot be opened: ", std::strerror(errno));
        gzbuffer(file_.get(), 1u << 18);
    }

    /// False at the end of the file. The line is valid until the next call.
    bool next(std::string_view& line) {
        constexpr std::size_t longest = std::size_t{64} << 20;
        std::size_t end = buffer_.find('\n', at_);
        while (end == std::string::npos && !ended_) {
            const std::size_t known = buffer_.size() - at_;
            if (known > longest)
                bad_input(path_, ":", number_ + 1, ": a line of more than 64 MiB; one JSON object a line is needed");
            buffer_.erase(0, at_);
            at_ = 0;
            refill();
            end = buffer_.find('\n', known);
        }
        if (end == std::string::npos) end = buffer_.size();
        if (at_ >= buffer_.size()) return false;
        line = std::string_view(buffer_).substr(at_, end - at_);
        at_ = end + 1;
        ++number_;
        return true;
    }
    std::size_t number() const { return number_; }

private:
    struct Close {
        void operator()(gzFile_s* file) const { gzclose(file); }
    };

    void refill() {
        constexpr unsigned chunk = 1u << 20;
        const std::size_t before = buffer_.size();
        buffer_.resize(before + chunk);
        const int got = gzread(file_.get(), buffer_.data() + before, chunk);
        buffer_.resize(before + static_cast<std::size_t>(std::max(got, 0)));
        int status = Z_OK;
        const char* message = gzerror(file_.get(), &status);
        if (got < 0 || (got == 0 && status != Z_OK))
            bad_input(path_, ": cannot be unpacked (", message, "); the file is damaged or was not copied whole");
        ended_ = got == 0;
    }

    std::string path_;
    std::unique_ptr<gzFile_s, Close> file_;
    std::string buffer_;
    std::size_t at_ = 0, number_ = 0;
    bool ended_ = false;
};

std::string keys_of(const json& record) {
    std::string out;
    for (const auto& [key, value] : record.items()) out += (out.empty() ? "\"" : ", \"") + key + "\"";
    return out.empty() ? "none" : out;
}

const std::string& text_at(const json& record, const std::string& key, const std::string& where) {
    if (!record.is_object()) bad_input(where, ": not an object with the key \"", key, "\"");
    const auto found = record.find(key);
    if (found == record.end())
        bad_input(where, ": no key \"", key, "\"; its keys are ", keys_of(record),
                  "; set field to the one with the text");
    if (!found->is_string()) bad_input(where, ": the value of \"", key, "\" is no text");
    return found->get_ref<const std::string&>();
}

/// The Alpaca prompt with its answer. One preamble for records with an input, one for those without.
std::string alpaca_text(const json& record, const std::string& where) {
    const std::string& instruction = text_at(record, "instruction", where);
    const std::string& output = text_at(record, "output", where);
    const bool has_input = record.contains("input") && !record["input"].is_null();
    const std::string input = has_input ? text_at(record, "input", where) : std::string();
    std::string out = input.empty()
                          ? "Below is an instruction that describes a task. "
                          : "Below is an instruction that describes a task, paired with an input that provides "
                            "further context. ";
    out += "Write a response that appropriately completes the request.\n\n### Instruction:\n" + instruction + "\n\n";
    if (!input.empty()) out += "### Input:\n" + input + "\n\n";
    return out + "### Response:\n" + output;
}

bool is_array_file(const std::string& path) {
    Lines lines(path);
    for (std::string_view line; lines.next(line);) {
        const auto first = line.find_first_not_of(" \t\r\xEF\xBB\xBF");
        if (first != std::string_view::npos) return line[first] == '[';
    }
    return false;
}

}  // namespace

Documents::Documents(const TextSource& source)
    : where_(source.path.string()), field_(source.field), alpaca_(source.source == "alpaca") {
    held_ = source.source == "json" || (alpaca_ && is_array_file(where_));
    if (!held_) return;
    constexpr std::uint64_t limit = std::uint64_t{1} << 30;
    const json records = parse_json(read_text(source.path, limit), where_);
    if (!records.is_array())
        bad_input(where_, ": a list of records is needed; for one record a line, set source = \"jsonl\"");
    texts_.reserve(records.size());
    for (const auto& record : records) {
        const std::string where = text(where_, ": record ", texts_.size() + 1);
        if (alpaca_)
            texts_.push_back(alpaca_text(record, where));
        else
            texts_.push_back(record.is_string() ? record.get<std::string>() : text_at(record, field_, where));
    }
}

void Documents::each(const Use& use) const {
    for (std::size_t i = 0; i < texts_.size(); ++i)
        if (!use(i, texts_[i])) return;
    if (held_) return;
    Lines lines(where_);
    std::size_t index = 0;
    for (std::string_view line; lines.next(line);) {
        if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        const std::string where = text(where_, ":", lines.number());
        const json record = parse_json(line, where);
        const std::string document = alpaca_ ? alpaca_text(record, where) : text_at(record, field_, where);
        if (!use(index++, document)) return;
    }
}

}  // namespace kerf::core
