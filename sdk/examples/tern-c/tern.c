/* SPDX-License-Identifier: Apache-2.0
 * The method of ../tern/tern.cpp in C11 on kerf/abi.h alone: what the C++ SDK does for an author is done by hand here,
 * and the bytes are the same. Each step names its counterpart. */
#include <kerf/abi.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

KERF_MANIFEST("id=org.example.tern_c\nversion=1.2.0\nabi=1.0\nmin_abi=1.0\ntorch=none\nmethods=tern_c\nadapters=\n");

#define TEXT(literal) \
    { literal, sizeof(literal) - 1 }

typedef struct tern {
    const kerf_host* host;
    int64_t bits, group;
    double damp;
} tern;

/* kerf::Error: what, where, what to do; the message goes into the caller's buffer. */
static kerf_code fail(kerf_error* error, kerf_code code, const char* format, ...) {
    if (error && error->struct_size >= sizeof(kerf_error)) {
        error->code = code;
        error->length = 0;
        if (error->message && error->capacity > 0) {
            va_list arguments;
            va_start(arguments, format);
            int length = vsnprintf(error->message, error->capacity, format, arguments);
            va_end(arguments);
            if (length > 0) error->length = (uint32_t)length < error->capacity ? (uint32_t)length : error->capacity - 1;
        }
    }
    return code;
}

/* kerf::detail::service */
static const void* service(const kerf_host* host, const char* id, uint32_t size) {
    kerf_text text = {id, strlen(id)};
    return host->extension(host, text, size);
}

static int64_t groups_of(const tern* self, int64_t columns) {
    return (columns + self->group - 1) / self->group;
}

/* ---- One row at a time: kerf::GroupAffine ------------------------------------------------------------------------ */
typedef struct work {
    const float* weight;                 /* [out, in] */
    const float* upper;                  /* [in, in] */
    const int64_t* order;                /* [in] */
    int64_t weight_stride, upper_stride; /* in elements */
    int64_t columns, groups, group;
    int largest_code;
    uint8_t* codes;        /* [out, in] */
    float *scales, *zeros; /* [out, groups] */
    float* rest;           /* [out, in] */
} work;

/* GroupAffine::cover: the grid that covers [low, high] and 0. */
static void cover(const work* w, int64_t row, int64_t group, float low, float high) {
    if (low == high) {
        low = -1.0f;
        high = 1.0f;
    }
    float scale = (high - low) / (float)w->largest_code;
    w->scales[row * w->groups + group] = scale;
    w->zeros[row * w->groups + group] = nearbyintf(-low / scale);
}

/* GroupAffine::cover_row */
static void cover_row(const work* w, int64_t row) {
    const float* weight = w->weight + row * w->weight_stride;
    for (int64_t g = 0; g < w->groups; ++g) {
        int64_t end = (g + 1) * w->group < w->columns ? (g + 1) * w->group : w->columns;
        float low = 0.0f, high = 0.0f;
        for (int64_t c = g * w->group; c < end; ++c) {
            if (weight[c] < low) low = weight[c];
            if (weight[c] > high) high = weight[c];
        }
        cover(w, row, g, low, high);
    }
}

/* GroupAffine::round: half to even, on the grid of its place. */
static float round_one(const work* w, int64_t row, int64_t column, float value) {
    int64_t at = row * w->groups + column / w->group;
    float scale = w->scales[at], zero = w->zeros[at];
    float code = nearbyintf(value / scale) + zero, largest = (float)w->largest_code;
    if (code < 0.0f) code = 0.0f;
    if (code > largest) code = largest;
    w->codes[row * w->columns + column] = (uint8_t)code;
    return scale * (code - zero);
}

/* GroupAffine::round_with_feedback */
static void round_row(const work* w, int64_t row) {
    const float* weight = w->weight + row * w->weight_stride;
    float* rest = w->rest + row * w->columns;
    for (int64_t k = 0; k < w->columns; ++k) rest[k] = weight[w->order[k]];
    for (int64_t k = 0; k < w->columns; ++k) {
        const float* u = w->upper + k * w->upper_stride;
        float error = (rest[k] - round_one(w, row, w->order[k], rest[k])) / u[k];
        for (int64_t j = k + 1; j < w->columns; ++j) rest[j] -= error * u[j];
    }
}

