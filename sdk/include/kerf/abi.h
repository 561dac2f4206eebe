/* SPDX-License-Identifier: Apache-2.0
 *
 * kerf plugin ABI, major 1. Plain C11, also valid C++17 and later.
 *
 * A plugin is a shared library with ONE exported symbol, kerf_plugin_entry, and one ELF note (section .note.kerf) that
 * the host reads before it loads anything. Everything else crosses through the tables below.
 *
 * Rules that hold for every table and every function here:
 *   - struct_size is sizeof(the struct) as its writer compiled it. Slots are only ever appended; use KERF_HAS before a
 *     slot that is younger than band 1.0.
 *   - A function that returns kerf_code leaves its outputs untouched on failure and fills the caller's kerf_error.
 *     Functions that free return void and accept NULL.
 *   - No exception crosses. Who allocates frees. Text is UTF-8 without a terminator.
 *   - Tensors are DLPack: strides never NULL, byte_offset honoured. CPU data is aligned to at least 16 bytes, what alloc()
 *     gives as asked (at least 64).
 *   - [any thread] / [job thread] beside a slot says who may call it.
 */
#ifndef KERF_ABI_H
#define KERF_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "kerf/dlpack.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KERF_ABI(major, minor) (((uint32_t)(major) << 16) | (uint32_t)(minor))
#define KERF_ABI_MAJOR 1u
#define KERF_ABI_MINOR 1u
#define KERF_ABI_VERSION KERF_ABI(KERF_ABI_MAJOR, KERF_ABI_MINOR)
#define KERF_HOLDS(type, table, slot) ((table)->struct_size >= offsetof(type, slot) + sizeof((table)->slot))
#define KERF_HAS(type, table, slot) (KERF_HOLDS(type, table, slot) && (table)->slot)

typedef int32_t kerf_code; /* 0 = done. A code never changes its meaning; an unknown one counts as INTERNAL. */
enum {
    KERF_OK = 0,
    KERF_E_ARGUMENT = 1,    /* a value that the caller passed is wrong */
    KERF_E_UNSUPPORTED = 2, /* understood, but not offered here */
    KERF_E_MEMORY = 3,      /* the allocator has nothing left */
    KERF_E_BUDGET = 4,      /* the run's memory budget would be exceeded */
    KERF_E_IO = 5,
    KERF_E_NUMERIC = 6,     /* not positive definite, NaN, no convergence */
    KERF_E_CANCELLED = 7,
    KERF_E_VERSION = 8,
    KERF_E_REMOVED = 9,     /* the slot existed once and is gone */
    KERF_E_INTERNAL = 10
};

typedef struct kerf_text {
    const char* data;
    size_t size;
} kerf_text;

/* The caller owns `message` (capacity bytes); the callee writes at most capacity bytes and sets length. */
typedef struct kerf_error {
    uint32_t struct_size;
    kerf_code code;
    uint32_t capacity, length;
    char* message;
} kerf_error;

typedef struct kerf_job kerf_job;       /* one compress() call; the host's, opaque */
typedef struct kerf_layer kerf_layer;   /* one linear layer; the host's, opaque */
typedef struct kerf_axis kerf_axis;     /* one axis of a model, see kerf.structure/1; the host's, opaque */
typedef struct kerf_model kerf_model;   /* all axes of a model, likewise */
struct kerf_replacement;
typedef struct kerf_values kerf_values; /* a read-only tree: validated options, or a config.json; see kerf.values/1 */

enum { KERF_LOG_DEBUG = 0, KERF_LOG_INFO = 1, KERF_LOG_WARN = 2, KERF_LOG_ERROR = 3 };

