// SPDX-License-Identifier: Apache-2.0
#include "core/text/template_interpreter.hpp"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <deque>
#include <map>
#include <set>

#include "core/support/error.hpp"
#include "core/text/template_library.hpp"

namespace kerf::core::jinja {
namespace {

using Kind = Statement::Kind;
using Node = Expression::Kind;

constexpr std::size_t largest_text = std::size_t{16} << 20;
/// Expressions in expressions and macros in macros: what the processor's stack has room for, many times over.
constexpr int most_calls = 1200;

/// What raise_exception says.
struct Raised {
    std::string what;
};

// ---- arithmetic, as Python has it ---------------------------------------------------------------------------------

[[noreturn]] void no_operator(const std::string& name, const Value& a, const Value& b) {
    fail("'", name, "' does not work on ", kind_name(a), " and ", kind_name(b));
}

Value whole_arithmetic(const std::string& name, std::int64_t a, std::int64_t b) {
    std::int64_t out = 0;
    bool over = false;
    if (name == "+") {
        over = __builtin_add_overflow(a, b, &out);
    } else if (name == "-") {
        over = __builtin_sub_overflow(a, b, &out);
    } else if (name == "*") {
        over = __builtin_mul_overflow(a, b, &out);
    } else if (name == "**") {
        if (b < 0) return std::pow(double(a), double(b));
        out = 1;
        for (std::int64_t i = 0; i < b && !over && out != 0 && !(a == 1); ++i) {
            if (a == -1) {
                out = b % 2 == 0 ? 1 : -1;
                break;
            }
            over = __builtin_mul_overflow(out, a, &out);
        }
    } else {
        if (b == 0) fail("division by zero");
        if (name == "/") return double(a) / double(b);
        if (b == -1) {
            over = __builtin_sub_overflow(std::int64_t{0}, a, &out);
            if (name == "%") return std::int64_t{0};
        } else {
            // towards minus infinity
            const std::int64_t rest = a % b, floor_rest = rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
            out = name == "%" ? floor_rest : (a - floor_rest) / b;
        }
    }
    if (over) fail("a whole number grows beyond 64 bits");
    return out;
}

Value real_arithmetic(const std::string& name, double a, double b) {
    if (name == "+") return a + b;
    if (name == "-") return a - b;
    if (name == "*") return a * b;
    if (name == "**") return std::pow(a, b);
    if (b == 0) fail("division by zero");
    if (name == "/") return a / b;
    const double whole = std::floor(a / b);
    return name == "//" ? whole : a - whole * b;
}

Value joined(const std::string& a, const std::string& b, Budget& budget) {
    if (a.size() + b.size() > largest_text) fail("a text becomes longer than ", largest_text, " bytes");
    budget.spend(a.size() + b.size());
    return a + b;
}

Value repeated(const Value& what, std::int64_t times, Budget& budget) {
    const std::size_t count = std::size_t(std::max<std::int64_t>(0, times));
    const std::size_t size = what.string() ? what.string()->size() : what.list()->size();
    if (size != 0 && count > largest_text / size) fail("a value becomes larger than ", largest_text);
    budget.spend(size * count * (what.string() ? 1 : 16));
    if (what.string()) {
        std::string out;
        for (std::size_t i = 0; i < count && size > 0; ++i) out += *what.string();
        return out;
    }
    List out;
    for (std::size_t i = 0; i < count && size > 0; ++i) out.insert(out.end(), what.list()->begin(), what.list()->end());
    return make_list(std::move(out), what.tuple());
}

Value arithmetic(const std::string& name, const Value& a, const Value& b, Budget& budget) {
    std::int64_t i = 0, j = 0;
    double x = 0, y = 0;
    if (name == "~") {
        budget.walk(a);
        budget.walk(b);
        return joined(to_text(a), to_text(b), budget);
    }
    if (a.integer(i) && b.integer(j)) return whole_arithmetic(name, i, j);
    if (a.number(x) && b.number(y)) return real_arithmetic(name, x, y);
    if (name == "+" && a.string() && b.string()) return joined(*a.string(), *b.string(), budget);
    if (name == "+" && a.list() && b.list() && a.tuple() == b.tuple()) {
        budget.spend(16 * (a.list()->size() + b.list()->size()));
        List out = *a.list();
        out.insert(out.end(), b.list()->begin(), b.list()->end());
        return make_list(std::move(out), a.tuple());
    }
    if (name == "*" && (a.string() || a.list()) && b.integer(j)) return repeated(a, j, budget);
    if (name == "*" && (b.string() || b.list()) && a.integer(i)) return repeated(b, i, budget);
    no_operator(name, a, b);
}

bool compare(const std::string& name, const Value& a, const Value& b, Budget& budget) {
    budget.walk(a);
    budget.walk(b);
    if (name == "==") return equal(a, b);
    if (name == "!=") return !equal(a, b);
    if (name == "in") return contains(b, a);
    if (name == "not in") return !contains(b, a);
    if (a.undefined() || b.undefined()) no_operator(name, a, b);
    if (name == "<") return less(a, b);
    if (name == ">") return less(b, a);
    return name == "<=" ? !less(b, a) : !less(a, b);
}

// ---- the interpreter ----------------------------------------------------------------------------------------------

class Interpreter {
public:
    Interpreter(const Program& program, const nlohmann::ordered_json& variables) : program_(program) {
        for (const auto& [name, value] : variables.items()) globals_[name] = from_json(value);
        scopes_.emplace_back();
    }

