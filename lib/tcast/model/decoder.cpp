#include "tcast/model/decoder.h"

#include <utility>

#include "tcast/base/error.h"

namespace tcast {

// --- layers --------------------------------------------------------------------------------------

DecoderLayer::DecoderLayer(std::string class_name, LayerNames names, bool parallel)
    : ModuleOf(std::move(class_name)), names_(std::move(names)), parallel_(parallel) {}

Value DecoderLayer::forward(Trace& trace, Value hidden) const {
  if (parallel_) {
    const Value x = call(trace, names_.attention_norm, hidden);
    const Value attention = call(trace, names_.attention, x);
    return trace.add(trace.add(attention, call(trace, names_.mlp, x)), hidden);
  }
  auto block = [&](const std::string& norm, const std::string& inner, const std::string& out_norm) {
    Value x = norm.empty() ? hidden : call(trace, norm, hidden);
    x = call(trace, inner, x);
    if (!out_norm.empty()) x = call(trace, out_norm, x);
    hidden = trace.add(hidden, x);
  };
  block(names_.attention_norm, names_.attention, names_.attention_out_norm);
  block(names_.mlp_norm, names_.mlp, names_.mlp_out_norm);
  return hidden;
}

MtpLayer::MtpLayer(DecoderLayer& block, std::int64_t hidden_size, double epsilon, DType dtype)
    : ModuleOf(block.class_name(), block.names()) {
  const std::string norm_class = block.child(block.names().attention_norm).hf_class_name();
  take_over(block);
  auto norm = [&] {
    return std::make_unique<Normalization>(norm_class, NormKind::rms, hidden_size, epsilon, false,
                                           0.0, dtype);
  };
  add_child("enorm", norm());
  add_child("hnorm", norm());
  Module& projection =
      add_child("eh_proj", std::make_unique<Linear>(2 * hidden_size, hidden_size, false, dtype));
  projection.parameters()[0].whole_because = "its result is normalized whole on every rank";
  Module& head = add_child("shared_head", std::make_unique<ModuleList>());
  head.set_hf_class_name("SharedHead");
  head.add_child("norm", norm());
  set_class_name("MtpLayer");
}

Value MtpLayer::predict(Trace& trace, Value hidden, Value next_embedding) const {
  const Value embedding = call(trace, "enorm", next_embedding);
  const Value state = call(trace, "hnorm", hidden);
  const Shape shape = trace.shape(hidden);
  const Value joined =
      trace.join_columns(embedding, shape[1], state, shape[1], 1, {shape[0], 2 * shape[1]});
  const Value projected = call(trace, "eh_proj", joined);
  const Value out = DecoderLayer::forward(trace, projected);
  const Module& head = child("shared_head");
  const ScopeGuard scope(trace, head.name(), head.class_name(), false);
  return head.child("norm")(trace, out);
}

// --- the list of layers --------------------------------------------------------------------------

Value LayerList::forward(Trace& trace, Value hidden) const {
  TCAST_CHECK(!reuse_ || equal_to_.size() == children().size(), "layers were compared");
  std::vector<MemberRegion> regions(reuse_ ? children().size() : 0);
  for (std::size_t i = 0; i < children().size(); ++i) {
    const Module& layer = *children()[i];
    if (dynamic_cast<const MtpLayer*>(&layer) != nullptr) continue;
    const std::int64_t first = layer.members().first;
    const std::int64_t count = layer.members().count;
    auto body = [&](Value x) { return layer(trace, x); };
    if (!reuse_) {
      for (std::int64_t k = 0; k < count; ++k) hidden = trace.repeat(first + k, 1, hidden, body);
    } else if (equal_to_[i] == i) {
      hidden = trace.repeat(first, count, hidden, body);
      regions[i] = trace.last_member();
    } else {
      hidden = trace.replay(regions[equal_to_[i]], first, count, hidden);
    }
  }
  return hidden;
}

void LayerList::compare_layers() {
  equal_to_.assign(children().size(), 0);
  for (std::size_t i = 0; i < children().size(); ++i) {
    equal_to_[i] = i;
    for (std::size_t k = 0; k < i; ++k) {
      if (equal_to_[k] == k && same_structure(*children()[k], *children()[i])) {
        equal_to_[i] = k;
        break;
      }
    }
  }
}

// --- decoder -------------------------------------------------------------------------------------

DecoderModel::DecoderModel(std::string class_name, DecoderNames names)
    : ModuleOf(std::move(class_name)), names_(std::move(names)) {}

Value DecoderModel::forward(Trace& trace, Value ids) const {
  auto positions = [&] {
    return trace.input("positions", {trace.workload().tokens()}, DType::i64);
  };
  Value hidden = embed(trace, ids);
  if (const Module* table = find_child(names_.positions)) {
    hidden = trace.add(hidden, (*table)(trace, positions()));
  }
  for (const std::string& name : {names_.rotary, names_.window_rotary}) {
    if (const auto* rotary = dynamic_cast<const RotaryEmbedding*>(find_child(name))) {
      rotary->provide(trace, positions());
    }
  }
  return call(trace, names_.norm, call(trace, names_.layers, hidden));
}

CausalLm::CausalLm(std::string class_name, std::string decoder_name, double softcap)
    : ModuleOf(std::move(class_name)), decoder_name_(std::move(decoder_name)), softcap_(softcap) {
  if (softcap_ > 0) set_attribute("final_logit_softcapping", softcap_);
}

Value CausalLm::forward(Trace& trace, Value ids) const {
  const Value hidden = call(trace, decoder_name_, ids);
  return head() == nullptr ? hidden : logits(trace, hidden);
}

Value CausalLm::logits(Trace& trace, Value hidden) const {
  return softcapped(trace, (*head())(trace, hidden), softcap_);
}

// --- wrapper -------------------------------------------------------------------------------------

LanguageModelWrapper::LanguageModelWrapper(std::unique_ptr<Module> model)
    : ModuleOf("LanguageModelWrapper") {
  add_child("", std::move(model));
}

Value LanguageModelWrapper::forward(Trace& trace, Value ids) const {
  const Workload& work = trace.workload();
  const CausalLm& lm = model();
  const DecoderModel& decoder = lm.decoder();
  // The last row of each request; all rows when every token's logits are wanted.
  auto select = [&](Value rows) {
    if (work.phase == Phase::decode || work.query_length == 1) return rows;
    const Value indices = trace.input("last rows", {work.batch}, DType::i64);
    return trace.gather(rows, indices, work.batch, trace.shape(rows)[1]);
  };
  Value hidden;
  Value logits;
  {
    const ScopeGuard scope(trace, decoder.name(), decoder.class_name(), false);
    hidden = decoder.forward(trace, ids);
    logits = select(hidden);
  }
  logits = lm.logits(trace, logits);
  trace.output("logits", logits);
  if (mtp_tokens_ == 0) return logits;

  // Each further token: the same layers again if there are fewer of them than tokens to predict.
  // Depth k embeds tokens that lie k further on, of which the last ones are what the model and the
  // depths before have predicted: known when that has been executed.
  std::vector<const MtpLayer*> predictors;
  for (const auto& layer : decoder.layers().children()) {
    if (const auto* mtp = dynamic_cast<const MtpLayer*>(layer.get())) predictors.push_back(mtp);
  }
  for (std::int64_t i = 0; i < mtp_tokens_; ++i) {
    const MtpLayer& mtp = *predictors[static_cast<std::size_t>(i) % predictors.size()];
    const std::int64_t depth = i + 1;
    if (work.executes) {
      trace.end_region();
      ids = trace.input("token ids", {work.tokens()}, DType::i64, {}, depth);
    }
    Value embedding;
    {
      const ScopeGuard scope(trace, decoder.name(), decoder.class_name(), false);
      embedding = decoder.embed(trace, ids);
      const Module& list = decoder.layers();
      const ScopeGuard in_list(trace, list.name(), list.class_name(), false);
      hidden = trace.repeat(mtp.members().first, 1, hidden, [&](Value x) {
        const ScopeGuard member(trace, mtp.name(), mtp.class_name(), true);
        return mtp.predict(trace, x, embedding);
      });
      trace.set_cache_member(decoder.layers().list_size() + i -
                             static_cast<std::int64_t>(predictors.size()));
    }
    logits = lm.logits(trace, select(hidden));
    // Executed, somebody wants to see them; what is priced is over when they are made.
    if (work.executes) trace.output("logits", logits, depth);
  }
  return logits;
}

}  // namespace tcast