/* ---- The host's table ------------------------------------------------------------------------------------------ */
typedef struct kerf_host { /* band 1.0, frozen; later bands only append */
    uint32_t struct_size, abi;
    /* A service table by id ("kerf.linalg/1"), or NULL when the host has none that is at least min_size bytes. [any thread] */
    const void* (*extension)(const struct kerf_host*, kerf_text id, uint32_t min_size);
    /* [any thread] */
    void (*log)(kerf_job*, int32_t level, kerf_text message);
    /* Counted against the memory budget and tagged with the layer. align is a power of two, at least 64. [any thread] */
    kerf_code (*alloc)(kerf_job*, size_t bytes, size_t align, void** out, kerf_error*);
    void (*release)(kerf_job*, void*); /* [any thread] */
    /* Calls body on [lo, hi) pieces of [0, n), `grain` items each (the last may be short). The split depends on n and
     * grain alone, never on the number of threads. The first failing piece (lowest lo) decides the error. [job thread] */
    kerf_code (*parallel_for)(kerf_job*, int64_t n, int64_t grain,
                              kerf_code (*body)(void* context, int64_t lo, int64_t hi, kerf_error*), void* context,
                              kerf_error*);
    /* The weight as float32 [out, in], row-major, read-only, valid until replace() or the end of the job. [job thread] */
    kerf_code (*weight)(kerf_layer*, const DLTensor** view, kerf_error*);
    /* Name, as in "model.layers.0.mlp.down_proj"; valid as long as the layer. [any thread] */
    kerf_text (*name)(kerf_layer*);
    /* Replaces the layer's weight, whole or not at all; see kerf_replacement. The host copies. [job thread] */
    kerf_code (*replace)(kerf_layer*, const struct kerf_replacement*, kerf_error*);
} kerf_host;

/* What replace() takes. Layouts:
 *   "dense/1"     one part "weight", float32 [out, in]; in prune_axis() of a linear with a bias also "bias_shift",
 *                 float32 [out], which is added to it.
 *   "int-group/1" `bits` 1..8; parts "codes" uint8 [out, in], "scales" float32 [out, groups], "zeros" float32
 *                 [out, groups] (integral), "group_index" int32 [in] (group of each input column):
 *                 w[o][c] = scales[o][g] * (codes[o][c] - zeros[o][g]),  g = group_index[c]. */
typedef struct kerf_part {
    kerf_text name;
    const DLTensor* tensor;
} kerf_part;
typedef struct kerf_replacement {
    uint32_t struct_size;
    int32_t bits; /* 0 for dense */
    kerf_text layout;
    const kerf_part* parts;
    size_t part_count;
} kerf_replacement;

/* ---- Methods --------------------------------------------------------------------------------------------------- */
enum { /* kerf_method.capabilities */
    KERF_CAN_PARALLEL_LAYERS = 1u << 0, /* compress() of one instance may run for several layers at once */
    KERF_CAN_RESUME = 1u << 1,          /* same inputs, same bytes: a resumed run equals an uninterrupted one */
    KERF_PRUNES = 1u << 2,              /* removes weights: a host refuses it on weights that lie in integer codes */
};
enum { /* kerf_method.needs */
    KERF_NEEDS_INPUT_GRAM = 1u << 0, /* H = (1/T) sum_t x_t x_t^T over the T calibration tokens of the layer's input */
    /* band 1.1 */
    KERF_NEEDS_INPUT_DIAGONAL = 1u << 1, /* the diagonal of H alone, which costs a share of 1 / in of H */
    KERF_NEEDS_INPUT_MEAN = 1u << 2,     /* m = (1/T) sum_t x_t */
    KERF_NEEDS_DENSE_GRAM = 1u << 3, /* C = (1/T) sum_t d_t x_t^T, d_t being the same input in the model as the stage got
                                        it: a second stream of activations */
    KERF_NEEDS_OWN_KEYS = 1u << 4,   /* no grouped queries: the host first gives every query head a copy of its key and
                                        value; for a whole stage, not for some of its axes */
};

typedef struct kerf_linear_shape {
    uint32_t struct_size, reserved;
    int64_t out_features, in_features;
    int64_t tokens; /* calibration tokens, 0 when the recipe calibrates nothing */
    kerf_text name;
} kerf_linear_shape;

typedef struct kerf_cost {
    uint32_t struct_size;
    int32_t bits;             /* of the codes, for layout "int-group/1" */
    int64_t group_size;       /* columns that share a scale, likewise; -1 = a whole row */
    uint64_t scratch_bytes;   /* largest sum of live alloc() buffers during compress() */
    double flops;             /* of compress(), calibration not counted */
    double bits_per_weight;   /* stored, scales and zeros included */
    kerf_text layout;         /* of the replace() that compress() will do; valid as long as the instance */
} kerf_cost;