    std::string run() {
        try {
            execute(program_.body);
        } catch (const Failure& failure) {
            bad_input(program_.where, ": line ", line_, ": ", failure.what);
        } catch (const Raised& raised) {
            bad_input(program_.where, ": the template refuses the conversation (line ", line_, "): ", raised.what);
        }
        return std::move(out_);
    }

private:
    enum class Flow : std::uint8_t { on, stop, skip };

    class Call {
    public:
        explicit Call(Interpreter& in) : in_(in) {
            if (++in_.calls_ > most_calls) {
                --in_.calls_;
                fail("the template nests or calls itself too deep");
            }
        }
        ~Call() { --in_.calls_; }
        Call(const Call&) = delete;
        Call& operator=(const Call&) = delete;

    private:
        Interpreter& in_;
    };

    void write(const std::string& text) {
        if (out_.size() + text.size() > largest_text) fail("the text becomes longer than ", largest_text, " bytes");
        budget_.spend(text.size());
        out_ += text;
    }

    // ---- names

    Value look_up(const std::string& name) const {
        for (std::size_t i = scopes_.size(); i-- > base_;)
            if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return found->second;
        if (const auto found = scopes_[0].find(name); found != scopes_[0].end()) return found->second;
        if (const auto found = globals_.find(name); found != globals_.end()) return found->second;
        static const std::set<std::string, std::less<>> functions{"raise_exception", "strftime_now", "namespace",
                                                                  "range", "dict"};
        if (functions.contains(name)) return Function{name};
        return Undefined{name};
    }
    void assign(const std::vector<std::string>& targets, const Value& value) {
        if (targets.size() == 1) {
            scopes_.back()[targets[0]] = value;
            return;
        }
        const List parts = items_of(value, budget_);
        if (parts.size() != targets.size()) fail(targets.size(), " names cannot take ", parts.size(), " values");
        for (std::size_t i = 0; i < targets.size(); ++i) scopes_.back()[targets[i]] = parts[i];
    }

    // ---- statements

    Flow execute(const Block& block) {
        const Call call(*this);
        for (const auto& statement : block) {
            const Flow flow = execute(*statement);
            if (flow != Flow::on) return flow;
        }
        return Flow::on;
    }

    Flow execute(const Statement& statement) {
        line_ = statement.line;
        budget_.spend();
        switch (statement.kind) {
            case Kind::text:
                write(statement.text);
                return Flow::on;
            case Kind::output: {
                const Value value = evaluate(*statement.value);
                budget_.walk(value);
                write(to_text(value));
                return Flow::on;
            }
            case Kind::branch:
                return branch(statement);
            case Kind::loop:
                return loop(statement);
            case Kind::set:
                set(statement);
                return Flow::on;
            case Kind::set_block:
                return set_block(statement);
            case Kind::macro:
                scopes_.back()[statement.definition.name] = &statement.definition;
                return Flow::on;
            case Kind::stop:
                return Flow::stop;
            case Kind::skip:
                return Flow::skip;
        }
        return Flow::on;
    }

    Flow branch(const Statement& statement) {
        for (const auto& part : statement.branches)
            if (!part.value || truthy(evaluate(*part.value))) return execute(part.body);
        return Flow::on;
    }

    void set(const Statement& statement) {
        const Value value = evaluate(*statement.value);
        if (statement.text.empty()) {
            assign(statement.targets, value);
            return;
        }
        const Value target = look_up(statement.text);
        const auto* names = target.as<Namespace*>();
        if (!names) fail("only a namespace's attributes can be set, '", statement.text, "' is ", kind_name(target));
        (*names)->names[statement.targets[0]] = value;
    }

    Flow set_block(const Statement& statement) {
        std::string outer = std::exchange(out_, {});
        scopes_.emplace_back();
        const Flow flow = execute(statement.body);
        scopes_.pop_back();
        Value made = std::exchange(out_, std::move(outer));
        if (statement.value) {
            scopes_.emplace_back()[""] = made;
            made = evaluate(*statement.value);
            scopes_.pop_back();
        }
        assign(statement.targets, made);
        return flow;
    }

