// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace kerf::core {

namespace jinja {
struct Program;
}

/// A Jinja2 template of the kind that chat models come with, read and run as transformers does: sandboxed, trim_blocks
/// and lstrip_blocks on, loop controls, and the functions raise_exception, strftime_now, namespace and range.
/// Statements: for, if, set, macro, break, continue, raw, generation. Whatever else Jinja has is an error that names it
/// and its line. Text, nesting, steps and output are bounded, so that no template hangs or exhausts the process.
class Template {
public:
    /// Errors (input) begin with `where` and the line.
    static Template parse(std::string_view text, std::string where);

    /// `variables`: an object, whose keys are the template's global names. Error(input) for what the template raises,
    /// for a value of the wrong kind, and for one that goes beyond the bounds.
    std::string render(const nlohmann::ordered_json& variables) const;

private:
    explicit Template(std::shared_ptr<const jinja::Program> program) : program_(std::move(program)) {}
    std::shared_ptr<const jinja::Program> program_;
};

}  // namespace kerf::core
