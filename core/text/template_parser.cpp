// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <charconv>

#include "core/text/template_syntax.hpp"

namespace kerf::core::jinja {
namespace {

using Kind = Token::Kind;
using Node = Expression::Kind;

/// Brackets in brackets and blocks in blocks; each level takes a dozen calls.
constexpr int most_nested = 100;
/// Of an expression's tree: `a + b + c + …` is as deep as it is long, and is walked by recursion.
constexpr int most_expression_depth = 400;

class Parser {
public:
    explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    Block run() {
        Block out = block({});
        if (now().kind != Kind::end) wrong(core::text("'", now().text, "' has no beginning"));
        return out;
    }

private:
    // ---- tokens

    const Token& now() const { return tokens_[at_]; }
    const Token& after(std::size_t count) const { return tokens_[std::min(at_ + count, tokens_.size() - 1)]; }
    [[noreturn]] void wrong(const std::string& what) const { throw SyntaxError{now().line, what}; }
    [[noreturn]] void unexpected(const std::string& wanted) const {
        wrong(core::text(wanted, " is expected, not ", now().kind == Kind::end ? now().text : "'" + now().text + "'"));
    }
    bool symbol(std::string_view spelling) const { return now().is(Kind::symbol, spelling); }
    bool word(std::string_view spelling) const { return now().is(Kind::name, spelling); }
    bool take_symbol(std::string_view spelling) {
        if (!symbol(spelling)) return false;
        ++at_;
        return true;
    }
    bool take_word(std::string_view spelling) {
        if (!word(spelling)) return false;
        ++at_;
        return true;
    }
    void need_symbol(std::string_view spelling) {
        if (!take_symbol(spelling)) unexpected(core::text("'", spelling, "'"));
    }
    std::string need_name(const char* what) {
        static constexpr std::array<std::string_view, 11> keywords{"and",  "or",  "not",  "in",    "is",  "if",
                                                                   "else", "for", "true", "false", "none"};
        if (now().kind != Kind::name || std::find(keywords.begin(), keywords.end(), now().text) != keywords.end())
            unexpected(what);
        return tokens_[at_++].text;
    }
    void need_block_end() {
        if (now().kind != Kind::block_end) unexpected("'%}'");
        ++at_;
    }

    class Level {
    public:
        explicit Level(Parser& parser) : parser_(parser) {
            if (++parser_.nested_ > most_nested) parser_.wrong(core::text("nests more than ", most_nested, " deep"));
        }
        ~Level() { --parser_.nested_; }
        Level(const Level&) = delete;
        Level& operator=(const Level&) = delete;

    private:
        Parser& parser_;
    };

    // ---- statements

    /// Statements up to {% one of `ends` %}, of which the beginning is taken, or up to the end of the template.
    Block block(const std::vector<std::string_view>& ends) {
        const Level level(*this);
        Block out;
        while (now().kind != Kind::end) {
            if (now().kind == Kind::block_begin) {
                const Token& name = after(1);
                if (name.kind == Kind::name && std::find(ends.begin(), ends.end(), name.text) != ends.end()) {
                    ++at_;
                    return out;
                }
                if (name.kind == Kind::name && name.text.starts_with("end")) {
                    ++at_;
                    wrong(core::text("'", name.text, "' ends nothing here"));
                }
                ++at_;
                statement(out);
            } else if (now().kind == Kind::variable_begin) {
                auto made = start(Statement::Kind::output);
                ++at_;
                made->value = expression_list();
                if (now().kind != Kind::variable_end) unexpected("'}}'");
                ++at_;
                out.push_back(std::move(made));
            } else {
                auto made = start(Statement::Kind::text);
                made->text = tokens_[at_++].text;
                out.push_back(std::move(made));
            }
        }
        if (!ends.empty()) wrong(core::text("the block of line ", block_line_, " has no '", ends.back(), "'"));
        return out;
    }

    std::unique_ptr<Statement> start(Statement::Kind kind) const {
        auto out = std::make_unique<Statement>();
        out->kind = kind;
        out->line = now().line;
        return out;
    }

    /// The block up to its end tag, for messages with the line where it began.
    Block body(const std::vector<std::string_view>& ends) {
        const int outer = std::exchange(block_line_, now().line);
        need_block_end();
        Block out = block(ends);
        block_line_ = outer;
        return out;
    }
    void end_of(std::string_view name) {
        if (!take_word(name)) unexpected(core::text("'", name, "'"));
        need_block_end();
    }

