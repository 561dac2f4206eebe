// SPDX-License-Identifier: Apache-2.0
#include "core/weights/pickle.hpp"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "core/support/error.hpp"
#include "core/weights/bounded.hpp"

namespace kerf::core {
namespace {

enum class Kind : std::uint8_t {
    none,
    boolean,
    integer,
    real,
    word,
    tuple,
    list,
    dictionary,
    callable,
    storage_type,
    storage,
    tensor
};

enum class Callable : std::uint8_t { ordered_dict, rebuild_tensor, rebuild_parameter };

constexpr std::array<std::string_view, 12> kind_names{"None",       "a boolean",      "an integer", "a number",
                                                      "a text",     "a tuple",        "a list",     "a dictionary",
                                                      "a function", "a storage type", "a storage",  "a tensor"};

constexpr std::size_t rank_limit = 16;

using Id = std::uint32_t;  // of a value in the arena

/// Everything that a pickle can build here. Values refer to others by number and live in one arena, so that neither
/// depth nor cycles cost a stack or a leak.
struct Value {
    Kind kind = Kind::none;
    Callable callable = Callable::ordered_dict;
    DType dtype = DType::f32;
    std::int64_t integer = 0;                // booleans, integers, elements of a storage, offset of a tensor
    std::string_view word{};                 // texts, keys of storages: in the pickle's own bytes
    std::vector<Id> items{};                 // tuples, lists; dictionaries: key, value, key, value, …
    Id storage = 0, shape = 0, strides = 0;  // tensors
};

struct KnownStorage {
    std::string_view name;
    DType dtype;
};
constexpr std::array<KnownStorage, 10> known_storages{{{"DoubleStorage", DType::f64},
                                                       {"FloatStorage", DType::f32},
                                                       {"HalfStorage", DType::f16},
                                                       {"BFloat16Storage", DType::bf16},
                                                       {"LongStorage", DType::i64},
                                                       {"IntStorage", DType::i32},
                                                       {"ShortStorage", DType::i16},
                                                       {"CharStorage", DType::i8},
                                                       {"ByteStorage", DType::u8},
                                                       {"BoolStorage", DType::boolean}}};

class PickleReader {
public:
    PickleReader(std::span<const std::byte> pickle, const std::string& what) : what_(what), reader_(pickle, what) {}

    std::vector<PickledTensor> read() {
        while (step()) {
        }
        if (reader_.left() != 0) refuse("goes on for ", reader_.left(), " bytes after its end");
        if (stack_.size() != 1 || !marks_.empty()) refuse("leaves ", stack_.size(), " values where one belongs");
        return tensors_of(value(stack_.back()));
    }

private:
    template <class... Pieces>
    [[noreturn]] void refuse(const Pieces&... pieces) const {
        bad_input(what_, ": the pickle ", pieces..., " (byte ", opcode_at_, ")");
    }

    bool step() {
        opcode_at_ = reader_.position();
        const auto opcode = reader_.number<std::uint8_t>();
        if (opcode == '.') return false;
        if (!constant(opcode) && !container(opcode) && !memo(opcode) && !special(opcode))
            refuse("has the opcode ", int(opcode), ", which no state dictionary needs, so it is refused");
        return true;
    }

    bool constant(std::uint8_t opcode) {
        switch (opcode) {
            case 'N':
                push({});
                return true;
            case 0x88:
                push({.kind = Kind::boolean, .integer = 1});
                return true;
            case 0x89:
                push({.kind = Kind::boolean});
                return true;
            case 'J':
                push_integer(reader_.number<std::int32_t>());
                return true;
            case 'K':
                push_integer(reader_.number<std::uint8_t>());
                return true;
            case 'M':
                push_integer(reader_.number<std::uint16_t>());
                return true;
            case 0x8a:
                push_integer(long_integer());
                return true;
            case 'G':
                reader_.take(8);
                push({.kind = Kind::real});
                return true;
            case 'X':
                push({.kind = Kind::word, .word = reader_.characters(reader_.number<std::uint32_t>())});
                return true;
            default:
                return false;
        }
    }

    bool container(std::uint8_t opcode) {
        switch (opcode) {
            case '(':
                marks_.push_back(stack_.size());
                return true;
            case ')':
                push({.kind = Kind::tuple});
                return true;
            case ']':
                push({.kind = Kind::list});
                return true;
            case '}':
                push({.kind = Kind::dictionary});
                return true;
            case 't':
                push_tuple(to_mark());
                return true;
            case 0x85:
                push_tuple(top(1));
                return true;
            case 0x86:
                push_tuple(top(2));
                return true;
            case 0x87:
                push_tuple(top(3));
                return true;
            case 'a':
                append(Kind::list, top(1));
                return true;
            case 'e':
                append(Kind::list, to_mark());
                return true;
            case 's':
                append(Kind::dictionary, top(2));
                return true;
            case 'u':
                append(Kind::dictionary, to_mark());
                return true;
            default:
                return false;
        }
    }

