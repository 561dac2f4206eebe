// SPDX-License-Identifier: Apache-2.0
#include "host/loader/trial_bases.hpp"

#include <array>
#include <cmath>
#include <vector>

#include "core/plugin_api/host_table.hpp"
#include "core/plugin_api/job.hpp"
#include "core/support/error.hpp"
#include "core/support/parallel.hpp"
#include "core/support/text.hpp"

namespace kerf::host {
namespace {

using core::text;

constexpr std::int64_t features = 24, tokens = 512;

class Trial {
public:
    Trial(const kerf_method& method, void* self, std::string id, TrialReporter& reporter)
        : method_(method), self_(self), id_(std::move(id)), reporter_(reporter), h_(features * features) {
        const char* names[] = {"trial.norm_1", "trial.norm_2", "trial.norm"};
        const std::int32_t kinds[] = {KERF_POSITION_EMBEDDING, KERF_POSITION_INSIDE, KERF_POSITION_BLOCK};
        for (std::size_t p = 0; p < positions_.size(); ++p) {
            const std::string_view name = names[p];
            positions_[p] = {sizeof(kerf_position), kinds[p], {name.data(), name.size()},
                             p == 0 ? -1 : 0,       features, 200};
        }
        residual_ = {sizeof(kerf_residual), 0, positions_.data(), std::int64_t(positions_.size()), 1, tokens, 15000, 0};
        // Diagonally dominant, unequal on the diagonal.
        for (std::int64_t i = 0; i < features; ++i)
            for (std::int64_t j = 0; j < features; ++j)
                h_[std::size_t(i * features + j)] =
                    std::exp(-0.3 * double(std::abs(i - j))) + (i == j ? 1.0 + 0.1 * double(i * i % 17) : 0.0);
    }

    void run() {
        reporter_.begin(id_ + ": asking what becomes of a residual stream");
        if (!plan()) return;
        if (plan_.survey != 0) {
            reporter_.begin(id_ + ": showing it covariances");
            Matrix h(h_.data(), features, features);
            const kerf_covariance covariance{sizeof(kerf_covariance), 0, &h.tensor, tokens};
            for (std::int64_t p = 0; p < residual_.count; ++p)
                if (!attempt([&](kerf_job* job, kerf_error* error) {
                        return method_.bases->survey(self_, job, &residual_, p, &covariance, error);
                    }))
                    return;
            if (!plan()) return;
        }
        reporter_.begin(id_ + ": choosing bases on 1 and on 3 threads");
        for (std::int64_t p = 0; p < residual_.count; ++p) try_position(p);
    }

private:
    struct Matrix {
        Matrix(double* data, std::int64_t rows, std::int64_t columns)
            : shape{rows, columns}, strides{columns, 1}, tensor{data,  {kDLCPU, 0}, 2, {kDLFloat, 64, 1},
                                                                shape, strides,     0} {}
        Matrix(const Matrix&) = delete;
        Matrix& operator=(const Matrix&) = delete;
        std::int64_t shape[2], strides[2];
        DLTensor tensor;
    };

    void problem(const std::string& what) { reporter_.problem(id_ + ": " + what); }

    template <class Call>
    bool attempt(const Call& call) {
        kerf_job job;
        try {
            core::check_call(id_, [&](kerf_error* error) { return call(&job, error); });
        } catch (const core::Error& error) {
            reporter_.problem(error.what());
            return false;
        } catch (...) {
            problem("lets an exception out");
            return false;
        }
        if (job.memory.live() != 0) problem(text("did not give ", job.memory.live(), " bytes back after a call"));
        if (job.memory.peak() > plan_.scratch_bytes)
            problem(text("held ", job.memory.peak(), " bytes of scratch, plan() announced ", plan_.scratch_bytes));
        return true;
    }

    bool plan() {
        plan_ = {};
        plan_.struct_size = sizeof(plan_);
        plan_.choices = choices_.data();
        if (!attempt(
                [&](kerf_job*, kerf_error* error) { return method_.bases->plan(self_, &residual_, &plan_, error); }))
            return false;
        for (const auto& choice : choices_)
            if (choice.size < 1 || choice.size > features) {
                problem(text("plans ", choice.size, " of ", features, " features"));
                return false;
            }
        return true;
    }

    void try_position(std::int64_t p) {
        const auto& choice = choices_[std::size_t(p)];
        if (choice.group < 0) return;
        std::vector<double> first;
        for (const int threads : {1, 3}) {
            core::set_threads(threads);
            std::vector<double> q(std::size_t(features * choice.size));
            Matrix h(h_.data(), features, features), made(q.data(), features, choice.size);
            const kerf_covariance covariance{sizeof(kerf_covariance), 0, &h.tensor, tokens};
            const bool done = attempt([&](kerf_job* job, kerf_error* error) {
                return method_.bases->basis(self_, job, &residual_, p, choice.fresh ? &covariance : nullptr,
                                            &made.tensor, error);
            });
            core::set_threads(1);
            if (!done) return;
            if (threads == 1) first = q;
            if (q != first) problem("gives other bytes on 3 threads than on 1");
        }
        check_orthonormal(first, choice.size);
    }

    void check_orthonormal(const std::vector<double>& q, std::int64_t size) {
        for (std::int64_t a = 0; a < size; ++a)
            for (std::int64_t b = 0; b <= a; ++b) {
                double dot = 0;
                for (std::int64_t r = 0; r < features; ++r)
                    dot += q[std::size_t(r * size + a)] * q[std::size_t(r * size + b)];
                if (!(std::abs(dot - (a == b ? 1 : 0)) < 1e-8))
                    return problem(text("gives a basis whose columns ", b, " and ", a, " are not orthonormal"));
            }
    }

    const kerf_method& method_;
    void* self_;
    std::string id_;
    TrialReporter& reporter_;
    std::vector<double> h_;
    std::array<kerf_position, 3> positions_{};
    std::array<kerf_basis_choice, 3> choices_{};
    kerf_residual residual_{};
    kerf_basis_plan plan_{};
};

}  // namespace

void try_bases(const kerf_method& method, void* self, const std::string& id, TrialReporter& reporter) {
    Trial(method, self, id, reporter).run();
}

}  // namespace kerf::host