/* Band 1.1. What a method is handed: linear layers one by one (compress), axes one by one (prune_axis), or all axes of the
 * model at once (prune_model), or the positions of the residual stream, to choose bases for (kerf_bases). */
enum { KERF_SCOPE_LINEARS = 0, KERF_SCOPE_AXES = 1, KERF_SCOPE_MODEL = 2, KERF_SCOPE_BASES = 3 };

/* An axis: a dimension that several weights share, cut into units (docs/axes.md). */
enum { KERF_AXIS_OTHER = 0, KERF_AXIS_RESIDUAL, KERF_AXIS_MLP, KERF_AXIS_HEADS, KERF_AXIS_KV_GROUPS, KERF_AXIS_EXPERTS,
       KERF_AXIS_EMBEDDING, KERF_AXIS_VOCABULARY, KERF_AXIS_POSITIONS,
       /* views: they cut weights that other axes cut too; of axes that cross, a method takes one */
       KERF_AXIS_QUERY_HEADS, KERF_AXIS_ROTARY_PAIRS, KERF_AXIS_HEAD_FEATURES, KERF_AXIS_VALUE_FEATURES };
typedef struct kerf_axis_shape {
    uint32_t struct_size;
    int32_t kind;
    kerf_text name;   /* "model.layers.3.mlp"; valid as long as the axis, during plan_axes() for the call */
    kerf_text fixed;  /* why nothing can be removed; empty when it can */
    int64_t size;     /* units */
    int64_t unit;     /* features of a unit: 1, head_dim, all query features of a KV group, 2 for a pair */
    int64_t balanced; /* units come in so many equal runs, which must lose equally many; 1 = no such tie */
    int64_t keep;     /* units that have to stay, at least 1 */
    int64_t block;    /* the block that it lies in, or -1 */
    int64_t blocks;   /* of the model */
    int64_t in_features;       /* columns of the linears that read it; 0 when none does, or they read unlike inputs */
    int64_t out_features;      /* rows of all linears that read it together; 0 likewise */
    int64_t unit_parameters;   /* parameters that go with one unit */
    int64_t linear_parameters; /* of all linears in all blocks, with their biases: what ratios are measured against */
    int64_t tokens;            /* of calibration, 0 when there is none */
    int64_t planned;           /* units that plan_axes() said will go; -1 inside plan_axes() */
    int64_t biased;            /* how many of the linears that read it add a bias */
    /* In survey_axis(): how large the residual stream x is that the block gets, as one over the mean of 1 / |x|^2 over the
     * calibration tokens, since norms divide by |x|; else 0. */
    double stream;
    int64_t model_parameters; /* of the whole model, each stored tensor once */
    int64_t windows;          /* of calibration: `tokens` come in so many windows, 0 when there is none */
} kerf_axis_shape;
typedef struct kerf_axis_plan {
    uint32_t struct_size;
    int32_t exact;          /* 1: exactly `remove` units will go, so that sizes are known before the run; 0: about so many */
    /* units; -1 (what the host fills in) = the method leaves this axis alone. Scope MODEL: all units of every axis of a
     * block = the block itself goes */
    int64_t remove;
    uint64_t scratch_bytes; /* largest sum of live alloc() buffers while it is pruned */
    double flops;
    /* Scope MODEL: how many backward sweeps ask for the gradients of this axis's weights, whether for their squares too, and
     * over how many windows of what length (0: all, whole); the host adds what they take */
    int32_t sweeps, sweep_squares;
    int64_t sweep_windows, sweep_length;
    /* Scope AXES: 1: survey_axis() comes first, and how many units go is said by allocate_axes(); `remove` is about right
     * then, and `exact` is 0 */
    int32_t survey, reserved;
    uint64_t survey_bytes; /* largest sum of live alloc() buffers in survey_axis() */
    double survey_flops;
    int64_t sweep_first; /* the first window of the sweeps */
} kerf_axis_plan;

/* What a survey says of one axis: removing units[i] of its units costs costs[i], by the method's own measure. units
 * ascends from units[0] = 0; costs are finite. */
