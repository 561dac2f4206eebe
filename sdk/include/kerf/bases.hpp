// SPDX-License-Identifier: Apache-2.0
/// Methods that choose bases of the residual stream (SliceGPT): abi.h says what the host does with them,
/// docs/method-authors.md shows how to write one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kerf/info.hpp"
#include "kerf/instance.hpp"
#include "kerf/job.hpp"
#include "kerf/plugin.hpp"
#include "kerf/schema.hpp"

namespace kerf::inline v1 {

/// A place of the residual stream that norms read.
struct Position {
    enum class Kind : std::int32_t {
        embedding = KERF_POSITION_EMBEDDING,  ///< before the first block
        inside = KERF_POSITION_INSIDE,        ///< of a block, as behind attention
        block = KERF_POSITION_BLOCK           ///< behind a block
    } kind = Kind::embedding;
    std::string_view name;        ///< of the first norm that reads it
    std::int64_t block = -1;      ///< whose ops make it
    std::int64_t features = 0;    ///< of the uncompressed stream
    std::int64_t parameters = 0;  ///< that one feature of it takes
};

/// All positions of a model, in the order in which a token passes them. Views of the host's memory, valid for the call.
struct Residual {
    std::vector<Position> positions;
    std::int64_t blocks = 0, tokens = 0;
    std::int64_t parameters = 0;        ///< of the model as it came
    std::int64_t other_parameters = 0;  ///< of the fused model, that lie on no position
};

enum class Signal : std::int32_t {
    raw = KERF_SIGNAL_RAW,                ///< H = Σ x xᵀ
    normalized = KERF_SIGNAL_NORMALIZED,  ///< of x / rms(x), as a norm hands it on
};

/// What becomes of one position.
struct BasisChoice {
    std::int64_t size = 0;    ///< features that stay
    std::int64_t group = -1;  ///< positions of one group share a basis; −1: the position stays as it is
    bool fresh = true;        ///< basis() gets the covariance at the group's first position, in the network so far
};

struct BasisPlan {
    std::vector<BasisChoice> choices;  ///< one for each position
    Signal signal = Signal::raw;
    bool survey = false;     ///< survey() gets the covariances of the uncompressed model first
    bool estimated = false;  ///< with a survey: sizes follow from it, and those planned before make no smaller a model
    bool centre_tables = false;  ///< takes the mean of each embedding row away, under RMS norms too
    std::int64_t scratch_bytes = 0, state_bytes = 0;
};

/// H = Σ x xᵀ over `tokens` calibration tokens, float64 [features, features], both triangles.
struct Covariance {
    MatrixView<const double> matrix;
    std::int64_t tokens = 0;
};

/// Base of a method that chooses bases. An instance serves one run: it may keep what survey() and basis() have seen.
/// Calls come one at a time, in the order of the positions.
template <class Options>
class BasisMethod : public detail::MethodTag {
public:
    static constexpr std::uint32_t abi_minor = 1;

    virtual ~BasisMethod() = default;
    virtual void check() const {}
    /// Reads no data but what survey() has seen.
    virtual BasisPlan plan(const Residual& residual) const = 0;
    virtual void survey(const Residual&, std::size_t, const Covariance&, Job&) {}
    /// Fills q [features, size] with orthonormal columns; `covariance` is there for a fresh choice.
    virtual void basis(const Residual& residual, std::size_t position, const std::optional<Covariance>& covariance,
                       MatrixView<double> q, Job& job) = 0;

    Options opt;

    template <class M>
    static const kerf_method* kerf_table();

private:
    template <class M>
    struct Thunks;
};

namespace detail {

inline Residual residual_of(const kerf_residual& in) {
    Residual out;
    for (const auto& p : std::span(in.positions, static_cast<std::size_t>(in.count)))
        out.positions.push_back({static_cast<Position::Kind>(p.kind), view(p.name), p.block, p.features, p.parameters});
    out.blocks = in.blocks;
    out.tokens = in.tokens;
    out.parameters = in.parameters;
    out.other_parameters = in.other_parameters;
    return out;
}

inline Covariance covariance_of(const kerf_covariance& in) {
    return {matrix_of<double>(*in.matrix, "the covariance"), in.tokens};
}

}  // namespace detail

template <class Options>
template <class M>
struct BasisMethod<Options>::Thunks {
    using Instance = detail::Instance<M, Options>;

    static kerf_code plan(void* self, const kerf_residual* residual, kerf_basis_plan* out, kerf_error* error) noexcept {
        return detail::guarded(error, [&] {
            const BasisPlan made = static_cast<const Instance*>(self)->method.plan(detail::residual_of(*residual));
            if (made.choices.size() != static_cast<std::size_t>(residual->count))
                throw Error(Code::internal, "plan() gives ", made.choices.size(), " choices for ", residual->count,
                            " positions");
            for (std::size_t i = 0; i < made.choices.size(); ++i)
                out->choices[i] = {made.choices[i].size, made.choices[i].group, made.choices[i].fresh ? 1 : 0};
            out->signal = static_cast<std::int32_t>(made.signal);
            out->survey = !made.survey ? 0 : made.estimated ? 2 : 1;
            out->centre_tables = made.centre_tables ? 1 : 0;
            out->scratch_bytes = static_cast<std::uint64_t>(made.scratch_bytes);
            out->state_bytes = static_cast<std::uint64_t>(made.state_bytes);
        });
    }
    static kerf_code survey(void* self, kerf_job* job, const kerf_residual* residual, std::int64_t position,
                            const kerf_covariance* covariance, kerf_error* error) noexcept {
        return detail::guarded(error, [&] {
            auto* instance = static_cast<Instance*>(self);
            Job work(instance->host, job);
            instance->method.survey(detail::residual_of(*residual), static_cast<std::size_t>(position),
                                    detail::covariance_of(*covariance), work);
        });
    }
    static kerf_code basis(void* self, kerf_job* job, const kerf_residual* residual, std::int64_t position,
                           const kerf_covariance* covariance, DLTensor* q, kerf_error* error) noexcept {
        return detail::guarded(error, [&] {
            auto* instance = static_cast<Instance*>(self);
            Job work(instance->host, job);
            const auto view = detail::matrix_of<double>(*q, "the basis");
            std::optional<Covariance> given;
            if (covariance) given = detail::covariance_of(*covariance);
            instance->method.basis(detail::residual_of(*residual), static_cast<std::size_t>(position), given,
                                   {const_cast<double*>(view.data()), view.shape(), view.stride()}, work);
        });
    }
};

template <class Options>
template <class M>
const kerf_method* BasisMethod<Options>::kerf_table() {
    using T = Thunks<M>;
    static const kerf_bases functions{sizeof(kerf_bases), 0, T::plan, T::survey, T::basis};
    static const kerf_method table = [] {
        kerf_method t = detail::Instance<M, Options>::table();
        t.scope = KERF_SCOPE_BASES;
        t.bases = &functions;
        return t;
    }();
    return &table;
}

}  // namespace kerf::inline v1
