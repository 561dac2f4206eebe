// SPDX-License-Identifier: Apache-2.0
#include "core/exec/states.hpp"

#include "core/support/error.hpp"

namespace kerf::core {

File States::take_file(std::uint64_t bytes) {
    auto best = std::find_if(spare_.begin(), spare_.end(), [&](const File& file) { return file.size() >= bytes; });
    if (best == spare_.end() && !spare_.empty()) best = std::prev(spare_.end());
    File file = best == spare_.end() ? File::temporary(folder_) : std::move(*best);
    if (best != spare_.end()) spare_.erase(best);
    if (file.size() < bytes) file.resize(bytes);
    return file;
}

void States::declare(const std::string& name, std::int64_t features, Room room) {
    drop(name);
    const auto bytes = std::uint64_t(units_.tokens() * features) * dtype_bytes(dtype_);
    slots_.emplace(name, Slot{features, std::vector<std::int64_t>(std::size_t(units_.count())), room,
                              room == Room::now ? take_file(bytes) : File::temporary(folder_)});
}

void States::drop(const std::string& name) {
    const auto found = slots_.find(name);
    if (found == slots_.end()) return;
    if (found->second.room == Room::now) spare_.push_back(std::move(found->second.file));
    slots_.erase(found);
}

void States::rename(const std::string& from, const std::string& to) {
    drop(to);
    auto node = slots_.extract(from);
    if (node.empty()) internal_error("no state named ", from);
    node.key() = to;
    slots_.insert(std::move(node));
}

void States::put(const std::string& name, std::int64_t unit, const Value& value) {
    Slot& slot = slots_.at(name);
    if (value.features() != slot.features)
        internal_error("state ", name, " has ", slot.features, " features, not ", value.features());
    if (value.tokens() > units_.batch(unit).tokens())
        internal_error("state ", name, " has ", value.tokens(), " rows for ", units_.batch(unit).tokens(), " tokens");
    slot.rows[std::size_t(unit)] = value.tokens();
    slot.file.write_at(std::uint64_t(units_.first_token(unit) * slot.features) * dtype_bytes(dtype_), value.bytes());
}

Value States::get(const std::string& name, std::int64_t unit) const {
    const Slot& slot = slots_.at(name);
    const auto offset = std::uint64_t(units_.first_token(unit) * slot.features) * dtype_bytes(dtype_);
    return Value::filled(slot.rows[std::size_t(unit)], slot.features, dtype_,
                         [&](std::span<std::byte> bytes) { slot.file.read_at(offset, bytes); });
}

}  // namespace kerf::core