typedef struct kerf_axis_curve {
    uint32_t struct_size, reserved;
    int64_t count;
    const int64_t* units;
    const double* costs;
} kerf_axis_curve;

typedef struct kerf_method {
    uint32_t struct_size, abi;
    kerf_text id, version, summary;
    kerf_text options_schema; /* JSON, see docs/abi.md: [{"name","type","default","min","max",...,"help"}] */
    uint64_t capabilities, needs;
    /* options: validated against the schema, defaults filled in. Valid during the call only. */
    kerf_code (*create)(const kerf_host*, const kerf_values* options, void** self, kerf_error*);
    kerf_code (*cost)(void* self, const kerf_linear_shape*, kerf_cost* out, kerf_error*); /* reads no weight */
    kerf_code (*compress)(void* self, kerf_job*, kerf_layer*, kerf_error*);               /* [job thread] */
    void (*destroy)(void* self);
    /* band 1.1; a table that ends before has the scope KERF_SCOPE_LINEARS. Other scopes leave cost and compress NULL. */
    int32_t scope;
    uint32_t reserved;
    /* Scopes AXES and MODEL: what will go of each axis, plans[i] of axes[i]. All axes of the model (scope AXES: those inside
     * blocks that linears read and the recipe does not exclude) are there, so that a method may weigh them against each other. Reads no weight. */
    kerf_code (*plan_axes)(void* self, const kerf_axis_shape* const* axes, size_t count, kerf_axis_plan* const* plans,
                           kerf_error*);
    /* Scope AXES: ends with one remove(), after replace() of the linears that read the axis or without. [job thread] */
    kerf_code (*prune_axis)(void* self, kerf_job*, kerf_axis*, kerf_error*);
    /* Scope MODEL: remove() once for every axis that loses something. [job thread] */
    kerf_code (*prune_model)(void* self, kerf_job*, kerf_model*, kerf_error*);
    const struct kerf_bases* bases; /* scope BASES */
    /* What this instance needs, where that depends on its options; NULL: `needs`. */
    uint64_t (*needs_of)(void* self);
    /* Scope AXES, for axes that plan_axes() wants surveyed. Before anything is removed the host streams the stage's whole
     * input once and asks for each of them, calling take() once; it copies, keeps the curves for a run that goes on later,
     * and hands all of them to allocate_axes(). remove() and replace() have no place here. [job thread] */
    kerf_code (*survey_axis)(void* self, kerf_job*, kerf_axis*,
                             kerf_code (*take)(void* context, const kerf_axis_curve*, kerf_error*), void* context,
                             kerf_error*);
    /* How many units go of each surveyed axis, into remove[i]. axes and their number are those of plan_axes(); curves[i] is
     * NULL for one that was not surveyed, of which exactly axes[i]->planned units go (-1: none). Asked of the instance with
     * the stage's own options. Nothing but its arguments and options counts, so that a run that goes on later gets the same
     * answer. */
    kerf_code (*allocate_axes)(void* self, const kerf_axis_shape* const* axes, const kerf_axis_curve* const* curves,
                               size_t count, int64_t* remove, kerf_error*);
} kerf_method;

/* ---- Adapters -------------------------------------------------------------------------------------------------- */
typedef void (*kerf_sink)(void* context, kerf_text piece); /* receives a text in any number of pieces */

typedef struct kerf_adapter {
    uint32_t struct_size, abi;
    kerf_text id, version, summary;
    /* Whether this family's model; looks at model_type and the like, nothing is validated yet. */
    kerf_code (*accepts)(const kerf_host*, const kerf_values* config, int32_t* yes, kerf_error*);
    /* The model as data: a graph document (JSON, docs/graph.md) into `sink`. Refuses by name what it does not support. */
    kerf_code (*describe)(const kerf_host*, const kerf_values* config, kerf_sink, void* sink_context, kerf_error*);
} kerf_adapter;

/* ---- The plugin ------------------------------------------------------------------------------------------------ */
typedef struct kerf_plugin { /* the host fills struct_size and abi, the plugin the rest, nothing past struct_size */
    uint32_t struct_size, abi;
    uint32_t method_count, adapter_count;
    const kerf_method* const* methods;
    const kerf_adapter* const* adapters;
} kerf_plugin;