    /// What a loop goes through: all items, or those that its `if` lets pass.
    List chosen_of(const Statement& statement) {
        List all = items_of(evaluate(*statement.value), budget_);
        if (!statement.condition) return all;
        List out;
        for (const auto& item : all) {
            scopes_.emplace_back();
            assign(statement.targets, item);
            if (truthy(evaluate(*statement.condition))) out.push_back(item);
            scopes_.pop_back();
        }
        return out;
    }

    Flow loop(const Statement& statement) {
        const auto items = std::make_shared<const List>(chosen_of(statement));
        ++loop_depth_;
        for (std::size_t i = 0; i < items->size(); ++i) {
            budget_.spend();
            scopes_.emplace_back();
            // each round has a state of its own: a template may keep `loop`
            scopes_.back()["loop"] = std::make_shared<const LoopState>(LoopState{items, i, loop_depth_});
            assign(statement.targets, (*items)[i]);
            const Flow flow = execute(statement.body);
            scopes_.pop_back();
            if (flow == Flow::stop) break;
        }
        --loop_depth_;
        if (!items->empty()) return Flow::on;
        scopes_.emplace_back();
        const Flow flow = execute(statement.otherwise);
        scopes_.pop_back();
        return flow;
    }

    // ---- expressions

    Value evaluate(const Expression& e) {
        const Call call(*this);
        budget_.spend();
        switch (e.kind) {
            case Node::literal:
                return e.literal;
            case Node::name:
                return look_up(e.name);
            case Node::list:
            case Node::tuple:
                return make_list(all_of(e.parts, 0), e.kind == Node::tuple);
            case Node::dict:
                return dict(e);
            case Node::attribute:
                return attribute_of(evaluate(*e.parts[0]), e.name, budget_);
            case Node::item:
                return item_of(evaluate(*e.parts[0]), evaluate(*e.parts[1]), budget_);
            case Node::slice:
                return slice(e);
            case Node::call:
                return invoke(e);
            case Node::filter:
                return apply_filter(e.name, evaluate(*e.parts[0]), arguments_of(e), budget_);
            case Node::test:
                return apply_test(e.name, evaluate(*e.parts[0]), arguments_of(e), budget_) != e.negated;
            case Node::unary:
                return unary(e);
            case Node::binary:
                return arithmetic(e.name, evaluate(*e.parts[0]), evaluate(*e.parts[1]), budget_);
            case Node::comparison:
                return compare(e.name, evaluate(*e.parts[0]), evaluate(*e.parts[1]), budget_);
            case Node::both:
            case Node::either: {
                Value left = evaluate(*e.parts[0]);
                return truthy(left) == (e.kind == Node::either) ? left : evaluate(*e.parts[1]);
            }
            case Node::conditional:
                if (truthy(evaluate(*e.parts[1]))) return evaluate(*e.parts[0]);
                return e.parts[2] ? evaluate(*e.parts[2]) : Value(Undefined{"the value of an if without else"});
        }
        return {};
    }

    List all_of(const std::vector<ExpressionPtr>& parts, std::size_t from) {
        List out;
        for (std::size_t i = from; i < parts.size(); ++i) out.push_back(evaluate(*parts[i]));
        return out;
    }
    Arguments arguments_of(const Expression& e) {
        Arguments out;
        out.positional = all_of(e.parts, 1);
        for (const auto& [name, value] : e.named) out.named.emplace_back(name, evaluate(*value));
        return out;
    }

    Value dict(const Expression& e) {
        Dict out;
        for (std::size_t i = 0; i + 1 < e.parts.size(); i += 2)
            put(out, evaluate(*e.parts[i]), evaluate(*e.parts[i + 1]));
        return make_dict(std::move(out));
    }
    void put(Dict& dict, const Value& key, const Value& value) {
        budget_.spend(4 * dict.size());
        if (key.list() || key.dict()) fail(kind_name(key), " cannot be a dict's key");
        for (auto& [have, old] : dict)
            if (equal(have, key)) {
                old = value;
                return;
            }
        dict.emplace_back(key, value);
    }

    Value slice(const Expression& e) {
        const auto bound = [&](std::size_t i) { return e.parts[i] ? evaluate(*e.parts[i]) : Value(None{}); };
        const Value value = evaluate(*e.parts[0]);
        return slice_of(value, bound(1), bound(2), bound(3), budget_);
    }

