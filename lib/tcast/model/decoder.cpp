#include "tcast/model/decoder.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/model/requirements.h"

namespace tcast {

// --- layers --------------------------------------------------------------------------------------

DecoderLayer::DecoderLayer(std::string class_name, LayerNames names, bool parallel)
    : ModuleOf(std::move(class_name)), config_{std::move(names), parallel} {}

std::string DecoderLayer::fault() const {
  const LayerNames& names = config_.names;
  Requirements needs(*this);
  for (const std::string& name : {names.attention_norm, names.attention, names.mlp}) {
    needs.child(name);
  }
  if (config_.parallel) return needs.fault();
  for (const std::string& name : {names.attention_out_norm, names.mlp_norm, names.mlp_out_norm}) {
    needs.child(name);
  }
  return needs.fault();
}

Value DecoderLayer::forward(Trace& trace, Value hidden) const {
  if (config_.parallel) {
    const Value x = call(trace, config_.names.attention_norm, hidden);
    const Value attention = call(trace, config_.names.attention, x);
    return trace.add(trace.add(attention, call(trace, config_.names.mlp, x)), hidden);
  }
  auto block = [&](const std::string& norm, const std::string& inner, const std::string& out_norm) {
    Value x = norm.empty() ? hidden : call(trace, norm, hidden);
    x = call(trace, inner, x);
    if (!out_norm.empty()) x = call(trace, out_norm, x);
    hidden = trace.add(hidden, x);
  };
  block(config_.names.attention_norm, config_.names.attention, config_.names.attention_out_norm);
  block(config_.names.mlp_norm, config_.names.mlp, config_.names.mlp_out_norm);
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

std::string MtpLayer::fault() const {
  Requirements needs(*this, DecoderLayer::fault());
  for (const char* name : {"enorm", "hnorm", "eh_proj", "shared_head"}) needs.child(name);
  const Module* const head = find_child("shared_head");
  return needs
      .that(head == nullptr || head->find_child("norm") != nullptr,
            [] { return std::string("its shared_head has no child 'norm'"); })
      .fault();
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
  TCAST_CHECK(!config_.reuse || equal_to_.size() == children().size(), "layers were compared");
  std::vector<MemberRegion> regions(config_.reuse ? children().size() : 0);
  for (std::size_t i = 0; i < children().size(); ++i) {
    const Module& layer = *children()[i];
    if (dynamic_cast<const MtpLayer*>(&layer) != nullptr) continue;
    const std::int64_t first = layer.members().first;
    const std::int64_t count = layer.members().count;
    auto body = [&](Value x) { return layer(trace, x); };
    if (!config_.reuse) {
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

std::string LayerList::fault() const {
  // A forward pass lists every call of a layer.
  constexpr std::int64_t most_layers = 100'000;
  return Requirements(*this)
      .that(list_size() <= most_layers,
            [&] { return fmt::format("it has {} layers, more than any model", list_size()); })
      .fault();
}

void LayerList::compare_layers() {
  equal_to_.assign(children().size(), 0);
  for (std::size_t i = 0; i < children().size(); ++i) {
    equal_to_[i] = i;
    if (i == 0 || first_identity_gap(*children()[i])) continue;
    for (std::size_t k = 0; k < i; ++k) {
      if (equal_to_[k] == k && same_structure(*children()[k], *children()[i])) {
        equal_to_[i] = k;
        break;
      }
    }
  }
}

std::vector<std::string> cost_of_identity_gaps(const Module& root) {
  std::vector<std::string> lines;
  walk(root, [&](const Module& module, const ModulePath&) {
    const auto* const list = dynamic_cast<const LayerList*>(&module);
    if (list == nullptr || !list->reuse()) return;
    std::vector<std::pair<std::string, std::int64_t>> alone;  // by class
    for (const auto& layer : list->children()) {
      const IdentityGap gap = first_identity_gap(*layer);
      if (!gap || layer->members().count > 1) continue;
      const std::string text = gap.text();
      auto known = std::find_if(alone.begin(), alone.end(),
                                [&](const auto& entry) { return entry.first == text; });
      if (known == alone.end()) known = alone.insert(alone.end(), {text, 0});
      ++known->second;
    }
    for (const auto& [text, layers] : alone) {
      if (layers < 2) continue;
      lines.push_back(fmt::format("{}: {} of {} layers are traced one by one", text, layers,
                                  list->list_size()));
    }
  });
  return lines;
}

// --- decoder -------------------------------------------------------------------------------------

DecoderModel::DecoderModel(std::string class_name, DecoderNames names)
    : ModuleOf(std::move(class_name)), config_{std::move(names)} {}

std::string DecoderModel::fault() const {
  const DecoderNames& names = config_.names;
  return Requirements(*this)
      .child(names.embeddings)
      .child_of_class<LayerList>(names.layers)
      .child(names.norm)
      .fault();
}

Value DecoderModel::forward(Trace& trace, Value ids) const {
  auto positions = [&] {
    return trace.input("positions", {trace.workload().tokens()}, DType::i64);
  };
  Value hidden = embed(trace, ids);
  if (const Module* table = find_child(config_.names.positions)) {
    hidden = trace.add(hidden, (*table)(trace, positions()));
  }
  for (const std::string& name : {config_.names.rotary, config_.names.window_rotary}) {
    if (const auto* rotary = dynamic_cast<const RotaryEmbedding*>(find_child(name))) {
      rotary->provide(trace, positions());
    }
  }
  return call(trace, config_.names.norm, call(trace, config_.names.layers, hidden));
}

RewardHead::RewardHead(std::int64_t hidden_size, std::int64_t labels, DType dtype)
    : ModuleOf("Sequential") {
  add_child("0", std::make_unique<Linear>(hidden_size, hidden_size, true, dtype));
  add_child("2", std::make_unique<Linear>(hidden_size, labels, true, dtype));
}

Value RewardHead::forward(Trace& trace, Value hidden) const {
  return call(trace, "2", trace.unary(ElementwiseKind::relu, call(trace, "0", hidden)));
}

CausalLm::CausalLm(ModelHead head, std::string decoder_name, double softcap)
    : ModuleOf(head.class_name), config_{std::move(head), std::move(decoder_name), softcap} {}

void CausalLm::list_attributes(std::vector<Attribute>& list) const {
  if (config_.softcap > 0) list.push_back({"final_logit_softcapping", config_.softcap});
}

std::string CausalLm::fault() const {
  return Requirements(*this)
      .child_of_class<DecoderModel>(config_.decoder_name)
      .that(dynamic_cast<const DecoderModel*>(find_child(config_.decoder_name)) != nullptr,
            [] { return std::string("it has no decoder"); })
      .child(config_.head.name)
      .fault();
}

Value CausalLm::forward(Trace& trace, Value ids) const {
  return logits(trace, call(trace, config_.decoder_name, ids));
}

Value CausalLm::logits(Trace& trace, Value hidden) const {
  if (config_.head.kind == HeadKind::none) return hidden;
  return softcapped(trace, call(trace, config_.head.name, hidden), config_.softcap);
}

// --- wrapper -------------------------------------------------------------------------------------

LanguageModelWrapper::LanguageModelWrapper(std::unique_ptr<Module> model)
    : ModuleOf("LanguageModelWrapper") {
  add_child("", std::move(model));
}

std::string LanguageModelWrapper::fault() const {
  const bool wraps = children().size() == 1 && children()[0]->name().empty() &&
                     dynamic_cast<const CausalLm*>(children()[0].get()) != nullptr;
  Requirements needs(*this);
  needs.that(wraps, [] { return std::string("it holds something else than a CausalLm"); });
  if (!wraps || !children()[0]->fault().empty()) return needs.fault();
  return needs
      .that(config_.mtp_tokens == 0 || !predictors().empty(),
            [] { return std::string("it predicts further tokens without a layer for them"); })
      .fault();
}

std::vector<const MtpLayer*> LanguageModelWrapper::predictors() const {
  std::vector<const MtpLayer*> list;
  for (const auto& layer : model().decoder().layers().children()) {
    if (const auto* mtp = dynamic_cast<const MtpLayer*>(layer.get())) list.push_back(mtp);
  }
  return list;
}

Value LanguageModelWrapper::forward(Trace& trace, Value ids) const {
  const Workload& work = trace.workload();
  const CausalLm& lm = model();
  const DecoderModel& decoder = lm.decoder();
  // The last row of each request; all rows when every token's logits are wanted.
  auto select = [&](Value rows) {
    const bool all = lm.head_kind() == HeadKind::none || lm.head_kind() == HeadKind::token ||
                     (lm.head_kind() == HeadKind::causal && work.phase == Phase::decode);
    if (all || work.query_length == 1) return rows;
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
  if (config_.mtp_tokens == 0) return logits;

  // Each further token: the same layers again if there are fewer of them than tokens to predict.
  // Depth k embeds tokens that lie k further on, of which the last ones are what the model and the
  // depths before have predicted: known when that has been executed.
  const std::vector<const MtpLayer*> predictors = this->predictors();
  for (std::int64_t i = 0; i < config_.mtp_tokens; ++i) {
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
    const Value predicted = lm.logits(trace, select(hidden));
    // Executed, somebody wants to see them; what is priced is over when they are made.
    if (work.executes) trace.output("logits", predicted, depth);
  }
  return logits;
}

}  // namespace tcast