static kerf_code rows_of(void* context, int64_t lo, int64_t hi, kerf_error* error) {
    (void)error;
    for (int64_t row = lo; row < hi; ++row) {
        cover_row(context, row);
        round_row(context, row);
    }
    return KERF_OK;
}

/* ---- The method's table ------------------------------------------------------------------------------------------ */
static const char schema[] =
    "[{\"name\":\"bits\",\"type\":\"int\",\"default\":3,\"min\":2,\"max\":8,\"help\":\"bits per weight\"},"
    "{\"name\":\"group\",\"type\":\"int\",\"default\":128,\"min\":32,\"multiple_of\":32,\"help\":\"columns that share "
    "a scale\"},"
    "{\"name\":\"damp\",\"type\":\"real\",\"default\":0.01,\"exclusive_min\":0.0,"
    "\"help\":\"share of the mean diagonal added to the Gram matrix\"}]";

static kerf_code create(const kerf_host* host, const kerf_values* options, void** self, kerf_error* error) {
    static const kerf_text bits = TEXT("bits"), group = TEXT("group"), damp = TEXT("damp");
    const kerf_values_1* values = service(host, "kerf.values/1", sizeof(kerf_values_1));
    if (!values) return fail(error, KERF_E_VERSION, "this kerf offers no kerf.values/1; update kerf");
    tern* made = calloc(1, sizeof(tern));
    if (!made) return fail(error, KERF_E_MEMORY, "out of memory");
    made->host = host;
    kerf_code code = values->integer(options, bits, &made->bits, error);
    if (code == KERF_OK) code = values->integer(options, group, &made->group, error);
    if (code == KERF_OK) code = values->real(options, damp, &made->damp, error);
    if (code != KERF_OK) {
        free(made);
        return code;
    }
    *self = made;
    return KERF_OK;
}

static kerf_code cost(void* self, const kerf_linear_shape* shape, kerf_cost* out, kerf_error* error) {
    static const kerf_text layout = TEXT("int-group/1");
    const tern* t = self;
    int64_t rows = shape->out_features, columns = shape->in_features;
    if (out->struct_size < sizeof(kerf_cost)) return fail(error, KERF_E_VERSION, "the host's cost table is too small");
    out->bits = (int32_t)t->bits;
    out->group_size = t->group;
    out->scratch_bytes = (uint64_t)(5 * rows * columns + 8 * rows * groups_of(t, columns) + 4 * columns);
    out->flops = (double)rows * (double)columns * (double)columns;
    out->bits_per_weight = (double)t->bits + (16.0 + (double)t->bits) / (double)t->group;
    out->layout = layout;
    return KERF_OK;
}

/* A row-major matrix, or a vector when columns is 0, as the ABI wants it. */
typedef struct tensor {
    DLTensor dl;
    int64_t shape[2], strides[2];
} tensor;
static void describe(tensor* t, void* data, uint8_t code, uint8_t bits, int64_t rows, int64_t columns) {
    memset(t, 0, sizeof(*t));
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->strides[0] = columns > 0 ? columns : 1;
    t->strides[1] = 1;
    t->dl.data = data;
    t->dl.device.device_type = kDLCPU;
    t->dl.ndim = columns > 0 ? 2 : 1;
    t->dl.dtype.code = code;
    t->dl.dtype.bits = bits;
    t->dl.dtype.lanes = 1;
    t->dl.shape = t->shape;
    t->dl.strides = t->strides;
}

/* Linear::replace(GroupAffine&&) */
static kerf_code hand_over(const tern* t, kerf_layer* layer, const work* w, int64_t rows, int32_t* index,
                           kerf_error* error) {
    tensor codes, scales, zeros, group_index;
    describe(&codes, w->codes, kDLUInt, 8, rows, w->columns);
    describe(&scales, w->scales, kDLFloat, 32, rows, w->groups);
    describe(&zeros, w->zeros, kDLFloat, 32, rows, w->groups);
    describe(&group_index, index, kDLInt, 32, w->columns, 0);
    const kerf_part parts[] = {{TEXT("codes"), &codes.dl},
                               {TEXT("scales"), &scales.dl},
                               {TEXT("zeros"), &zeros.dl},
                               {TEXT("group_index"), &group_index.dl}};
    const kerf_replacement replacement = {sizeof(kerf_replacement), (int32_t)t->bits, TEXT("int-group/1"), parts, 4};
    return t->host->replace(layer, &replacement, error);
}