    Value unary(const Expression& e) {
        const Value value = evaluate(*e.parts[0]);
        if (e.name == "not") return !truthy(value);
        std::int64_t whole = 0;
        double real = 0;
        if (value.integer(whole)) return e.name == "-" ? whole_arithmetic("-", 0, whole) : Value(whole);
        if (!value.number(real)) fail("'", e.name, "' needs a number, not ", kind_name(value));
        return e.name == "-" ? -real : real;
    }

    Value invoke(const Expression& e) {
        const Value callee = evaluate(*e.parts[0]);
        const Arguments arguments = arguments_of(e);
        if (const auto* macro = callee.as<const Macro*>()) return call_macro(**macro, arguments);
        if (const auto* method = callee.as<std::shared_ptr<const Method>>())
            return call_method(**method, arguments, budget_);
        if (const auto* function = callee.as<Function>()) return call_function(function->name, arguments);
        if (callee.undefined()) {
            const auto& part = *e.parts[0];
            if (part.kind == Node::attribute) fail("the method '", part.name, "' is not supported here");
            fail("the function '", part.name, "' is not supported");
        }
        fail("cannot call ", kind_name(callee));
    }

    Value call_macro(const Macro& macro, const Arguments& arguments) {
        if (arguments.positional.size() > macro.parameters.size())
            fail("the macro '", macro.name, "' takes ", macro.parameters.size(), " arguments, not ",
                 arguments.positional.size());
        for (const auto& [name, value] : arguments.named)
            if (std::find(macro.parameters.begin(), macro.parameters.end(), name) == macro.parameters.end())
                fail("the macro '", macro.name, "' has no parameter '", name, "'");
        const std::size_t outer_base = std::exchange(base_, scopes_.size());
        std::string outer = std::exchange(out_, {});
        scopes_.emplace_back();
        for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
            const Value* given = arguments.get(i, macro.parameters[i]);
            const auto& otherwise = macro.defaults[i];
            scopes_.back()[macro.parameters[i]] = given       ? *given
                                                  : otherwise ? evaluate(*otherwise)
                                                              : Value(Undefined{macro.parameters[i]});
        }
        execute(macro.body);
        scopes_.pop_back();
        base_ = outer_base;
        return std::exchange(out_, std::move(outer));
    }

    Value call_function(const std::string& name, const Arguments& arguments) {
        if (name == "raise_exception") throw Raised{to_text(arguments.value(0, "message", ""))};
        if (name == "strftime_now") return now(arguments.text(0, "format", ""));
        if (name == "range") return range(arguments);
        Dict items;
        if (const Value* from = arguments.get(0, ""); from && from->dict()) items = *from->dict();
        for (const auto& [key, value] : arguments.named) put(items, key, value);
        if (name == "dict") return make_dict(std::move(items));
        Namespace& made = namespaces_.emplace_back();
        for (const auto& [key, value] : items) made.names[to_text(key)] = value;
        return &made;
    }

    static Value now(const std::string& format) {
        const std::time_t time = std::time(nullptr);
        std::tm local{};
        ::localtime_r(&time, &local);
        char text[256];
        const std::size_t size = format.empty() ? 0 : std::strftime(text, sizeof text, format.c_str(), &local);
        if (size == 0 && !format.empty()) fail("strftime_now: the format '", format, "' gives no text");
        return std::string(text, size);
    }

    Value range(const Arguments& arguments) {
        constexpr std::int64_t most = 100'000;  // as Jinja's sandbox has it
        arguments.check("range", 3, {});
        if (arguments.positional.empty()) fail("range needs an end");
        const bool one = arguments.positional.size() == 1;
        const std::int64_t from = one ? 0 : arguments.integer(0, "", 0), to = arguments.integer(one ? 0 : 1, "", 0);
        const std::int64_t step = arguments.integer(2, "", 1);
        if (step == 0) fail("range: the step cannot be 0");
        List out;
        for (std::int64_t i = from; step > 0 ? i < to : i > to;) {
            if (std::int64_t(out.size()) == most) fail("range has more than ", most, " numbers");
            out.push_back(i);
            if (__builtin_add_overflow(i, step, &i)) break;
        }
        budget_.spend(16 * out.size());
        return make_list(std::move(out));
    }

    const Program& program_;
    std::map<std::string, Value, std::less<>> globals_;
    std::deque<Namespace> namespaces_;  ///< values point into it
    std::vector<std::map<std::string, Value, std::less<>>> scopes_;
    std::size_t base_ = 0;  ///< scopes below are another macro's callers
    std::string out_;
    Budget budget_;
    int line_ = 1, calls_ = 0, loop_depth_ = 0;
};

}  // namespace

std::string render(const Program& program, const nlohmann::ordered_json& variables) {
    return Interpreter(program, variables).run();
}

}  // namespace kerf::core::jinja