    bool memo(std::uint8_t opcode) {
        switch (opcode) {
            case 'q':
                remember(reader_.number<std::uint8_t>());
                return true;
            case 'r':
                remember(reader_.number<std::uint32_t>());
                return true;
            case 'h':
                recall(reader_.number<std::uint8_t>());
                return true;
            case 'j':
                recall(reader_.number<std::uint32_t>());
                return true;
            default:
                return false;
        }
    }

    bool special(std::uint8_t opcode) {
        switch (opcode) {
            case 0x80:
                protocol(reader_.number<std::uint8_t>());
                return true;
            case 'c':
                global();
                return true;
            case 'Q':
                persistent();
                return true;
            case 'R':
                reduce();
                return true;
            case 'b':
                build();
                return true;
            default:
                return false;
        }
    }

    // --- values and the stack ---

    Value& value(Id id) { return values_[id]; }
    void push(Value made) {
        values_.push_back(std::move(made));
        stack_.push_back(static_cast<Id>(values_.size() - 1));
    }
    void push_integer(std::int64_t number) { push({.kind = Kind::integer, .integer = number}); }
    void push_tuple(std::vector<Id> items) { push({.kind = Kind::tuple, .items = std::move(items)}); }

    /// How many values lie above the innermost mark; nothing below it may be taken.
    std::size_t reachable() const { return stack_.size() - (marks_.empty() ? 0 : marks_.back()); }
    std::vector<Id> top(std::size_t count) {
        if (reachable() < count) refuse("takes more values than there are");
        std::vector<Id> taken(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
        stack_.resize(stack_.size() - count);
        return taken;
    }
    std::vector<Id> to_mark() {
        if (marks_.empty()) refuse("has no mark where one belongs");
        auto taken = top(reachable());
        marks_.pop_back();
        return taken;
    }
    Id peek() {
        if (reachable() == 0) refuse("takes more values than there are");
        return stack_.back();
    }
    const Value& expect(Id id, Kind kind, const char* where) {
        const Value& found = value(id);
        if (found.kind != kind) refuse("has ", name_of(found), " as ", where, ", where ", name_of(kind), " belongs");
        return found;
    }
    static std::string_view name_of(Kind kind) { return kind_names[static_cast<std::size_t>(kind)]; }
    static std::string_view name_of(const Value& found) { return name_of(found.kind); }

    void append(Kind kind, const std::vector<Id>& items) {
        Value& target = value(peek());
        if (target.kind != kind) refuse("adds to ", name_of(target), " as if it were ", name_of(kind));
        if (kind == Kind::dictionary && items.size() % 2 != 0) refuse("adds a key without a value");
        target.items.insert(target.items.end(), items.begin(), items.end());
    }
    void remember(std::uint32_t slot) { memo_.insert_or_assign(slot, peek()); }
    void recall(std::uint32_t slot) {
        const auto at = memo_.find(slot);
        if (at == memo_.end()) refuse("recalls value ", slot, ", which it never kept");
        stack_.push_back(at->second);
    }

    std::int64_t long_integer() {
        const auto bytes = reader_.take(reader_.number<std::uint8_t>());
        if (bytes.size() > 8) refuse("has an integer of ", bytes.size(), " bytes");
        if (bytes.empty()) return 0;
        std::uint64_t number = (std::to_integer<unsigned>(bytes.back()) & 0x80u) ? ~std::uint64_t{0} : 0;
        for (std::size_t i = bytes.size(); i-- > 0;) number = number << 8 | std::to_integer<std::uint64_t>(bytes[i]);
        return static_cast<std::int64_t>(number);
    }

    // --- what a state dictionary is made of ---

    void protocol(std::uint8_t version) const {
        if (version != 2)
            refuse("is of protocol ", int(version), "; torch.save writes protocol 2 unless told otherwise");
    }

    void global() {
        const std::string_view module = reader_.line(), name = reader_.line();
        if (module == "collections" && name == "OrderedDict") return push_callable(Callable::ordered_dict);
        if (module == "torch._utils" && name == "_rebuild_tensor_v2") return push_callable(Callable::rebuild_tensor);
        if (module == "torch._utils" && name == "_rebuild_parameter") return push_callable(Callable::rebuild_parameter);
        for (const auto& known : known_storages)
            if (module == "torch" && name == known.name)
                return push({.kind = Kind::storage_type, .dtype = known.dtype});
        refuse("names ", printable(module), ".", printable(name),
               ", which is no part of a state dictionary of tensors; it was not run");
    }
    void push_callable(Callable callable) { push({.kind = Kind::callable, .callable = callable}); }
    static std::string printable(std::string_view name) {
        std::string out(name.substr(0, 100));
        std::replace_if(
            out.begin(), out.end(), [](char c) { return c < 0x20 || c > 0x7e; }, '?');
        return out;
    }

    /// ("storage", type, key, device, elements)
    void persistent() {
        const std::vector<Id> fields = expect(top(1)[0], Kind::tuple, "a storage's description").items;
        if (fields.size() != 5 || expect(fields[0], Kind::word, "a storage's kind").word != "storage")
            refuse("describes something other than a storage");
        const DType dtype = expect(fields[1], Kind::storage_type, "a storage's type").dtype;
        const std::string_view key = expect(fields[2], Kind::word, "a storage's key").word;
        expect(fields[3], Kind::word, "a storage's device");
        const std::int64_t elements = expect(fields[4], Kind::integer, "a storage's size").integer;
        if (elements < 0) refuse("has a storage of ", elements, " elements");
        push({.kind = Kind::storage, .dtype = dtype, .integer = elements, .word = key});
    }

    void reduce() {
        const auto taken = top(2);
        const Callable callable = expect(taken[0], Kind::callable, "what is called").callable;
        const std::vector<Id> arguments = expect(taken[1], Kind::tuple, "arguments").items;
        switch (callable) {
            case Callable::ordered_dict:
                if (!arguments.empty()) refuse("makes an OrderedDict of arguments");
                return push({.kind = Kind::dictionary});
            case Callable::rebuild_tensor:
                return rebuild_tensor(arguments);
            case Callable::rebuild_parameter:
                if (arguments.size() != 3) refuse("makes a parameter of ", arguments.size(), " arguments");
                expect(arguments[0], Kind::tensor, "a parameter's data");
                stack_.push_back(arguments[0]);
                return;
        }
    }

    /// (storage, offset, shape, strides, requires_grad, hooks[, metadata])
    void rebuild_tensor(const std::vector<Id>& arguments) {
        if (arguments.size() != 6 && arguments.size() != 7)
            refuse("makes a tensor of ", arguments.size(), " arguments");
        expect(arguments[0], Kind::storage, "a tensor's storage");
        const std::int64_t offset = expect(arguments[1], Kind::integer, "a tensor's offset").integer;
        const std::size_t rank = expect(arguments[2], Kind::tuple, "a tensor's shape").items.size();
        if (rank > rank_limit) refuse("has a tensor of ", rank, " dimensions");
        if (expect(arguments[3], Kind::tuple, "a tensor's strides").items.size() != rank)
            refuse("has a tensor with other numbers of sizes and strides");
        push({.kind = Kind::tensor,
              .integer = offset,
              .storage = arguments[0],
              .shape = arguments[2],
              .strides = arguments[3]});
    }

    /// state_dict() hangs versions of modules on the dictionary; weights do not depend on them.
    void build() {
        top(1);
        if (value(peek()).kind != Kind::dictionary) refuse("gives attributes to ", name_of(value(peek())));
    }

    std::vector<std::int64_t> integers(Id tuple) {
        std::vector<std::int64_t> numbers;
        for (const Id item : value(tuple).items)
            numbers.push_back(expect(item, Kind::integer, "a size or stride").integer);
        return numbers;
    }

    std::vector<PickledTensor> tensors_of(const Value& state) {
        if (state.kind != Kind::dictionary) refuse("holds ", name_of(state), " where a dictionary of tensors belongs");
        std::vector<PickledTensor> tensors;
        std::unordered_set<std::string_view> names;
        for (std::size_t i = 0; i < state.items.size(); i += 2) {
            const std::string_view name = expect(state.items[i], Kind::word, "a tensor's name").word;
            if (has_control_characters(name)) refuse("has a tensor name with control characters in it");
            if (!names.insert(name).second) refuse("holds two tensors of the name ", name);
            const Value& tensor = value(state.items[i + 1]);
            if (tensor.kind != Kind::tensor)
                refuse("holds ", name_of(tensor), " under ", name, ", where a tensor belongs");
            const Value& storage = value(tensor.storage);
            tensors.push_back({std::string(name), std::string(storage.word), storage.dtype, storage.integer,
                               tensor.integer, integers(tensor.shape), integers(tensor.strides)});
        }
        return tensors;
    }

    const std::string& what_;
    BoundedReader reader_;
    std::size_t opcode_at_ = 0;
    std::vector<Value> values_;
    std::vector<Id> stack_;
    std::vector<std::size_t> marks_;
    std::unordered_map<std::uint32_t, Id> memo_;
};

}  // namespace

std::vector<PickledTensor> read_state_dictionary(std::span<const std::byte> pickle, const std::string& what) {
    // Some 150 bytes describe a tensor, so this is 200 000 of them in one file; a value takes at most 100 times the one
    // byte that may make it.
    constexpr std::size_t limit = 32u << 20;
    if (pickle.size() > limit)
        bad_input(what, ": ", pickle.size(), " bytes are too many for the pickle of a state dictionary");
    return PickleReader(pickle, what).read();
}

}  // namespace kerf::core
