// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace {

/// Slots of each table, in order: "offset name type".
using SlotList = std::map<std::string, std::vector<std::string>>;

SlotList current_slots() {
    SlotList out;
#define KERF_SLOT(table, slot, offset, ...) out[#table].push_back(#offset " " #slot " " #__VA_ARGS__);
#define KERF_SIZE(table, bytes)
#include "slots.inc"
#undef KERF_SLOT
#undef KERF_SIZE
    return out;
}

SlotList golden_slots(const std::filesystem::path& file) {
    SlotList out;
    std::ifstream in(file);
    std::string line, table;
    while (std::getline(in, line)) {
        if (line.empty() || line[0] == '#') continue;
        if (line[0] != ' ')
            table = line;
        else
            out[table].push_back(line.substr(line.find_first_not_of(' ')));
    }
    return out;
}

TEST(Abi, EveryReleasedSlotListIsAPrefixOfTodays) {
    const auto now = current_slots();
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(KERF_SOURCE "/tests/abi")) {
        const auto name = entry.path().filename().string();
        if (!name.starts_with("golden-")) continue;
        ++files;
        const auto then = golden_slots(entry.path());
        EXPECT_FALSE(then.empty()) << name;
        for (const auto& [table, slots] : then) {
            ASSERT_TRUE(now.contains(table)) << table << " of " << name << " is gone";
            ASSERT_GE(now.at(table).size(), slots.size()) << table << " of " << name << " has lost slots";
            for (std::size_t i = 0; i < slots.size(); ++i)
                EXPECT_EQ(now.at(table)[i], slots[i]) << table << " of " << name;
        }
    }
    EXPECT_GE(files, 1);
}

}  // namespace