typedef kerf_code (*kerf_plugin_entry_fn)(const kerf_host*, kerf_plugin* out, kerf_error*);
#define KERF_ENTRY_NAME "kerf_plugin_entry"
#if defined(__GNUC__)
#define KERF_EXPORT __attribute__((visibility("default")))
#else
#define KERF_EXPORT
#endif

/* The manifest: an ELF note, owner "kerf", type 1, whose description is lines of key=value:
 *   id=org.example.tern  version=1.2.0  abi=1.0  min_abi=1.0  torch=none|stable|exact:2.13.0  methods=tern  adapters=
 * torch=exact:VERSION says that the plugin uses at::Tensor and must meet that very LibTorch in the host. */
#define KERF_NOTE_OWNER "kerf"
#define KERF_NOTE_TYPE 1u
#define KERF_NOTE_SECTION ".note.kerf"

/* For plugins in plain C: KERF_MANIFEST("id=...\nversion=...\n...") at file scope. C++ gets it from KERF_PLUGIN. */
#define KERF_MANIFEST(text)                                                                                 \
    __attribute__((used, section(KERF_NOTE_SECTION), aligned(4))) static const struct {                      \
        uint32_t owner_size, text_size, type;                                                               \
        char owner[8];                                                                                      \
        char body[(sizeof(text) + 3) / 4 * 4];                                                              \
    } kerf_manifest_note = {5u, sizeof(text) - 1, KERF_NOTE_TYPE, KERF_NOTE_OWNER, text}

/* ---- Services (kerf_host.extension) ---------------------------------------------------------------------------- */
/* "kerf.values/1": a path is dotted, list elements by number: "rope_scaling.short_factor.3". [any thread] */
enum { KERF_VALUE_ABSENT = 0, KERF_VALUE_NULL, KERF_VALUE_FLAG, KERF_VALUE_INTEGER, KERF_VALUE_REAL, KERF_VALUE_TEXT,
       KERF_VALUE_LIST, KERF_VALUE_TABLE };
typedef struct kerf_values_1 {
    uint32_t struct_size, reserved;
    int32_t (*kind)(const kerf_values*, kerf_text path);
    int64_t (*size)(const kerf_values*, kerf_text path); /* elements of a list or table, else 0 */
    kerf_code (*flag)(const kerf_values*, kerf_text path, int32_t* out, kerf_error*);
    kerf_code (*integer)(const kerf_values*, kerf_text path, int64_t* out, kerf_error*);
    kerf_code (*real)(const kerf_values*, kerf_text path, double* out, kerf_error*); /* takes integers too */
    kerf_code (*text)(const kerf_values*, kerf_text path, kerf_text* out, kerf_error*);
} kerf_values_1;

/* "kerf.curvature/1": what calibration says about a layer's input. Gathered once, shared by all layers that read the
 * same input and by all stages for which it stays valid. [job thread] */
enum { KERF_ORDER_NONE = 0,        /* columns as stored */
       KERF_ORDER_DESCENDING = 1,  /* by descending diagonal of H, ties: lower index first (act order) */
       KERF_ORDER_GROUP_AWARE = 2  /* inside each group by descending diagonal, groups by their largest; a short last
                                      group stays last */ };
typedef struct kerf_factor_request {
    uint32_t struct_size;
    int32_t order;
    int64_t group_size; /* for KERF_ORDER_GROUP_AWARE */
    double damp;        /* share of mean(diag H) added to the diagonal; raised automatically, never silently */
} kerf_factor_request;
typedef struct kerf_factor {
    uint32_t struct_size, attempts; /* attempts = 1: the damping asked for was enough */
    double damp;                    /* the share used in the end */
    const DLTensor* upper;          /* float32 [in, in], U with U^T U = (H + damp)^-1, in permuted order */
    const int64_t* order;           /* [in], order[k] = original column at place k */
    const uint8_t* dead;            /* [in], original order: 1 where H_jj == 0 (that column of W has no influence) */
} kerf_factor;
typedef struct kerf_curvature_1 {
    uint32_t struct_size, reserved;
    kerf_code (*gram)(kerf_layer*, const DLTensor** view, int64_t* tokens, kerf_error*); /* float32 [in, in], undamped */
    kerf_code (*factor)(kerf_job*, kerf_layer*, const kerf_factor_request*, kerf_factor* out, kerf_error*);
    /* band 1.1: what KERF_NEEDS_INPUT_DIAGONAL (or _GRAM), _INPUT_MEAN and _DENSE_GRAM stand for, undamped */
    kerf_code (*diagonal)(kerf_layer*, const DLTensor** view, int64_t* tokens, kerf_error*); /* float32 [1, in] */
    kerf_code (*mean)(kerf_layer*, const DLTensor** view, kerf_error*);                      /* float32 [1, in] */
    kerf_code (*dense_gram)(kerf_layer*, const DLTensor** view, kerf_error*);                /* float32 [in, in] */
} kerf_curvature_1;

