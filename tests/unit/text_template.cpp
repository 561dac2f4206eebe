// SPDX-License-Identifier: Apache-2.0
// Chat templates against what transformers makes of them (tests/data/make_chat_templates.py), and hostile ones.
#include "core/text/template.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/support/error.hpp"
#include "core/support/file.hpp"
#include "core/text/chat.hpp"
#include "tests/unit/temporary.hpp"

namespace kerf::core {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

const fs::path chat_folder = fs::path(KERF_TEST_DATA) / "text/chat";

std::string render(const std::string& text, const ordered_json& variables = ordered_json::object()) {
    return Template::parse(text, "here").render(variables);
}
std::string error_of(const std::string& text, const ordered_json& variables = ordered_json::object()) {
    try {
        render(text, variables);
    } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::input);
        return error.what();
    }
    return "no error";
}
void expect_error(const std::string& text, const std::string& part) {
    const std::string error = error_of(text);
    EXPECT_NE(error.find(part), std::string::npos) << text << "\n" << error;
    EXPECT_TRUE(error.starts_with("here: ")) << error;
}

TEST(Template, GivesTheTextOfTransformersForTemplatesOfThePublishedKinds) {
    const auto expected = ordered_json::parse(read_text(chat_folder / "expected.json"));
    const auto conversations = ordered_json::parse(read_text(chat_folder / "conversations.json"));
    EXPECT_GE(expected.size(), 10u);
    for (const auto& [name, cases] : expected.items()) {
        const Template parsed = Template::parse(read_text(chat_folder / (name + ".jinja")), name);
        for (const auto& one : cases) {
            const ordered_json variables{{"messages", conversations[one["conversation"].get<std::string>()]},
                                         {"add_generation_prompt", one["prompt"]},
                                         {"tools", nullptr},
                                         {"documents", nullptr},
                                         {"bos_token", "<s>"},
                                         {"eos_token", "</s>"},
                                         {"unk_token", "<unk>"},
                                         {"pad_token", "<pad>"}};
            const std::string where = name + ", " + one["conversation"].get<std::string>();
            if (one.contains("error")) {
                EXPECT_THROW(parsed.render(variables), Error) << where;
                continue;
            }
            try {
                EXPECT_EQ(parsed.render(variables), one["text"].get<std::string>()) << where;
            } catch (const Error& error) {
                ADD_FAILURE() << where << ": " << error.what();
            }
        }
    }
}

TEST(Template, SaysWhatATemplateRaises) {
    expect_error("a\n{{ raise_exception('No ' ~ 'system!') }}", "refuses the conversation (line 2): No system!");
}

TEST(Template, NamesLineAndWhatIsNotSupported) {
    expect_error("\n\n{% include 'x' %}", "line 3: the statement 'include' is not supported");
    expect_error("{% extends 'x' %}", "'extends'");
    expect_error("a\n{{ 'x'|frob }}", "line 2: the filter 'frob' is not supported");
    expect_error("{{ 1 is frob }}", "the test 'frob' is not supported");
    expect_error("{{ 'x'.format(1) }}", "the method 'format' is not supported");
    expect_error("{{ frob(1) }}", "the function 'frob' is not supported");
    expect_error("{% for x in [1] recursive %}{% endfor %}", "recursive");
    expect_error("{% for x in [1] %}{{ loop.changed(x) }}{% endfor %}", "'loop.changed' is not supported");
    expect_error("{{ 1 < 2 < 3 }}", "chains of comparisons");
}

TEST(Template, NamesLineAndMistakeInTheTemplate) {
    expect_error("{% if x %}\n", "has no 'endif'");
    expect_error("{% endif %}", "'endif' ends nothing here");
    expect_error("{% for x in y %}{% endif %}", "'endif' ends nothing here");
    expect_error("a\n\n{{ x ", "line 3: {{ has no end }}");
    expect_error("{{ 'x }}", "no closing quote");
    expect_error("{{ (1 }}", "closes nothing");
    expect_error("{{ }}", "a value is expected, not '}}'");
    expect_error("{{ a b }}", "'}}' is expected, not 'b'");
    expect_error("{{ a ? b }}", "the character '?' has no meaning");
    expect_error("{# x", "{# has no end");
    expect_error("{% raw %}x", "{% endraw %}");
    expect_error("{% break %}", "stands in no loop");
    expect_error("{{ 99999999999999999999 }}", "too large");
    expect_error("{{ '\\ud800' }}", "no Unicode character");
    expect_error("{% set a.b = 1 %}", "only a namespace's attributes");
    expect_error("\xff", "UTF-8");
}

