/* SPDX-License-Identifier: Apache-2.0
 * The ABI as C sees it: a slot that moves, or whose type changes, does not compile. */
#include <kerf/abi.h>

#define KERF_SLOT(table, slot, offset, ...)                                                     \
    _Static_assert(offsetof(table, slot) == (offset), #table "." #slot " has moved");           \
    _Static_assert(_Generic(((table*)0)->slot, __VA_ARGS__: 1, default: 0), #table "." #slot " has another type");
#define KERF_SIZE(table, bytes) _Static_assert(sizeof(table) == (bytes), "the size of " #table " has changed");
#define KERF_CONSTANT(name, value) _Static_assert((name) == (value), #name " has changed");
#include "constants.inc"
#include "slots.inc"
