/* SPDX-License-Identifier: Apache-2.0
 * Magnitude pruning in C11 on kerf/abi.h alone. Unstructured: the smallest |w| of a layer or of each row go, an exact
 * number of them. N:M: of each M consecutive columns of a row, the N largest |w| stay. Among equals the first ones go,
 * so the result depends on nothing but the weights. */
#include <kerf/abi.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

KERF_MANIFEST("id=magnitude\nversion=1.0.0\nabi=1.0\nmin_abi=1.0\ntorch=none\nmethods=magnitude\nadapters=\n");

#define TEXT(literal) \
    { literal, sizeof(literal) - 1 }

enum { LARGEST_M = 64, BINS = 1 << 16 };

typedef struct magnitude {
    const kerf_host* host;
    double sparsity;
    int by_row;   /* the share is taken of each row, not of the layer */
    int64_t n, m; /* m = 0: unstructured */
} magnitude;

static kerf_code fail(kerf_error* error, kerf_code code, const char* format, ...) {
    if (error && error->struct_size >= sizeof(kerf_error)) {
        error->code = code;
        error->length = 0;
        if (error->message && error->capacity > 0) {
            va_list arguments;
            va_start(arguments, format);
            const int length = vsnprintf(error->message, error->capacity, format, arguments);
            va_end(arguments);
            if (length > 0) error->length = (uint32_t)length < error->capacity ? (uint32_t)length : error->capacity - 1;
        }
    }
    return code;
}

static const void* service(const kerf_host* host, const char* id, uint32_t size) {
    const kerf_text text = {id, strlen(id)};
    return host->extension(host, text, size);
}

/* ---- Which weights go ------------------------------------------------------------------------------------------- */
typedef struct work {
    const magnitude* self;
    const float* weight; /* [rows, columns] */
    int64_t stride, rows, columns;
    float* result;  /* [rows, columns] */
    uint64_t* bins; /* [BINS], for a cut of the whole layer */
    uint32_t cut;   /* layer: magnitudes below go ... */
    int64_t* quota; /* ... and this many that are equal to it, by row [rows] */
} work;

/* |w| as an integer of the same order. NaN is above all numbers, so it is never cut silently. */
static uint32_t magnitude_of(float w) {
    uint32_t bits;
    memcpy(&bits, &w, sizeof(bits));
    return bits & 0x7FFFFFFFu;
}

/* How many of `total` weights go: the nearest count, halves up. */
static int64_t count_of(double sparsity, int64_t total) {
    return (int64_t)floor(sparsity * (double)total + 0.5);
}

static int by_magnitude(const void* a, const void* b) {
    const uint32_t x = magnitude_of(*(const float*)a), y = magnitude_of(*(const float*)b);
    return (x > y) - (x < y);
}

/* Row `r` without the magnitudes below `cut` and without the first `quota` that are equal to it. */
static void write_row(const work* w, int64_t r, uint32_t cut, int64_t quota) {
    const float* from = w->weight + r * w->stride;
    float* to = w->result + r * w->columns;
    for (int64_t c = 0; c < w->columns; ++c) {
        const uint32_t size = magnitude_of(from[c]);
        const int goes = size < cut || (size == cut && quota-- > 0);
        to[c] = goes ? 0.0f : from[c];
    }
}

/* The k-th smallest magnitude of the row by sorting a copy, which `result` has room for. */
static void prune_row(const work* w, int64_t r) {
    const int64_t count = count_of(w->self->sparsity, w->columns);
    if (count == 0) {
        write_row(w, r, 0, 0);
        return;
    }
    float* sorted = w->result + r * w->columns;
    memcpy(sorted, w->weight + r * w->stride, (size_t)w->columns * sizeof(float));
    qsort(sorted, (size_t)w->columns, sizeof(float), by_magnitude);
    const uint32_t cut = magnitude_of(sorted[count - 1]);
    int64_t below = 0;
    while (below < count && magnitude_of(sorted[below]) < cut) ++below;
    write_row(w, r, cut, count - below);
}

