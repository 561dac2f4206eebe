// SPDX-License-Identifier: Apache-2.0
#include "core/exec/states.hpp"

#include "core/support/error.hpp"

namespace kerf::core {

void States::declare(const std::string& name, std::int64_t features) {
    Slot slot{features, File::temporary(folder_)};
    slot.file.resize(std::uint64_t(units_.tokens() * features) * dtype_bytes(dtype_));
    slots_.insert_or_assign(name, std::move(slot));
}

void States::rename(const std::string& from, const std::string& to) {
    auto node = slots_.extract(from);
    if (node.empty()) internal_error("no state named ", from);
    slots_.erase(to);
    node.key() = to;
    slots_.insert(std::move(node));
}

void States::put(const std::string& name, std::int64_t unit, const Value& value) {
    Slot& slot = slots_.at(name);
    if (value.features() != slot.features)
        internal_error("state ", name, " has ", slot.features, " features, not ", value.features());
    slot.file.write_at(std::uint64_t(units_.first_token(unit) * slot.features) * dtype_bytes(dtype_), value.bytes());
}

Value States::get(const std::string& name, std::int64_t unit) const {
    const Slot& slot = slots_.at(name);
    const std::int64_t tokens = units_.batch(unit).tokens();
    std::vector<std::byte> bytes(std::size_t(tokens * slot.features) * dtype_bytes(dtype_));
    slot.file.read_at(std::uint64_t(units_.first_token(unit) * slot.features) * dtype_bytes(dtype_), bytes);
    return Value::from_bytes(bytes, tokens, slot.features, dtype_);
}

}  // namespace kerf::core