/* "kerf.linalg/1": the host's BLAS and LAPACK on float32 or float64 matrices, row-major, contiguous rows (stride[1] ==
 * 1). Results do not depend on the number of threads. [job thread] */
typedef struct kerf_linalg_1 {
    uint32_t struct_size, reserved;
    /* c = alpha op(a) op(b) + beta c */
    kerf_code (*gemm)(kerf_job*, int32_t transpose_a, int32_t transpose_b, double alpha, const DLTensor* a,
                      const DLTensor* b, double beta, DLTensor* c, kerf_error*);
    /* c = alpha a^T a + beta c, both triangles of c written; a is [k, n] */
    kerf_code (*syrk)(kerf_job*, double alpha, const DLTensor* a, double beta, DLTensor* c, kerf_error*);
    /* a = L L^T: L into the lower triangle of a, zeros above. NUMERIC with the pivot in *pivot when not positive definite */
    kerf_code (*cholesky)(kerf_job*, DLTensor* a, int64_t* pivot, kerf_error*);
    /* h (symmetric positive definite) becomes U, upper, with U^T U = h^-1: one Cholesky of the index-reversed h and one
     * triangular inverse, 2/3 n^3 */
    kerf_code (*inverse_factor)(kerf_job*, DLTensor* h, int64_t* pivot, kerf_error*);
    /* op(t) x = b in place of b; t triangular [n, n], b [n, m] */
    kerf_code (*solve_triangular)(kerf_job*, int32_t upper, int32_t transpose, const DLTensor* t, DLTensor* b, kerf_error*);
    /* a (symmetric) becomes its eigenvectors as columns, values ascending [n] */
    kerf_code (*symmetric_eigen)(kerf_job*, DLTensor* a, DLTensor* values, kerf_error*);
    /* band 1.1: h (symmetric positive definite) becomes h^-1, both triangles, n^3 */
    kerf_code (*inverse)(kerf_job*, DLTensor* h, int64_t* pivot, kerf_error*);
} kerf_linalg_1;

/* "kerf.structure/1": axes in the hands of prune_axis() and prune_model(). [job thread] */
enum { KERF_PLACE_INPUT = 0,   /* columns of a linear that reads the axis */
       KERF_PLACE_OUTPUT = 1,  /* rows of a linear that makes it */
       KERF_PLACE_BIAS = 2, KERF_PLACE_NORM = 3, KERF_PLACE_NORM_BIAS = 4, KERF_PLACE_TABLE = 5 /* of an embedding */ };
typedef struct kerf_place {
    uint32_t struct_size;
    int32_t role;
    kerf_text tensor, module; /* "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj" */
    /* The linear of role INPUT, whose weight, Gram and replace() are there in prune_axis(); else NULL. */
    kerf_layer* layer;
    int32_t dimension, reserved; /* of the tensor, linears being [out, in] whatever the file's layout */
    int64_t extent;              /* size of that dimension */
    /* Unit u has the indices indices[starts[u]] … indices[starts[u + 1] - 1], ascending; starts has size + 1 numbers. Valid
     * as long as the axis. */
    const int64_t* starts;
    const int64_t* indices;
} kerf_place;
typedef struct kerf_structure_1 {
    uint32_t struct_size, reserved;
    kerf_code (*shape)(kerf_axis*, kerf_axis_shape* out, kerf_error*);
    int64_t (*place_count)(kerf_axis*);
    kerf_code (*place)(kerf_axis*, int64_t index, kerf_place* out, kerf_error*);
    /* The tensor of a place, float32, [out, in] or [n], read-only; valid until the next values() of any axis, or the end of
     * the job. */
    kerf_code (*values)(kerf_axis*, int64_t place, const DLTensor** view, kerf_error*);
    /* Units go, once for each axis, in any order; none is allowed too. The columns of the linears that read the axis become
     * zero for what comes later, whether they were replaced or not, and all places lose the units' indices in the output. */
    kerf_code (*remove)(kerf_axis*, const int64_t* units, int64_t count, kerf_error*);
    int64_t (*axis_count)(kerf_model*);
    kerf_axis* (*axis)(kerf_model*, int64_t index); /* NULL past the last one */
} kerf_structure_1;