/* Of each m columns the n largest stay; a later one wins against an equal one. */
static void prune_groups(const work* w, int64_t r) {
    const int64_t n = w->self->n, m = w->self->m;
    const float* from = w->weight + r * w->stride;
    float* to = w->result + r * w->columns;
    for (int64_t first = 0; first < w->columns; first += m) {
        for (int64_t i = 0; i < m; ++i) {
            const uint32_t size = magnitude_of(from[first + i]);
            int64_t ahead = 0;
            for (int64_t j = 0; j < m; ++j) {
                const uint32_t other = magnitude_of(from[first + j]);
                ahead += other > size || (other == size && j > i);
            }
            to[first + i] = ahead < n ? from[first + i] : 0.0f;
        }
    }
}

static kerf_code rows_of(void* context, int64_t lo, int64_t hi, kerf_error* error) {
    const work* w = context;
    (void)error;
    for (int64_t r = lo; r < hi; ++r) {
        if (w->self->m > 0)
            prune_groups(w, r);
        else if (w->self->by_row)
            prune_row(w, r);
        else
            write_row(w, r, w->cut, w->quota[r]);
    }
    return KERF_OK;
}

/* Fills `bins` with the magnitudes whose upper half is `upper` (or all, by their upper half, when it is -1) and returns
 * the bin in which the k-th smallest (from 1) is; *k becomes its number inside that bin. */
static uint32_t find_bin(const work* w, int64_t upper, int64_t* k) {
    memset(w->bins, 0, BINS * sizeof(uint64_t));
    uint64_t seen = 0;
    for (int64_t r = 0; r < w->rows; ++r) {
        const float* row = w->weight + r * w->stride;
        for (int64_t c = 0; c < w->columns; ++c) {
            const uint32_t size = magnitude_of(row[c]);
            if (upper < 0)
                ++w->bins[size >> 16];
            else if ((int64_t)(size >> 16) == upper)
                ++w->bins[size & 0xFFFF];
        }
    }
    uint32_t bin = 0;
    while (bin < BINS - 1 && seen + w->bins[bin] < (uint64_t)*k) seen += w->bins[bin++];
    *k -= (int64_t)seen;
    return bin;
}

/* The layer's cut by two passes of counting: upper, then lower half of the magnitude. What is equal to the cut goes in
 * the order of storage. */
static void cut_layer(work* w) {
    int64_t left = count_of(w->self->sparsity, w->rows * w->columns);
    memset(w->quota, 0, (size_t)w->rows * sizeof(int64_t));
    w->cut = 0;
    if (left == 0) return;
    const uint32_t upper = find_bin(w, -1, &left);
    const uint32_t lower = find_bin(w, upper, &left);
    w->cut = upper << 16 | lower;
    for (int64_t r = 0; r < w->rows && left > 0; ++r) {
        const float* row = w->weight + r * w->stride;
        for (int64_t c = 0; c < w->columns && w->quota[r] < left; ++c) w->quota[r] += magnitude_of(row[c]) == w->cut;
        left -= w->quota[r];
    }
}

/* ---- The method's table ----------------------------------------------------------------------------------------- */
static const char schema[] =
    "[{\"name\":\"sparsity\",\"type\":\"real\",\"default\":0.5,\"min\":0.0,\"exclusive_max\":1.0,"
    "\"help\":\"share of the weights that go, the smallest first; N:M patterns say it themselves\"},"
    "{\"name\":\"pattern\",\"type\":\"text\",\"default\":\"unstructured\","
    "\"help\":\"unstructured, or N:M: of each M columns N stay (2:4, 4:8, ...)\"},"
    "{\"name\":\"scope\",\"type\":\"text\",\"default\":\"layer\",\"choices\":[\"layer\",\"row\"],"
    "\"help\":\"unstructured: the share is exact in the whole weight, or in each row\"}]";