    void statement(Block& out) {
        if (word("for")) return out.push_back(loop());
        if (word("if")) return out.push_back(branch());
        if (word("set")) return out.push_back(set());
        if (word("macro")) return out.push_back(macro());
        if (word("break") || word("continue")) {
            if (loops_ == 0) wrong(core::text("'", now().text, "' stands in no loop"));
            auto made = start(word("break") ? Statement::Kind::stop : Statement::Kind::skip);
            ++at_;
            need_block_end();
            return out.push_back(std::move(made));
        }
        if (take_word("generation")) {
            // marks what the assistant wrote, for training; what is in it is text as any other
            Block inside = body({"endgeneration"});
            end_of("endgeneration");
            for (auto& one : inside) out.push_back(std::move(one));
            return;
        }
        if (now().kind != Kind::name) unexpected("a statement");
        wrong(core::text("the statement '", now().text,
                         "' is not supported; kerf knows for, if, set, macro, break, continue, raw and generation"));
    }

    std::unique_ptr<Statement> loop() {
        auto made = start(Statement::Kind::loop);
        ++at_;
        do made->targets.push_back(need_name("a name"));
        while (take_symbol(","));
        if (!take_word("in")) unexpected("'in'");
        made->value = conditional(false);
        if (take_word("if")) made->condition = expression();
        if (word("recursive")) wrong("recursive loops are not supported");
        ++loops_;
        made->body = body({"else", "endfor"});
        --loops_;
        if (take_word("else")) made->otherwise = body({"endfor"});
        end_of("endfor");
        return made;
    }

    std::unique_ptr<Statement> branch() {
        auto made = start(Statement::Kind::branch);
        ++at_;
        for (bool more = true; more;) {
            Statement part;
            part.line = now().line;
            part.value = expression_list();
            part.body = body({"elif", "else", "endif"});
            made->branches.push_back(std::move(part));
            more = take_word("elif");
        }
        if (take_word("else")) {
            Statement part;
            part.line = now().line;
            part.body = body({"endif"});
            made->branches.push_back(std::move(part));
        }
        end_of("endif");
        return made;
    }

    std::unique_ptr<Statement> set() {
        auto made = start(Statement::Kind::set);
        ++at_;
        made->targets.push_back(need_name("a name"));
        if (take_symbol(".")) {
            made->text = std::exchange(made->targets[0], need_name("an attribute's name"));
        } else {
            while (take_symbol(",")) made->targets.push_back(need_name("a name"));
        }
        if (take_symbol("=")) {
            made->value = expression_list();
            need_block_end();
            return made;
        }
        if (made->targets.size() > 1) unexpected("'='");
        made->kind = Statement::Kind::set_block;
        if (symbol("|")) made->value = filters(leaf(Node::name, ""));  // the block's text is the name ""
        made->body = body({"endset"});
        end_of("endset");
        return made;
    }

    std::unique_ptr<Statement> macro() {
        auto made = start(Statement::Kind::macro);
        ++at_;
        Macro& definition = made->definition;
        definition.name = need_name("the macro's name");
        need_symbol("(");
        while (!take_symbol(")")) {
            if (!definition.parameters.empty()) need_symbol(",");
            definition.parameters.push_back(need_name("a parameter's name"));
            definition.defaults.push_back(take_symbol("=") ? expression() : nullptr);
        }
        const int outer = std::exchange(loops_, 0);
        definition.body = body({"endmacro"});
        loops_ = outer;
        end_of("endmacro");
        return made;
    }

    // ---- expressions, from the loosest to the tightest

    std::unique_ptr<Expression> node(Node kind, std::string name = {}) const {
        auto out = std::make_unique<Expression>();
        out->kind = kind;
        out->line = now().line;
        out->name = std::move(name);
        return out;
    }
    ExpressionPtr leaf(Node kind, std::string name) const { return node(kind, std::move(name)); }
    ExpressionPtr constant(Value value) const {
        auto out = node(Node::literal);
        out->literal = std::move(value);
        return out;
    }
    /// Adds a part and keeps count of the depth.
    void join(Expression& to, ExpressionPtr part) const {
        if (part) to.depth = std::max(to.depth, part->depth + 1);
        if (to.depth > most_expression_depth) wrong("an expression is too long");
        to.parts.push_back(std::move(part));
    }
    ExpressionPtr binary(Node kind, std::string name, ExpressionPtr a, ExpressionPtr b) const {
        auto out = node(kind, std::move(name));
        join(*out, std::move(a));
        join(*out, std::move(b));
        return out;
    }

    /// a, b, c without brackets is a tuple.
    ExpressionPtr expression_list() {
        ExpressionPtr first = expression();
        if (!symbol(",")) return first;
        auto out = node(Node::tuple);
        join(*out, std::move(first));
        while (take_symbol(",") && now().kind != Kind::block_end && now().kind != Kind::variable_end)
            join(*out, expression());
        return out;
    }
    ExpressionPtr expression() { return conditional(true); }

