// SPDX-License-Identifier: Apache-2.0
#include "core/text/template.hpp"

#include "core/support/error.hpp"
#include "core/text/template_interpreter.hpp"
#include "core/text/template_syntax.hpp"
#include "core/text/unicode.hpp"

namespace kerf::core {

Template Template::parse(std::string_view text, std::string where) {
    constexpr std::size_t largest = std::size_t{1} << 20;
    if (text.size() > largest)
        bad_input(where, ": a template of ", text.size(), " bytes; at most ", largest, " are read");
    if (!unicode::is_valid(text)) bad_input(where, ": the template is not valid UTF-8");
    auto program = std::make_shared<jinja::Program>();
    try {
        program->body = jinja::parse(jinja::tokenise(text));
    } catch (const jinja::SyntaxError& error) {
        bad_input(where, ": line ", error.line, ": ", error.what);
    } catch (const jinja::Failure& failure) {
        bad_input(where, ": ", failure.what);
    }
    program->where = std::move(where);
    return Template(std::move(program));
}

std::string Template::render(const nlohmann::ordered_json& variables) const {
    return jinja::render(*program_, variables);
}

}  // namespace kerf::core
