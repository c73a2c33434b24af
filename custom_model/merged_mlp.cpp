// A worked example: a model type of one's own ("example_decoder"), a hook that transforms it, a
// step of one's own inside the hook, and a module with a forward of its own. Copy this file,
// rename, rebuild.
#include "tcast/custom_model.h"

namespace {

/// A gated feed-forward block whose gate and up projections are one product: the input is read once
/// and one kernel is launched instead of two. Same parameters, same function.
class MergedMlp : public tcast::ModuleOf<MergedMlp> {
 public:
  explicit MergedMlp(tcast::Mlp& original) : ModuleOf("MergedMlp"), config_(original.config()) {
    take_over(original);
  }

  /// All that the class knows besides its parameters and children. Layers whose modules are equal
  /// in it are traced once; a class without a config() is equal to nothing.
  const tcast::Mlp::Config& config() const { return config_; }

  tcast::Value forward(tcast::Trace& trace, tcast::Value input) const override {
    const auto& gate = child_as<tcast::Linear>(config_.names.gate);
    const auto& up = child_as<tcast::Linear>(config_.names.up);
    const tcast::Shape local = gate.weight().local_shape();  // [width on this rank, hidden]
    tcast::MatMul product;
    product.m = trace.shape(input)[0];
    product.n = 2 * local[0];
    product.k = local[1];
    product.input = trace.dtype(input);
    product.weight = gate.weight().dtype;
    product.output = product.input;
    product.compute = product.input;
    // The rows of up below those of gate: one weight for one product.
    const tcast::Value both =
        trace.emit(product, {input, trace.joined_parameters(gate.weight(), up.weight())},
                   {product.m, product.n}, product.output);
    const tcast::Shape half{product.m, local[0]};
    const tcast::Value activated = trace.binary(
        tcast::gated(config_.activation), trace.columns(both, product.n, 0, local[0], half),
        trace.columns(both, product.n, local[0], local[0], half));
    return call(trace, config_.names.down, activated);
  }

 private:
  tcast::Mlp::Config config_;
};

/// A step like the standard ones: timed, recorded and checked by run_step. What it leaves alone, it
/// says why.
void merge_mlp(tcast::TransformerModel& model) {
  tcast::run_step(model, "merge_mlp", [](tcast::TransformerModel& m, tcast::StepReport& report) {
    tcast::rewrite(
        m.root(),
        [&](tcast::Module& module,
            const tcast::ModulePath& path) -> std::unique_ptr<tcast::Module> {
          auto* mlp = dynamic_cast<tcast::Mlp*>(&module);
          if (mlp == nullptr) return nullptr;
          const std::string where = path.text();
          const auto* up = dynamic_cast<tcast::Linear*>(mlp->find_child(mlp->names().up));
          if (mlp->names().gate.empty() || up == nullptr || up->has_bias() || up->quantization()) {
            report.skipped.push_back({where, "not a plain gated block"});
            return nullptr;
          }
          report.changed.push_back({where, mlp->class_name(), "MergedMlp"});
          report.changed_modules += path.count();
          return std::make_unique<MergedMlp>(*mlp);
        });
  });
}

}  // namespace

// The tree: a Llama-like decoder with norms on the heads of q and k.
TCAST_REGISTER_ARCHITECTURE("example_decoder")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Example");
  spec.qk_norm = true;
  return tcast::build_decoder(std::move(spec), context);
}

// The transformation: standard steps where they fit, in an order of one's own. Sharding comes
// first, so that the merged product has the width of this rank. An option that no step carries out
// is an error.
TCAST_REGISTER_CUSTOM_MODEL("example_decoder", "example_decoder_*")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::maybe_reuse_layers(model);
  tcast::patch_rotary_emb(model);
  tcast::patch_attention(model);
  tcast::quantize_model(model);
  tcast::shard_model(model);
  merge_mlp(model);
}