    /// with_if: a loop's `if` filters; it is no part of the expression before it.
    ExpressionPtr conditional(bool with_if) {
        const Level level(*this);
        ExpressionPtr value = either();
        while (with_if && take_word("if")) {
            auto out = node(Node::conditional);
            join(*out, std::move(value));
            join(*out, either());
            join(*out, take_word("else") ? conditional(true) : nullptr);
            value = std::move(out);
        }
        return value;
    }
    ExpressionPtr either() {
        ExpressionPtr out = both();
        while (take_word("or")) out = binary(Node::either, "or", std::move(out), both());
        return out;
    }
    ExpressionPtr both() {
        ExpressionPtr out = negation();
        while (take_word("and")) out = binary(Node::both, "and", std::move(out), negation());
        return out;
    }
    ExpressionPtr negation() {
        if (!take_word("not")) return comparison();
        const Level level(*this);
        auto out = node(Node::unary, "not");
        join(*out, negation());
        return out;
    }

    std::string comparison_operator() {
        for (const auto* one : {"==", "!=", "<=", ">=", "<", ">"})
            if (take_symbol(one)) return one;
        if (take_word("in")) return "in";
        if (word("not") && after(1).is(Kind::name, "in")) {
            at_ += 2;
            return "not in";
        }
        return {};
    }
    ExpressionPtr comparison() {
        ExpressionPtr left = sum();
        std::string name = comparison_operator();
        if (name.empty()) return left;
        ExpressionPtr right = sum();
        auto out = binary(Node::comparison, name, std::move(left), std::move(right));
        if (const Token& next = now();
            next.kind == Kind::symbol &&
            (next.text == "==" || next.text == "!=" || next.text.starts_with('<') || next.text.starts_with('>')))
            wrong("chains of comparisons are not supported; join two by 'and'");
        return out;
    }

    ExpressionPtr chain(ExpressionPtr (Parser::*part)(), const std::vector<std::string_view>& operators) {
        ExpressionPtr out = (this->*part)();
        for (;;) {
            const auto found = std::find_if(operators.begin(), operators.end(), [&](auto o) { return symbol(o); });
            if (found == operators.end()) return out;
            ++at_;
            out = binary(Node::binary, std::string(*found), std::move(out), (this->*part)());
        }
    }
    ExpressionPtr sum() { return chain(&Parser::joined, {"+", "-"}); }
    ExpressionPtr joined() { return chain(&Parser::product, {"~"}); }
    ExpressionPtr product() { return chain(&Parser::power, {"*", "/", "//", "%"}); }
    ExpressionPtr power() { return chain(&Parser::signed_value, {"**"}); }

    ExpressionPtr signed_value() { return filters(unary()); }
    ExpressionPtr unary() {
        if (!symbol("-") && !symbol("+")) return postfix(primary());
        const Level level(*this);
        auto out = node(Node::unary, tokens_[at_++].text);
        join(*out, unary());
        return out;
    }

    ExpressionPtr primary() {
        const Token& token = now();
        if (token.kind == Kind::string) {
            std::string all;
            while (now().kind == Kind::string) all += tokens_[at_++].text;
            return constant(all);
        }
        if (token.kind == Kind::integer || token.kind == Kind::real) return number();
        if (token.kind == Kind::name) {
            for (const auto& [spelling, value] :
                 {std::pair{"true", true}, {"True", true}, {"false", false}, {"False", false}})
                if (take_word(spelling)) return constant(value);
            if (take_word("none") || take_word("None")) return constant(None{});
            return leaf(Node::name, need_name("a value"));
        }
        if (symbol("[")) return sequence(Node::list, "]");
        if (symbol("{")) return dict();
        if (symbol("(")) return brackets();
        unexpected("a value");
    }

    ExpressionPtr number() {
        const std::string& digits = now().text;
        if (now().kind == Kind::real) {
            double value = 0;
            std::from_chars(digits.data(), digits.data() + digits.size(), value);
            ++at_;
            return constant(value);
        }
        std::int64_t value = 0;
        const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
        if (status != std::errc()) wrong(core::text("the number ", digits, " is too large"));
        ++at_;
        return constant(value);
    }

