// SPDX-License-Identifier: Apache-2.0
// The services of methods that see the whole model: kerf.model/1 and kerf.gradients/1.
#include "core/plugin_api/model_scope.hpp"

#include <algorithm>

#include "core/plugin_api/tables.hpp"

namespace kerf::core {
namespace {

WholeModel& whole(kerf_model* model, const char* what) {
    if (!model) bad_input(what, ": called without a model");
    return *static_cast<WholeModel*>(model);
}

std::int64_t model_parameters(kerf_model* model) {
    return model ? whole(model, "parameters").parameters() : 0;
}
std::int64_t model_blocks(kerf_model* model) {
    return model ? whole(model, "blocks").blocks() : 0;
}

kerf_text place_kind(kerf_model* model, kerf_axis* axis, std::int64_t place) {
    if (!model || !axis || place < 0 || place >= std::int64_t(axis->axis.places.size())) return {"", 0};
    return text_of(whole(model, "kind").kind(axis->axis.places[std::size_t(place)]));
}

kerf_code model_commit(kerf_model* model, std::int32_t keep_divisor, kerf_error* error) {
    return host_call(error, [&] { whole(model, "commit").commit(keep_divisor != 0); });
}

kerf_code model_keep_blocks(kerf_model* model, std::int64_t count, kerf_error* error) {
    return host_call(error, [&] { whole(model, "keep_blocks").keep_blocks(count); });
}

kerf_code model_sweep(kerf_job*, kerf_model* model, const kerf_sweep_request* request, double* loss,
                      kerf_error* error) {
    return host_call(error, [&] {
        if (!request || !loss || request->struct_size < sizeof(kerf_sweep_request) || !request->take ||
            (request->tensor_count > 0 && !request->tensors))
            bad_input("sweep: called without a request or a place for the result");
        *loss = whole(model, "sweep").sweep(*request, [&](const kerf_gradient& gradient) {
            char message[1024];
            kerf_error refused{sizeof(kerf_error), KERF_OK, sizeof(message), 0, message};
            const kerf_code code = request->take(request->context, &gradient, &refused);
            if (code != KERF_OK)
                throw ServiceFailure(code,
                                     std::string(message, std::min<std::size_t>(refused.length, sizeof(message))));
        });
    });
}

}  // namespace

const kerf_model_1 model_table{sizeof(kerf_model_1), 0, model_parameters, model_blocks, place_kind, model_commit,
                               model_keep_blocks};
const kerf_gradients_1 gradients_table{sizeof(kerf_gradients_1), 0, model_sweep};

}  // namespace kerf::core