/* "kerf.random/1": counter-based, so element i of (seed, stream) never depends on who asks or in which order. [any thread] */
typedef struct kerf_random_1 {
    uint32_t struct_size, reserved;
    void (*uniform)(uint64_t seed, uint64_t stream, uint64_t first, double* out, size_t n); /* [0, 1) */
    void (*normal)(uint64_t seed, uint64_t stream, uint64_t first, double* out, size_t n);
} kerf_random_1;

/* "kerf.metrics/1": a figure of this layer for metrics.jsonl and the report. [job thread] */
typedef struct kerf_metrics_1 {
    uint32_t struct_size, reserved;
    void (*metric)(kerf_job*, kerf_text name, double value);
} kerf_metrics_1;

/* "kerf.gradients/1": what the loss says about weights, by backward sweeps over the calibration windows, in prune_model().
 * l_n is the mean cross-entropy of window n's next-token predictions, l the mean of l_n. [job thread] */
typedef struct kerf_gradient { /* float32; a linear [out, in], a table [rows, width], a vector [1, n]; valid during take() */
    uint32_t struct_size, reserved;
    kerf_text tensor;
    const DLTensor* values;  /* the tensor itself */
    const DLTensor* mean;    /* dl/dW */
    const DLTensor* squares; /* mean over n of (dl_n/dW)^2, elementwise; NULL unless asked for */
} kerf_gradient;
typedef struct kerf_sweep_request {
    uint32_t struct_size;
    int32_t squares;
    int64_t first_window, windows, length; /* which windows, and how many tokens of each; 0 = all that there are */
    const kerf_text* tensors;              /* whose gradients are wanted */
    size_t tensor_count;
    /* Takes each tensor once, from the head to the embedding; the host keeps nothing of it. An error ends the sweep. */
    kerf_code (*take)(void* context, const kerf_gradient*, kerf_error*);
    void* context;
} kerf_sweep_request;
typedef struct kerf_gradients_1 {
    uint32_t struct_size, reserved;
    /* One sweep over the model as it is after the last commit(); *loss = l. ARGUMENT without calibration windows, or for
     * windows that are not there; NUMERIC where a loss or gradient is not finite. */
    kerf_code (*sweep)(kerf_job*, kerf_model*, const kerf_sweep_request*, double* loss, kerf_error*);
} kerf_gradients_1;

/* "kerf.model/1": a whole model in the hands of prune_model(). [job thread] */
typedef struct kerf_model_1 {
    uint32_t struct_size, reserved;
    int64_t (*parameters)(kerf_model*); /* of the model as it is after the last commit() */
    int64_t (*blocks)(kerf_model*);
    /* What a place's tensor belongs to: a linear's role in the graph ("q", "qkv", "gate", "gate_up", "fc1", ... or empty),
     * "rms_norm", "layer_norm", or of tables "tokens", "tied" (tokens, and the head's weight too), "positions". Valid as
     * long as the axis. */
    kerf_text (*kind)(kerf_model*, kerf_axis*, int64_t place);
    /* Carries the removals out: the model is smaller from now on, its axes are new ones with units numbered anew, and
     * handles of the old ones are spent. What is not committed when prune_model() returns is committed then.
     * keep_divisor = 1: norms go on dividing by the number of features that there were, so that removing is zeroing;
     * 0: by the number of those that stay. */
    kerf_code (*commit)(kerf_model*, int32_t keep_divisor, kerf_error*);
    /* Keeps the first `count` blocks and drops the rest; committed at once. */
    kerf_code (*keep_blocks)(kerf_model*, int64_t count, kerf_error*);
} kerf_model_1;