    ExpressionPtr sequence(Node kind, std::string_view end) {
        auto out = node(kind);
        ++at_;
        while (!take_symbol(end)) {
            if (!out->parts.empty()) need_symbol(",");
            if (take_symbol(end)) break;
            join(*out, expression());
        }
        return out;
    }
    ExpressionPtr dict() {
        auto out = node(Node::dict);
        ++at_;
        while (!take_symbol("}")) {
            if (!out->parts.empty()) need_symbol(",");
            if (take_symbol("}")) break;
            join(*out, expression());
            need_symbol(":");
            join(*out, expression());
        }
        return out;
    }
    /// (a) is a, (a,) and (a, b) and () are tuples.
    ExpressionPtr brackets() {
        ++at_;
        if (take_symbol(")")) return leaf(Node::tuple, "");
        ExpressionPtr first = expression();
        if (take_symbol(")")) return first;
        auto out = node(Node::tuple);
        join(*out, std::move(first));
        while (!take_symbol(")")) {
            need_symbol(",");
            if (take_symbol(")")) break;
            join(*out, expression());
        }
        return out;
    }

    ExpressionPtr postfix(ExpressionPtr value) {
        for (;;) {
            if (take_symbol(".")) {
                value = attribute(std::move(value));
            } else if (take_symbol("[")) {
                value = subscript(std::move(value));
            } else if (symbol("(")) {
                auto out = node(Node::call);
                join(*out, std::move(value));
                arguments(*out);
                value = std::move(out);
            } else {
                return value;
            }
        }
    }
    ExpressionPtr attribute(ExpressionPtr of) {
        if (now().kind == Kind::integer) return binary(Node::item, "", std::move(of), number());
        if (now().kind != Kind::name) unexpected("an attribute's name");
        auto out = node(Node::attribute, now().text);
        ++at_;
        join(*out, std::move(of));
        return out;
    }
    ExpressionPtr subscript(ExpressionPtr of) {
        ExpressionPtr parts[3];
        int colons = 0;
        while (!take_symbol("]")) {
            if (take_symbol(":")) {
                if (++colons > 2) unexpected("']'");
            } else {
                if (parts[colons]) unexpected("']'");
                parts[colons] = expression();
            }
        }
        if (colons == 0 && !parts[0]) unexpected("an index");
        auto out = node(colons > 0 ? Node::slice : Node::item);
        join(*out, std::move(of));
        for (int i = 0; i < (colons > 0 ? 3 : 1); ++i) join(*out, std::move(parts[i]));
        return out;
    }
    /// (a, b, name=c)
    void arguments(Expression& call) {
        need_symbol("(");
        for (bool first = true; !take_symbol(")"); first = false) {
            if (!first) need_symbol(",");
            if (take_symbol(")")) return;
            if (symbol("*") || symbol("**")) wrong("arguments with * and ** are not supported");
            if (now().kind == Kind::name && after(1).is(Kind::symbol, "=")) {
                std::string name = now().text;
                at_ += 2;
                ExpressionPtr value = expression();
                call.depth = std::max(call.depth, value->depth + 1);
                call.named.emplace_back(std::move(name), std::move(value));
            } else {
                if (!call.named.empty()) wrong("an argument without a name follows one with a name");
                join(call, expression());
            }
        }
    }

    ExpressionPtr filters(ExpressionPtr value) {
        for (;;) {
            if (take_symbol("|")) {
                auto out = node(Node::filter, need_name("a filter's name"));
                join(*out, std::move(value));
                if (symbol("(")) arguments(*out);
                value = std::move(out);
            } else if (take_word("is")) {
                value = test(std::move(value));
            } else {
                return value;
            }
        }
    }
    ExpressionPtr test(ExpressionPtr value) {
        const bool negated = take_word("not");
        // "none", "true", "in" are tests too
        if (now().kind != Kind::name) unexpected("a test's name");
        auto out = node(Node::test, now().text);
        ++at_;
        out->negated = negated;
        join(*out, std::move(value));
        if (symbol("(")) {
            arguments(*out);
        } else if (starts_argument()) {
            // "is divisibleby 3": one argument needs no brackets
            join(*out, postfix(primary()));
        }
        return out;
    }
    bool starts_argument() const {
        if (now().kind == Kind::string || now().kind == Kind::integer || now().kind == Kind::real) return true;
        if (symbol("[") || symbol("{")) return true;
        static constexpr std::array<std::string_view, 6> goes_on{"else", "or", "and", "is", "if", "in"};
        return now().kind == Kind::name && now().text != "not" && now().text != "recursive" &&
               std::find(goes_on.begin(), goes_on.end(), now().text) == goes_on.end();
    }

    std::vector<Token> tokens_;
    std::size_t at_ = 0;
    int nested_ = 0, loops_ = 0, block_line_ = 1;
};

}  // namespace

Block parse(std::vector<Token> tokens) {
    return Parser(std::move(tokens)).run();
}

}  // namespace kerf::core::jinja