/* "unstructured" or "N:M" with 0 < N < M <= 64. */
static kerf_code read_pattern(magnitude* self, kerf_text pattern, kerf_error* error) {
    char copy[32] = {0}, tail = 0;
    long long n = 0, m = 0;
    if (pattern.size < sizeof(copy)) memcpy(copy, pattern.data, pattern.size);
    if (strcmp(copy, "unstructured") == 0) return KERF_OK;
    if (sscanf(copy, "%9lld:%9lld%c", &n, &m, &tail) != 2 || n < 1 || n >= m || m > LARGEST_M)
        return fail(error, KERF_E_ARGUMENT,
                    "pattern = \"%.*s\": \"unstructured\", or \"N:M\" with 0 < N < M <= %d, for example \"2:4\"",
                    (int)(pattern.size < 64 ? pattern.size : 64), pattern.data, LARGEST_M);
    self->n = n;
    self->m = m;
    return KERF_OK;
}

static kerf_code create(const kerf_host* host, const kerf_values* options, void** self, kerf_error* error) {
    static const kerf_text sparsity = TEXT("sparsity"), pattern = TEXT("pattern"), scope = TEXT("scope");
    const kerf_values_1* values = service(host, "kerf.values/1", sizeof(kerf_values_1));
    if (!values) return fail(error, KERF_E_VERSION, "this kerf offers no kerf.values/1; update kerf");
    magnitude made = {0};
    kerf_text pattern_text = {0}, scope_text = {0};
    made.host = host;
    kerf_code code = values->real(options, sparsity, &made.sparsity, error);
    if (code == KERF_OK) code = values->text(options, pattern, &pattern_text, error);
    if (code == KERF_OK) code = values->text(options, scope, &scope_text, error);
    if (code == KERF_OK) code = read_pattern(&made, pattern_text, error);
    if (code != KERF_OK) return code;
    made.by_row = scope_text.size == 3 && memcmp(scope_text.data, "row", 3) == 0;
    magnitude* kept = malloc(sizeof(made));
    if (!kept) return fail(error, KERF_E_MEMORY, "out of memory");
    *kept = made;
    *self = kept;
    return KERF_OK;
}

/* Bytes of the three buffers: result, bins, quota. The last two are for unstructured pruning of whole layers. */
static void sizes_of(const magnitude* self, int64_t rows, int64_t columns, size_t sizes[3]) {
    const int by_layer = self->m == 0 && !self->by_row;
    sizes[0] = (size_t)(rows * columns) * sizeof(float);
    sizes[1] = by_layer ? BINS * sizeof(uint64_t) : 0;
    sizes[2] = by_layer ? (size_t)rows * sizeof(int64_t) : 0;
}

/* A pattern has to divide the width; found when costs are asked for, before any work. */
static kerf_code check_width(const magnitude* self, int64_t columns, kerf_error* error) {
    if (self->m == 0 || columns % self->m == 0) return KERF_OK;
    return fail(error, KERF_E_ARGUMENT,
                "pattern = \"%lld:%lld\" needs a multiple of %lld columns, this weight has %lld; "
                "exclude it",
                (long long)self->n, (long long)self->m, (long long)self->m, (long long)columns);
}

static kerf_code cost(void* self, const kerf_linear_shape* shape, kerf_cost* out, kerf_error* error) {
    static const kerf_text layout = TEXT("dense/1");
    if (out->struct_size < sizeof(kerf_cost)) return fail(error, KERF_E_VERSION, "the host's cost table is too small");
    const kerf_code code = check_width(self, shape->in_features, error);
    if (code != KERF_OK) return code;
    size_t sizes[3];
    sizes_of(self, shape->out_features, shape->in_features, sizes);
    out->bits = 0;
    out->group_size = -1;
    out->scratch_bytes = sizes[0] + sizes[1] + sizes[2];
    out->flops = 3.0 * (double)shape->out_features * (double)shape->in_features;
    out->bits_per_weight = 0; /* dense: follows from the output's dtype */
    out->layout = layout;
    return KERF_OK;
}

