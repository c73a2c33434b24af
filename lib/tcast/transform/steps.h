#pragma once

#include <string>

#include "tcast/base/export.h"
#include "tcast/model/transformer_model.h"

// The nine standard steps and quantize_linear. Each takes and returns the model, is recorded in its
// reports, and can be called from a custom hook exactly like from the standard pipeline.

namespace tcast {

/// One forward interface: token ids in, the head's result out for the rows that need it; hidden
/// states where there is no head.
TCAST_API TransformerModel& wrap_model(TransformerModel& model);

/// Adds multi-token-prediction layers when they were asked for. Throws Error when the config has
/// none.
TCAST_API TransformerModel& maybe_enable_mtp(TransformerModel& model);

/// From now on equal layers are traced once and called as often as there are of them.
TCAST_API TransformerModel& maybe_reuse_layers(TransformerModel& model);

/// Rotary tables are made once, up to the needed position, and looked up.
TCAST_API TransformerModel& patch_rotary_emb(TransformerModel& model);

/// Attention becomes one fused operator over a paged KV cache.
TCAST_API TransformerModel& patch_attention(TransformerModel& model);

/// The same with another fused attention: the module class that is registered as `implementation`
/// takes the place of every attention. It must be an AttentionModule.
TCAST_API TransformerModel& patch_attention(TransformerModel& model,
                                            const std::string& implementation);

/// Modules of the profile's mla_module_name become its mla_module_class_type: latent cache,
/// absorbed in decode, expanded in prefill.
TCAST_API TransformerModel& patch_mla(TransformerModel& model);

/// The same with another module class than the profile's mla_module_class_type.
TCAST_API TransformerModel& patch_mla(TransformerModel& model, const std::string& implementation);

/// Modules of the profile's moe_module_name become fused: routing, permutation, grouped experts of
/// its custom_expert_module_type, combination.
TCAST_API TransformerModel& patch_moe(TransformerModel& model);

/// The same with another module class than the profile's custom_expert_module_type.
TCAST_API TransformerModel& patch_moe(TransformerModel& model, const std::string& experts);

/// The registered patch that the profile's vl_patch_method names, as a step of that name; nothing
/// when it names none. The standard steps call it before patch_rotary_emb.
TCAST_API TransformerModel& apply_vl_patch(TransformerModel& model);

/// Linears (quantize_linear) and the KV cache to the requested or the checkpoint's own scheme.
TCAST_API TransformerModel& quantize_model(TransformerModel& model);

/// The linear layers alone, for models without a KV cache.
TCAST_API TransformerModel& quantize_linear(TransformerModel& model);

/// Tensor parallel attention, feed-forward, embedding and head; expert parallel; data parallel.
TCAST_API TransformerModel& shard_model(TransformerModel& model);

}  // namespace tcast