/* ---- Methods that choose bases of the residual stream (band 1.1) -------------------------------------------------- */
/* The residual stream x is read at positions: before the first block, between the sums inside a block, behind each block.
 * The host first folds the weights of the norms into the linears behind them and the means of layer norms into what writes
 * to the stream; what is left of the norms commutes with orthogonal maps. A method then gives a basis Q [features, size],
 * orthonormal columns, for each position; the host multiplies what reads the stream there by Q and what writes to it by
 * Q^T, and puts a linear between positions of unlike bases. The host streams the calibration tokens and sums up what the
 * method asks for, in float64, a block at a time. */
enum { KERF_POSITION_EMBEDDING = 0, /* before the first block */
       KERF_POSITION_INSIDE = 1,    /* of a block, as behind attention */
       KERF_POSITION_BLOCK = 2      /* behind a block */ };
typedef struct kerf_position {
    uint32_t struct_size;
    int32_t kind;
    kerf_text name;     /* of the first norm that reads it */
    int64_t block;      /* whose ops make it; -1 before the first */
    int64_t features;
    int64_t parameters; /* that one feature of it takes: in what reads and writes the stream there, biases included */
} kerf_position;
typedef struct kerf_residual {
    uint32_t struct_size, reserved;
    const kerf_position* positions; /* in the order in which a token passes them */
    int64_t count, blocks;
    int64_t tokens;           /* of calibration, 0 when there is none */
    int64_t parameters;       /* of the model as it came */
    int64_t other_parameters; /* of the fused model, that lie on no position */
} kerf_residual;

enum { KERF_SIGNAL_RAW = 0,       /* H = sum x x^T over the calibration tokens */
       KERF_SIGNAL_NORMALIZED = 1 /* x divided by its root mean square first, as a norm hands it on */ };
typedef struct kerf_basis_choice {
    int64_t size;  /* features that stay */
    int64_t group; /* positions of one group share a basis, so that nothing is put between them; -1: stays as it is */
    int64_t fresh; /* 1: basis() wants the covariance at the group's first position in the network as it is by then */
} kerf_basis_choice;
typedef struct kerf_basis_plan { /* the host fills struct_size and choices, a place for each position */
    uint32_t struct_size;
    int32_t signal;         /* KERF_SIGNAL_* */
    int32_t survey;         /* 1: the covariances of all positions of the uncompressed model come first, in order; 2: and
                             * sizes follow from them: those planned before make no smaller a model */
    int32_t centre_tables;  /* 1: the mean of each row of the embedding is taken away under RMS norms too */
    uint64_t scratch_bytes; /* largest sum of live alloc() buffers in one call */
    uint64_t state_bytes;   /* that the instance keeps from call to call */
    kerf_basis_choice* choices;
} kerf_basis_plan;
typedef struct kerf_covariance {
    uint32_t struct_size, reserved;
    const DLTensor* matrix; /* float64 [features, features], both triangles; valid during the call */
    int64_t tokens;         /* in the sum, which is not divided by them */
} kerf_covariance;
typedef struct kerf_bases {
    uint32_t struct_size, reserved;
    /* Reads no data: sizes of positions, and what is to be measured. After a survey it is asked again, and may then go by
     * what it saw; before one, its sizes are what a plan shows. */
    kerf_code (*plan)(void* self, const kerf_residual*, kerf_basis_plan* out, kerf_error*);
    kerf_code (*survey)(void* self, kerf_job*, const kerf_residual*, int64_t position, const kerf_covariance*,
                        kerf_error*); /* [job thread] */
    /* Writes Q, float64 [features, size], for the group whose first position this is. covariance is NULL but for a fresh
     * choice. [job thread] */
    kerf_code (*basis)(void* self, kerf_job*, const kerf_residual*, int64_t position, const kerf_covariance*, DLTensor* q,
                       kerf_error*);
} kerf_bases;

#ifdef __cplusplus
}
#endif
#endif /* KERF_ABI_H */
