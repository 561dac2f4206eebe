// SPDX-License-Identifier: Apache-2.0
#include "core/pipeline/journal.hpp"

#include "core/support/error.hpp"

namespace kerf::core {

Journal Journal::create(const std::filesystem::path& file, const nlohmann::json& identity) {
    write_atomically(file, identity.dump() + "\n");
    Journal journal;
    journal.file_ = File::open(file, File::Mode::read_write);
    journal.end_ = journal.file_.size();
    return journal;
}

Journal Journal::reopen(const std::filesystem::path& file, const nlohmann::json& identity) {
    const std::string content = read_text(file, 1u << 30);
    Journal journal;
    std::uint64_t at = 0;
    bool first = true;
    for (std::size_t end; (end = content.find('\n', at)) != std::string::npos; at = end + 1) {
        nlohmann::json line = nlohmann::json::parse(content.begin() + std::ptrdiff_t(at),
                                                    content.begin() + std::ptrdiff_t(end), nullptr, false);
        if (line.is_discarded()) break;
        if (first) {
            for (const auto& [key, value] : identity.items())
                if (line.value(key, nlohmann::json()) != value)
                    bad_input(file.parent_path().string(), ": the unfinished run there had another ", key,
                              "; run without --resume after removing that folder");
            first = false;
        } else {
            journal.entries_.push_back(std::move(line));
        }
    }
    if (first)
        bad_input(file.string(), ": holds no run; remove ", file.parent_path().string(), " and run without --resume");
    journal.file_ = File::open(file, File::Mode::read_write);
    journal.end_ = at;
    return journal;
}

void Journal::add(const nlohmann::json& entry) {
    const std::string line = entry.dump() + "\n";
    file_.write_at(end_, std::as_bytes(std::span(line)));
    end_ += line.size();
    file_.resize(end_);
    file_.sync();
    entries_.push_back(entry);
}

std::vector<const nlohmann::json*> Journal::of_stage(const std::string& kind, std::int64_t stage) const {
    std::vector<const nlohmann::json*> out;
    for (const auto& entry : entries_)
        if (entry.value("kind", "") == kind && entry.value("stage", std::int64_t{-1}) == stage) out.push_back(&entry);
    return out;
}

const nlohmann::json* Journal::find(const std::string& kind, std::int64_t stage, std::int64_t block) const {
    for (const auto* entry : of_stage(kind, stage))
        if (entry->value("block", std::int64_t{-1}) == block) return entry;
    return nullptr;
}

}  // namespace kerf::core
