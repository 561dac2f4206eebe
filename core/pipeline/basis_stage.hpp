// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "core/curvature/covariance.hpp"
#include "core/exec/states.hpp"
#include "core/graph/residual_edit.hpp"
#include "core/pipeline/model.hpp"
#include "core/pipeline/stage.hpp"

namespace kerf::core {

/// A stage whose method chooses bases of the residual stream, over one model: what is fused, where the positions are,
/// what becomes of them, and the model that comes out. Bases are empty until the run fills them, so that sizes and
/// layouts are exact before a weight is read.
struct BasisStage {
    std::shared_ptr<const MethodInstance> method;
    Model fused, result;
    Stream stream;
    std::vector<kerf_basis_choice> choices;     ///< by position
    std::vector<std::shared_ptr<Basis>> bases;  ///< by position, one for a group; null where nothing changes
    /// With a refit, of positions that lose features: what their readers are multiplied by instead of the basis.
    struct Fit {
        std::shared_ptr<Basis> normed, plain;
    };
    std::vector<Fit> fits;             ///< by position; null where there is none
    std::optional<double> refit_damp;  ///< none: no refit
    CovarianceSum::Signal signal = CovarianceSum::Signal::raw;
    bool survey = false;
    bool estimated = false;  ///< sizes follow from the survey, and are upper bounds before it
    std::uint64_t scratch_bytes = 0, state_bytes = 0;
    std::int64_t tokens = 0, parameters = 0;  ///< of calibration; of the model that came

    /// Asks the method. Error(input) for a model whose stream cannot be turned, Error(internal) for choices that make
    /// no sense.
    static BasisStage plan(std::shared_ptr<const MethodInstance> method, const Model& input, std::int64_t tokens,
                           std::optional<double> refit_damp);
    /// The fits as the edits of the graph take them.
    std::vector<Readers> readers() const;

    /// The first position of the group that `position` is in.
    std::size_t first_of(std::size_t position) const;
    /// Whether the basis of `position` is chosen there, from the covariance there.
    bool is_fresh(std::size_t position) const;
    bool needs_signals() const;
    /// Peak memory of the run beyond the process itself, and FLOPs.
    std::uint64_t memory(std::int64_t length, std::int64_t samples, DType compute, std::int64_t threads) const;
    double flops(std::int64_t length, bool sequential) const;
    std::uint64_t basis_bytes() const;  ///< of all bases and fits, as they are kept for --resume
};

/// Streams the calibration tokens through the fused model and turns it on the way.
class BasisRunner {
public:
    struct Hooks {
        /// A basis is chosen: the position's index and the method's figures.
        std::function<void(std::size_t position, const std::map<std::string, double>& metrics)> chosen;
        /// The readers of a position are refitted: likewise.
        std::function<void(std::size_t position, const std::map<std::string, double>& metrics)> fitted;
        std::function<void(double flops)> progress;
        std::function<void(int level, const std::string&)> log;
        std::function<void()> check_cancelled;
    };
    /// `scratch`: a folder in which bases are kept, so that a run that was interrupted finds them again. `windows` may
    /// be null where the method needs no signals.
    BasisRunner(BasisStage& stage, const Windows* windows, DType compute, bool sequential,
                std::filesystem::path scratch, std::filesystem::path states, Hooks hooks);

    /// Shows the method the uncompressed model. The stage has to be planned anew afterwards.
    void survey();
    /// Position 0, and bases that need no signals. Before the first block.
    void start();
    /// The positions that a block makes.
    void block(std::size_t block);
    /// Frees bases that are not needed once the tensors of `block` have been written.
    void forget(std::size_t block);

private:
    using Bases = std::vector<std::shared_ptr<const Basis>>;
    using Seen = std::function<void(std::size_t position, CovarianceSum& sum)>;

    void embed();
    void pass(std::size_t block, Bases known, bool turn, const std::function<bool(std::size_t)>& wanted,
              const Seen& seen);
    std::unique_ptr<CovarianceSum> run(const RotatedPart& part, std::size_t first, std::size_t last,
                                       const std::string& result, bool ends, std::optional<std::size_t> position);
    std::unique_ptr<CovarianceSum> measure(const std::string& value, std::size_t position);
    template <class Sum>
    void add_to(Sum& sum, std::int64_t unit, const Value& value) const;
    void project(const std::string& value, const Basis& basis);
    void choose(std::size_t position, CovarianceSum* sum);
    void fit_readers(std::size_t position, const std::string& value);
    std::filesystem::path file_of(std::string_view what, std::size_t position) const;
    bool read_kept(std::size_t position);
    bool read_file(const std::filesystem::path& file, std::initializer_list<Basis*> into) const;

    BasisStage& stage_;
    DType compute_;
    bool sequential_;
    std::filesystem::path scratch_, folder_;
    Hooks hooks_;
    std::optional<Units> units_;
    std::optional<States> states_;
    std::int64_t width_ = 0;  ///< of the input of the block that runs
    bool surveying_ = false;
};

}  // namespace kerf::core