static kerf_code compress(void* self, kerf_job* job, kerf_layer* layer, kerf_error* error) {
    const tern* t = self;
    const kerf_host* host = t->host;
    const kerf_curvature_1* curvature = service(host, "kerf.curvature/1", sizeof(kerf_curvature_1));
    if (!curvature) return fail(error, KERF_E_VERSION, "this kerf offers no kerf.curvature/1; update kerf");

    const DLTensor* weight = NULL;
    kerf_code code = host->weight(layer, &weight, error);
    if (code != KERF_OK) return code;
    const kerf_factor_request request = {sizeof(kerf_factor_request), KERF_ORDER_DESCENDING, 0, t->damp};
    kerf_factor factor = {0};
    factor.struct_size = sizeof(kerf_factor);
    code = curvature->factor(job, layer, &request, &factor, error);
    if (code != KERF_OK) return code;

    const int64_t rows = weight->shape[0], columns = weight->shape[1], groups = groups_of(t, columns);
    work w = {0};
    w.weight = (const float*)((const char*)weight->data + weight->byte_offset);
    w.weight_stride = weight->strides[0];
    w.upper = (const float*)((const char*)factor.upper->data + factor.upper->byte_offset);
    w.upper_stride = factor.upper->strides[0];
    w.order = factor.order;
    w.columns = columns;
    w.groups = groups;
    w.group = t->group;
    w.largest_code = (1 << t->bits) - 1;

    /* kerf::Buffer: counted memory, given back whatever happens. */
    void* memory[5] = {0};
    const size_t sizes[5] = {(size_t)(rows * columns), (size_t)(rows * groups) * 4, (size_t)(rows * groups) * 4,
                             (size_t)(rows * columns) * 4, (size_t)columns * 4};
    for (int i = 0; i < 5 && code == KERF_OK; ++i) code = host->alloc(job, sizes[i], 64, &memory[i], error);
    if (code == KERF_OK) {
        w.codes = memory[0];
        w.scales = memory[1];
        w.zeros = memory[2];
        w.rest = memory[3];
        int32_t* index = memory[4];
        for (int64_t c = 0; c < columns; ++c) index[c] = (int32_t)(c / t->group);
        int64_t grain = (rows + 63) / 64 > 0 ? (rows + 63) / 64 : 1;
        code = host->parallel_for(job, rows, grain, rows_of, &w, error);
        if (code == KERF_OK) code = hand_over(t, layer, &w, rows, index, error);
    }
    for (int i = 0; i < 5; ++i) host->release(job, memory[i]);
    return code;
}

/* ---- What KERF_PLUGIN makes -------------------------------------------------------------------------------------- */
static const kerf_method method = {.struct_size = sizeof(kerf_method),
                                   .abi = KERF_ABI_VERSION,
                                   .id = TEXT("tern_c"),
                                   .version = TEXT("1.2.0"),
                                   .summary = TEXT("Curvature-ordered rounding, in C"),
                                   .options_schema = {schema, sizeof(schema) - 1},
                                   .capabilities = KERF_CAN_PARALLEL_LAYERS | KERF_CAN_RESUME,
                                   .needs = KERF_NEEDS_INPUT_GRAM,
                                   .create = create,
                                   .cost = cost,
                                   .compress = compress,
                                   .destroy = free};
static const kerf_method* const methods[] = {&method};

KERF_EXPORT kerf_code kerf_plugin_entry(const kerf_host* host, kerf_plugin* out, kerf_error* error);
KERF_EXPORT kerf_code kerf_plugin_entry(const kerf_host* host, kerf_plugin* out, kerf_error* error) {
    if (host->abi >> 16 != KERF_ABI_MAJOR || host->struct_size < sizeof(kerf_host) ||
        out->struct_size < sizeof(kerf_plugin))
        return fail(error, KERF_E_VERSION, "built for kerf's plugin ABI %u.%u", KERF_ABI_MAJOR, KERF_ABI_MINOR);
    out->method_count = 1;
    out->methods = methods;
    out->adapter_count = 0;
    out->adapters = NULL;
    return KERF_OK;
}