static kerf_code hand_over(const work* w, kerf_job* job, kerf_layer* layer, kerf_error* error) {
    const kerf_host* host = w->self->host;
    const kerf_metrics_1* metrics = service(host, "kerf.metrics/1", sizeof(kerf_metrics_1));
    double lost = 0, energy = 0;
    int64_t zeros = 0;
    for (int64_t r = 0; r < w->rows; ++r) {
        for (int64_t c = 0; c < w->columns; ++c) {
            const double before = w->weight[r * w->stride + c], after = w->result[r * w->columns + c];
            energy += before * before;
            lost += (before - after) * (before - after);
            zeros += after == 0;
        }
    }
    if (!isfinite(energy))
        return fail(error, KERF_E_NUMERIC, "the weight has a NaN or an infinity: the checkpoint is damaged");
    if (metrics) {
        const kerf_text sparsity = TEXT("sparsity"), weight_error = TEXT("weight_error");
        const int64_t total = w->rows * w->columns;
        metrics->metric(job, sparsity, total > 0 ? (double)zeros / (double)total : 0);
        metrics->metric(job, weight_error, energy > 0 ? lost / energy : 0);
    }
    int64_t shape[2] = {w->rows, w->columns}, strides[2] = {w->columns, 1};
    DLTensor weight = {0};
    weight.data = w->result;
    weight.device.device_type = kDLCPU;
    weight.ndim = 2;
    weight.dtype.code = kDLFloat;
    weight.dtype.bits = 32;
    weight.dtype.lanes = 1;
    weight.shape = shape;
    weight.strides = strides;
    const kerf_part part = {TEXT("weight"), &weight};
    const kerf_replacement replacement = {sizeof(kerf_replacement), 0, TEXT("dense/1"), &part, 1};
    return host->replace(layer, &replacement, error);
}

static kerf_code compress(void* self, kerf_job* job, kerf_layer* layer, kerf_error* error) {
    const magnitude* m = self;
    const kerf_host* host = m->host;
    const DLTensor* weight = NULL;
    kerf_code code = host->weight(layer, &weight, error);
    if (code != KERF_OK) return code;
    work w = {0};
    w.self = m;
    w.weight = (const float*)((const char*)weight->data + weight->byte_offset);
    w.stride = weight->strides[0];
    w.rows = weight->shape[0];
    w.columns = weight->shape[1];
    code = check_width(m, w.columns, error);
    if (code != KERF_OK) return code;

    size_t sizes[3];
    void* memory[3] = {0};
    sizes_of(m, w.rows, w.columns, sizes);
    for (int i = 0; i < 3 && code == KERF_OK; ++i)
        if (sizes[i] > 0) code = host->alloc(job, sizes[i], 64, &memory[i], error);
    if (code == KERF_OK) {
        w.result = memory[0];
        w.bins = memory[1];
        w.quota = memory[2];
        if (w.bins) cut_layer(&w);
        code = host->parallel_for(job, w.rows, w.rows / 64 + 1, rows_of, &w, error);
        if (code == KERF_OK) code = hand_over(&w, job, layer, error);
    }
    for (int i = 0; i < 3; ++i) host->release(job, memory[i]);
    return code;
}

static const kerf_method method = {
    .struct_size = sizeof(kerf_method),
    .abi = KERF_ABI_VERSION,
    .id = TEXT("magnitude"),
    .version = TEXT("1.0.0"),
    .summary = TEXT("Pruning of the smallest weights, unstructured or N:M, without calibration"),
    .options_schema = {schema, sizeof(schema) - 1},
    .capabilities = KERF_CAN_PARALLEL_LAYERS | KERF_CAN_RESUME | KERF_PRUNES,
    .needs = 0,
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
