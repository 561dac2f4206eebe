// SPDX-License-Identifier: Apache-2.0
#include "core/plugin_api/host_table.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "core/plugin_api/tables.hpp"
#include "core/support/parallel.hpp"
#include "core/support/text.hpp"

namespace kerf::core {
namespace {

kerf_code code_of(Fault fault) {
    switch (fault) {
        case Fault::input:
            return KERF_E_ARGUMENT;
        case Fault::environment:
            return KERF_E_IO;
        case Fault::numeric:
            return KERF_E_NUMERIC;
        case Fault::memory:
            return KERF_E_MEMORY;
        case Fault::cancelled:
            return KERF_E_CANCELLED;
        case Fault::internal:
            break;
    }
    return KERF_E_INTERNAL;
}

kerf_code fill(kerf_error* error, kerf_code code, const char* message) noexcept {
    if (!error || error->struct_size < sizeof(kerf_error)) return code;
    error->code = code;
    error->length = 0;
    if (error->message && error->capacity > 0) {
        error->length = static_cast<std::uint32_t>(std::min<std::size_t>(std::strlen(message), error->capacity));
        std::memcpy(error->message, message, error->length);
    }
    return code;
}

void host_log(kerf_job* job, std::int32_t level, kerf_text message) {
    try {
        log_to(job, std::clamp<int>(level, KERF_LOG_DEBUG, KERF_LOG_ERROR), std::string(view_of(message)));
    } catch (...) {
        // A message that cannot be delivered is not worth the run.
    }
}

kerf_code host_parallel_for(kerf_job* job, std::int64_t n, std::int64_t grain,
                            kerf_code (*body)(void*, std::int64_t, std::int64_t, kerf_error*), void* context,
                            kerf_error* error) {
    return host_call(error, [&] {
        if (!body || n < 0 || grain < 1)
            bad_input("parallel_for: needs a body, n >= 0 and grain >= 1, not n = ", n, ", grain = ", grain);
        if (job && job->cancelled && job->cancelled()) throw Error(Fault::cancelled, "the run was cancelled");
        parallel_for(n, grain, [&](std::int64_t lo, std::int64_t hi) {
            char message[1024];
            kerf_error piece{sizeof(kerf_error), KERF_OK, sizeof(message), 0, message};
            const kerf_code code = body(context, lo, hi, &piece);
            if (code != KERF_OK)
                throw ServiceFailure(code, std::string(message, std::min<std::size_t>(piece.length, sizeof(message))));
        });
    });
}

kerf_code host_weight(kerf_layer* layer, const DLTensor** view, kerf_error* error) {
    return host_call(error, [&] {
        if (!layer || !view) bad_input("weight: called without a layer or a place for the result");
        if (!layer->weight)
            throw ServiceFailure(KERF_E_UNSUPPORTED, text(layer->name, ": the weight is not there at this point"));
        *view = layer->view(layer->weight, layer->out, layer->in);
    });
}

kerf_text host_name(kerf_layer* layer) {
    return layer ? text_of(layer->name) : kerf_text{"", 0};
}

void record_metric(kerf_job* job, kerf_text name, double value) {
    try {
        if (job) job->metrics[std::string(view_of(name))] = value;
    } catch (...) {
        // As for messages.
    }
}

/// One of the moments of a layer's input, `rows` rows of its features.
const DLTensor* moment(kerf_layer* layer, const DLTensor** view, const char* slot, const char* what,
                       const std::vector<float>& (Curvature::*values)() const noexcept, std::int64_t rows) {
    if (!layer || !view) bad_input(slot, ": called without a layer or a place for the result");
    if (!layer->curvature || (layer->curvature->*values)().empty())
        throw ServiceFailure(KERF_E_UNSUPPORTED, text(layer->name, ": no ", what,
                                                      " was gathered; the method has to declare that it needs it"));
    return layer->view((layer->curvature->*values)().data(), rows, layer->in);
}

kerf_code layer_gram(kerf_layer* layer, const DLTensor** view, std::int64_t* tokens, kerf_error* error) {
    return host_call(error, [&] {
        *view = moment(layer, view, "gram", "Gram matrix", &Curvature::gram, layer ? layer->in : 0);
        if (tokens) *tokens = layer->curvature->tokens();
    });
}

kerf_code layer_diagonal(kerf_layer* layer, const DLTensor** view, std::int64_t* tokens, kerf_error* error) {
    return host_call(error, [&] {
        *view = moment(layer, view, "diagonal", "diagonal of the Gram matrix", &Curvature::diagonal, 1);
        if (tokens) *tokens = layer->curvature->tokens();
    });
}

kerf_code layer_mean(kerf_layer* layer, const DLTensor** view, kerf_error* error) {
    return host_call(error, [&] { *view = moment(layer, view, "mean", "mean", &Curvature::mean, 1); });
}

kerf_code layer_dense_gram(kerf_layer* layer, const DLTensor** view, kerf_error* error) {
    return host_call(error, [&] {
        *view = moment(layer, view, "dense_gram", "Gram matrix with the dense model's inputs", &Curvature::dense_gram,
                       layer ? layer->in : 0);
    });
}

void report_damping(kerf_job* job, const kerf_layer& layer, double asked, const Curvature::Factor& factor) {
    if (!job) return;
    job->metrics["damp"] = factor.damp;
    job->metrics["damp_attempts"] = factor.attempts;
    if (factor.attempts > 1)
        log_to(job, KERF_LOG_WARN,
               text(layer.name, ": the Gram matrix was not positive definite with damp = ", asked,
                    "; damp = ", factor.damp, " was used (more calibration tokens usually cure it)"));
}

kerf_code layer_factor(kerf_job* job, kerf_layer* layer, const kerf_factor_request* request, kerf_factor* out,
                       kerf_error* error) {
    return host_call(error, [&] {
        if (!layer || !request || !out || request->struct_size < sizeof(kerf_factor_request) ||
            out->struct_size < sizeof(kerf_factor))
            bad_input("factor: called without a layer, a request or a place for the result");
        if (!layer->curvature || layer->curvature->gram().empty())
            throw ServiceFailure(
                KERF_E_UNSUPPORTED,
                text(layer->name, ": no Gram matrix was gathered; the method has to declare that it needs it"));
        if (request->order < KERF_ORDER_NONE || request->order > KERF_ORDER_GROUP_AWARE)
            throw ServiceFailure(KERF_E_UNSUPPORTED, text("factor: unknown column order ", request->order));
        if (!std::isfinite(request->damp) || request->damp < 0)
            bad_input("factor: damp = ", request->damp, ", but a share of at least 0 is needed");
        if (request->order == KERF_ORDER_GROUP_AWARE && request->group_size < 1)
            bad_input("factor: group_size = ", request->group_size, ", but group-aware order needs at least 1");
        const auto& factor = layer->curvature->factor(request->order, request->group_size, request->damp);
        report_damping(job, *layer, request->damp, factor);
        out->attempts = static_cast<std::uint32_t>(factor.attempts);
        out->damp = factor.damp;
        out->upper = layer->view(factor.upper.data(), layer->in, layer->in);
        out->order = factor.order.data();
        out->dead = factor.dead.data();
    });
}

struct Service {
    std::string_view id;
    const void* table;
    std::uint32_t size;
};
template <class Table>
Service service(std::string_view id, const Table& table) {
    return {id, &table, table.struct_size};
}

const void* host_extension(const kerf_host*, kerf_text id, std::uint32_t min_size) {
    static const Service services[] = {
        service("kerf.values/1", values_table),   service("kerf.curvature/1", curvature_table),
        service("kerf.linalg/1", linalg_table),   service("kerf.random/1", random_table),
        service("kerf.metrics/1", metrics_table), service("kerf.structure/1", structure_table),
        service("kerf.model/1", model_table),     service("kerf.gradients/1", gradients_table)};
    for (const auto& known : services)
        if (known.id == view_of(id) && known.size >= min_size) return known.table;
    return nullptr;
}

constexpr kerf_host table{sizeof(kerf_host), KERF_ABI_VERSION,  host_extension, host_log,  host_alloc,
                          host_release,      host_parallel_for, host_weight,    host_name, host_replace};

}  // namespace

const kerf_metrics_1 metrics_table{sizeof(kerf_metrics_1), 0, record_metric};
const kerf_curvature_1 curvature_table{sizeof(kerf_curvature_1), 0,          layer_gram,      layer_factor,
                                       layer_diagonal,           layer_mean, layer_dense_gram};

const kerf_host* host_table() {
    return &table;
}

void log_to(kerf_job* job, int level, const std::string& message) {
    if (!job || !job->log) return;
    const std::lock_guard hold(job->log_lock);
    job->log(level, message);
}

kerf_code report_exception(kerf_error* error) noexcept {
    try {
        throw;
    } catch (const ServiceFailure& e) {
        return fill(error, e.code(), e.what());
    } catch (const Error& e) {
        return fill(error, code_of(e.fault()), e.what());
    } catch (const std::bad_alloc&) {
        return fill(error, KERF_E_MEMORY, "out of memory");
    } catch (const std::exception& e) {
        return fill(error, KERF_E_INTERNAL, e.what());
    } catch (...) {
        return fill(error, KERF_E_INTERNAL, "an exception of unknown type");
    }
}

}  // namespace kerf::core

const DLTensor* kerf_layer::view(const float* data, std::int64_t rows, std::int64_t columns) {
    for (const auto& known : views_)
        if (known->tensor.data == data && known->shape[0] == rows && known->shape[1] == columns) return &known->tensor;
    auto made = std::make_unique<View>();
    made->shape[0] = rows;
    made->shape[1] = columns;
    made->strides[0] = columns;
    made->strides[1] = 1;
    // DLPack knows no const; "read-only" is the contract of the slots that give these out.
    made->tensor = DLTensor{const_cast<float*>(data), {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, made->shape, made->strides, 0};
    return &views_.emplace_back(std::move(made))->tensor;
}
