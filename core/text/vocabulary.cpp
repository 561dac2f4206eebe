// SPDX-License-Identifier: Apache-2.0
#include "core/text/vocabulary.hpp"

#include <cstdio>

#include "core/support/error.hpp"
#include "core/text/subword_model.hpp"

namespace kerf::core {

void Vocabulary::add(std::string token, std::int64_t id, const std::string& where) {
    if (id < 0 || id > largest_id)
        bad_input(where, ": token \"", token, "\" has id ", id, ", which is not between 0 and ", largest_id);
    if (id < past_largest_id() && names_[static_cast<std::size_t>(id)] != nullptr)
        bad_input(where, ": \"", *names_[static_cast<std::size_t>(id)], "\" and \"", token, "\" have the same id ", id);
    const auto [place, added] = ids_.try_emplace(std::move(token), id);
    if (!added) bad_input(where, ": the token \"", place->first, "\" is there twice");
    if (id >= past_largest_id()) names_.resize(static_cast<std::size_t>(id) + 1, nullptr);
    names_[static_cast<std::size_t>(id)] = &place->first;
}

std::optional<std::int64_t> Vocabulary::find(std::string_view token) const {
    const auto found = ids_.find(token);
    if (found == ids_.end()) return std::nullopt;
    return found->second;
}

const std::string* Vocabulary::token(std::int64_t id) const {
    return id >= 0 && id < past_largest_id() ? names_[static_cast<std::size_t>(id)] : nullptr;
}

ByteTokens::ByteTokens(const Vocabulary& vocabulary) {
    for (std::size_t byte = 0; byte < ids_.size(); ++byte) {
        std::array<char, 8> name{};
        std::snprintf(name.data(), name.size(), "<0x%02X>", static_cast<unsigned>(byte));
        ids_[byte] = vocabulary.find(name.data()).value_or(-1);
    }
}

bool ByteTokens::spell(std::string_view bytes, std::vector<std::int64_t>& out) const {
    const std::size_t before = out.size();
    for (const char byte : bytes) {
        const auto id = ids_[static_cast<unsigned char>(byte)];
        if (id < 0) {
            out.resize(before);
            return false;
        }
        out.push_back(id);
    }
    return true;
}

}  // namespace kerf::core
