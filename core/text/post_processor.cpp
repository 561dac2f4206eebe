// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "core/text/stages.hpp"
#include "core/text/vocabulary.hpp"

namespace kerf::core {
namespace {

std::int64_t id_in(const JsonPart& part) {
    const auto& value = part.value();
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0 ||
        value.get<std::int64_t>() > Vocabulary::largest_id)
        part.fail("a token id is needed here");
    return value.get<std::int64_t>();
}

/// {"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"<s>": {"ids": [1]}}}
Surroundings from_template(const JsonPart& part) {
    Surroundings out;
    int texts = 0;
    for (const auto& item : part.list("single")) {
        if (item.has("Sequence")) {
            if (item.at("Sequence").string("id") != "A")
                item.fail("a template for one text can only have the sequence A");
            ++texts;
            continue;
        }
        const std::string name = item.at("SpecialToken").string("id");
        const auto tokens = part.at("special_tokens");
        if (!tokens.has(name.c_str())) item.fail("the special token \"", name, "\" is not in special_tokens");
        for (const auto& id : tokens.at(name.c_str()).list("ids"))
            (texts == 0 ? out.before : out.after).push_back(id_in(id));
    }
    if (texts != 1) part.fail("a template needs the sequence A once; this one has it ", texts, " times");
    return out;
}

/// RoBERTa and BERT: {"cls": ["<s>", 0], "sep": ["</s>", 2]}
Surroundings from_pair(const JsonPart& part) {
    const auto id_of = [&](const char* key) {
        const auto pair = part.list(key);
        if (pair.size() != 2) part.fail("\"", key, "\" must be a token and its id");
        return id_in(pair[1]);
    };
    return {{id_of("cls")}, {id_of("sep")}};
}

}  // namespace

Surroundings read_post_processor(const JsonPart& part) {
    const std::string type = part.type();
    if (type == "ByteLevel") return {};  // about offsets only
    if (type == "TemplateProcessing") return from_template(part);
    if (type == "RobertaProcessing" || type == "BertProcessing") return from_pair(part);
    if (type == "Sequence") {
        Surroundings out;
        for (const auto& step : part.list("processors")) {
            const auto more = read_post_processor(step);
            out.before.insert(out.before.begin(), more.before.begin(), more.before.end());
            out.after.insert(out.after.end(), more.after.begin(), more.after.end());
        }
        return out;
    }
    part.fail("the post-processor type \"", type,
              "\" is not supported; kerf knows TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing and "
              "Sequence");
}

}  // namespace kerf::core
