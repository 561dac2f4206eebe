// SPDX-License-Identifier: Apache-2.0
// The ABI as C++ sees it: a slot that moves, or whose type changes, does not compile.
#include <kerf/abi.h>

#include <type_traits>

#define KERF_SLOT(table, slot, offset, ...)                                          \
    static_assert(offsetof(table, slot) == (offset), #table "." #slot " has moved"); \
    static_assert(std::is_same_v<decltype(table::slot), __VA_ARGS__>, #table "." #slot " has another type");
#define KERF_SIZE(table, bytes)                                                    \
    static_assert(sizeof(table) == (bytes), "the size of " #table " has changed"); \
    static_assert(std::is_standard_layout_v<table> && std::is_trivially_copyable_v<table>);
#define KERF_CONSTANT(name, value) static_assert((name) == (value), #name " has changed");
#include "constants.inc"
#include "slots.inc"