TEST(Template, RefusesWhatPythonRefuses) {
    for (const auto* text : {"{{ 1 + 'a' }}",
                             "{{ x + 'a' }}",
                             "{{ x.y.z }}",
                             "{{ none + 1 }}",
                             "{{ 1 / 0 }}",
                             "{{ 1 % 0 }}",
                             "{{ [] < 1 }}",
                             "{{ 1 in 2 }}",
                             "{% for x in 3 %}{% endfor %}",
                             "{{ [1]['a'].b }}",
                             "{{ 'a'.index }}{{ 'a'[none] }}",
                             "{{ 'a'.split('') }}",
                             "{{ [1].index(2) }}",
                             "{% set a, b = [1] %}",
                             "{{ x() }}",
                             "{{ 'a'() }}",
                             "{{ 9223372036854775807 + 1 }}",
                             "{{ -9223372036854775807 - 2 }}",
                             "{{ 3 ** 99 }}",
                             "{{ x|tojson }}",
                             "{{ {[]: 1} }}",
                             "{{ range(1, 5, 0) }}",
                             "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
                             "{{ 'a'|sort(x=1) }}"})
        EXPECT_NE(error_of(text), "no error") << text;
}

TEST(Template, IsBoundedInTimeMemoryAndDepth) {
    expect_error("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}", "too many steps");
    expect_error("{{ 'x' * 999999999 }}", "larger than");
    expect_error("{{ [0] * 999999999 }}", "larger than");
    expect_error("{{ range(1000000) }}", "more than 100000 numbers");
    expect_error("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                 "longer than");
    expect_error("{% set ns = namespace(l=[0]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
                 "larger than 2000000 items");
    expect_error("{% set ns = namespace(l=[0]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}",
                 "nest more than");
    expect_error("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "too deep");
    expect_error(
        "{% set ns = namespace(l=['a'*1000]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}",
        "larger than 2000000 items");
    expect_error(
        "{% set ns = namespace(l=range(1000)|list) %}{% set l = [ns.l] * 1000 %}{% for i in range(99999) %}"
        "{{ l == l }}{% endfor %}",
        "too many steps");
    expect_error("{% set d = {'a': range(99999)|list} %}{% for i in range(99999) %}{{ d }}{% endfor %}", "here");
    std::string wide = "{{ {";
    for (int i = 0; i < 60'000; ++i) wide += "'" + std::to_string(i) + "':0,";
    expect_error(wide + "} }}", "too many steps");
    expect_error("{{ " + std::string(50'000, '(') + "1" + std::string(50'000, ')') + " }}", "nests more than");
    std::string chain = "{{ 1";
    for (int i = 0; i < 50'000; ++i) chain += " + 1";
    expect_error(chain + " }}", "too long");
    std::string blocks;
    for (int i = 0; i < 5'000; ++i) blocks += "{% if 1 %}";
    expect_error(blocks, "nests more than");
    std::string nots = "{{ ";
    for (int i = 0; i < 50'000; ++i) nots += "not ";
    expect_error(nots + "1 }}", "nests more than");
    std::string filters = "{{ 'x'";
    for (int i = 0; i < 50'000; ++i) filters += "|trim";
    expect_error(filters + " }}", "too long");
    expect_error(std::string(2 << 20, 'x'), "at most");
}

TEST(Template, LeaksNothingThroughANamespaceThatHoldsItself) {
    EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.l = [ns, loop] %}{{ ns.me.me.l|length }}"
                     "{% for i in [1, 2] %}{% set ns.loop = loop %}{% endfor %}{{ ns.loop.index }}"),
              "22");
}

TEST(Template, EveryBeginningOfATemplateIsReadOrRefused) {
    for (const auto& entry : fs::directory_iterator(chat_folder)) {
        if (entry.path().extension() != ".jinja") continue;
        const std::string whole = read_text(entry.path());
        for (std::size_t size = 0; size < whole.size(); size += 3) {
            try {
                render(whole.substr(0, size),
                       {{"messages", ordered_json::array({{{"role", "user"}, {"content", "x"}}})}});
            } catch (const Error& error) {
                EXPECT_EQ(error.fault(), Fault::input);
            }
        }
    }
}

TEST(Template, KnowsTheDate) {
    EXPECT_EQ(render("{{ strftime_now('%Y')|length }}"), "4");
}

TEST(ChatTemplate, IsFoundInAnyOfItsPlaces) {
    const test::TemporaryFolder folder;
    const auto write = [&](const std::string& name, const std::string& text) { folder.write(name, text); };
    const ordered_json messages = ordered_json::array({{{"role", "user"}, {"content", "x"}}});
    EXPECT_THROW(ChatTemplate::open(folder.path()), Error);
    write("tokenizer_config.json",
          R"({"eos_token": "</s>", "chat_template": "{{ messages[0].content }}{{ eos_token }}"})");
    EXPECT_EQ(ChatTemplate::open(folder.path()).render(messages), "x</s>");
    write("tokenizer_config.json",
          R"({"bos_token": {"content": "<b>"}, "chat_template": [{"name": "rag", "template": "r"},
        {"name": "default", "template": "{{ bos_token }}d{{ add_generation_prompt }}"}]})");
    EXPECT_EQ(ChatTemplate::open(folder.path()).render(messages), "<b>dTrue");
    write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
    EXPECT_THROW(ChatTemplate::open(folder.path()), Error);
    write("tokenizer_config.json", R"({"chat_template": 3})");
    EXPECT_THROW(ChatTemplate::open(folder.path()), Error);
    write("chat_template.jinja", "file: {{ messages|length }}\n");
    EXPECT_EQ(ChatTemplate::open(folder.path()).render(messages), "file: 1");
}

}  // namespace
}  // namespace kerf::core
