// Decision D20 on the command line (rows C1, C2): every callback of a plugin that throws anything,
// and every nonsense that one may return, is an Error that names the plugin, what was called and
// its place; exit status 1, never 70 and never an abort.
#include <any>
#include <cmath>
#include <csignal>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/custom_model.h"

#include "command_runs.h"
#include "linked_plugins.h"
#include "scratch.h"

using namespace tcast;

namespace {

constexpr const char* file = "custom_model/nasty.cpp";

// --- what is thrown ------------------------------------------------------------------------------

class Silent : public std::exception {
 public:
  const char* what() const noexcept override { return nullptr; }
};

struct Throw {
  const char* name;
  void (*act)();
  const char* text;  ///< what the message ends with
  const char* hint;
};

const Throw throws[] = {
    {"Error", [] { throw Error("mended by hand", "a hint of its own"); }, ": mended by hand",
     "a hint of its own"},
    {"std::runtime_error", [] { throw std::runtime_error("out of ideas"); },
     " failed: out of ideas", "a mistake in the plugin"},
    {"int", [] { throw 42; },  // NOLINT
     " failed: it threw something that is no std::exception", "a mistake in the plugin"},
    {"const char*", [] { throw "a text"; }, " failed: a text",
     "a mistake in the plugin"},  // NOLINT
    {"bad_alloc", [] { throw std::bad_alloc(); }, " failed: not enough memory",
     "a mistake in the plugin"},
    {"no reason", [] { throw Silent(); }, " failed: it gave no reason", "a mistake in the plugin"},
    {"nested",
     [] {
       try {
         throw std::runtime_error("disk full");
       } catch (...) {
         std::throw_with_nested(std::runtime_error("cannot cache"));
       }
     },
     " failed: cannot cache; caused by: disk full", "a mistake in the plugin"},
    {"filesystem_error", [] { std::filesystem::last_write_time("/nowhere", {}); },
     "No such file or directory [/nowhere]", "a mistake in the plugin"},
    {"a broken promise of tcast", [] { TCAST_CHECK(false, "never"); }, "never (false)",
     "a mistake in the plugin"},
};

/// What the callback of a test throws.
const Throw* thrown = nullptr;

/// Throws it, instead of returning a T.
template <class T>
T throw_it() {
  thrown->act();
  std::abort();
}

// --- plugins that do -----------------------------------------------------------------------------

/// In the place of the root: `act` before the root's own forward.
class Wrapper : public ModuleOf<Wrapper> {
 public:
  using Act = std::function<Value(Trace&, Value)>;
  Wrapper(std::unique_ptr<Module> inner, Act act) : ModuleOf("Wrapper"), act_(std::move(act)) {
    add_child("", std::move(inner));
  }
  Wrapper(const Wrapper&) = default;
  Value forward(Trace& trace, Value input) const override {
    return act_(trace, (*children()[0])(trace, input));
  }

 private:
  Act act_;
};

/// A hook that runs the nine steps and wraps the root.
CustomModelHook wrapping_hook(Wrapper::Act act) {
  return {[act = std::move(act)](TransformerModel& model) {
            run_standard_steps(model);
            model.wrap_root([&](std::unique_ptr<Module> root) {
              return std::make_unique<Wrapper>(std::move(root), act);
            });
          },
          {}};
}

/// An operator on all logits.
Value emit_nasty(Trace& trace, Value logits) {
  CustomOp op;
  op.definition = &find_operator("nasty_op");
  op.sizes[0] = trace.shape(logits).elements();
  op.dtype = trace.dtype(logits);
  return trace.emit(op, {logits}, trace.shape(logits), op.dtype);
}

OpWork fine_work(const CustomOp& op) {
  OpWork work;
  work.read_bytes = work.write_bytes = static_cast<double>(op.sizes[0]);
  return work;
}

void copy_logits(const CustomOp& op, const KernelArgs& args) {
  for (std::int64_t i = 0; i < op.sizes[0]; ++i) {
    write_element(args.outputs[0], i, read_element(args.inputs[0], i));
  }
}

class NastyMlp : public ModuleOf<NastyMlp> {
 public:
  explicit NastyMlp(Module& original) : ModuleOf("NastyMlp") { take_over(original); }
  Value forward(Trace&, Value) const override { return throw_it<Value>(); }
};

class NastyCopy : public ModuleOf<NastyCopy> {
 public:
  explicit NastyCopy(Module& original) : ModuleOf("NastyCopy") { take_over(original); }
  NastyCopy(const NastyCopy& other) : ModuleOf(other) { thrown->act(); }
};

template <class Class>
void replace_mlps(TransformerModel& model) {
  rewrite(model.root(), [](Module& module, const ModulePath&) -> std::unique_ptr<Module> {
    if (dynamic_cast<Mlp*>(&module) == nullptr) return nullptr;
    return std::make_unique<Class>(module);
  });
}

class NastyCost final : public CostModel {
 public:
  explicit NastyCost(bool only_explains) : only_explains_(only_explains) {}
  OpEstimate estimate(const OpRecord&) const override {
    if (only_explains_) return {};
    return throw_it<OpEstimate>();
  }
  std::string explain(const OpRecord&) const override { return throw_it<std::string>(); }

 private:
  bool only_explains_;
};

class NastyKernel final : public Kernel {
 public:
  explicit NastyKernel(std::int64_t scratch = 0) { scratch_bytes_ = scratch; }
  void run(const KernelArgs&) override { thrown->act(); }
};

class NastyHolder final : public Kernel {
 public:
  std::int64_t held_bytes() override { return throw_it<std::int64_t>(); }
  void run(const KernelArgs&) override {}
};

enum class Stage { make, validate, transform, parameter_name, checkpoint_name };

class NastyModel final : public CustomModel {
 public:
  explicit NastyModel(Stage stage) : stage_(stage) {
    if (stage == Stage::make) thrown->act();
  }
  void validate(const TransformerModel&) const override {
    if (stage_ == Stage::validate) thrown->act();
  }
  TransformerModel& transform(TransformerModel& model) override {
    if (stage_ == Stage::transform) thrown->act();
    return run_standard_steps(model);
  }
  std::string parameter_name(const std::string& path) const override {
    if (stage_ == Stage::parameter_name) thrown->act();
    return path;
  }
  std::string checkpoint_name(const std::string& path) const override {
    if (stage_ == Stage::checkpoint_name) thrown->act();
    return path;
  }

 private:
  Stage stage_;
};

class NastyObserver final : public StepObserver {
 public:
  explicit NastyObserver(bool before) : before_(before) {}
  void before_step(const TransformerModel&, std::string_view) override {
    if (before_) thrown->act();
  }
  void after_step(const TransformerModel&, const StepReport&) override {
    if (!before_) thrown->act();
  }

 private:
  bool before_;
};

class Endless : public ModuleOf<Endless> {
 public:
  explicit Endless(std::unique_ptr<Module> inner) : ModuleOf("Endless") {
    add_child("", std::move(inner));
  }
  Value forward(Trace& trace, Value input) const override { return (*this)(trace, input); }
};

using Add = void (*)(LinkedPlugins&);

template <class T>
void add(LinkedPlugins& linked, const char* group, const char* name, T value, int line = 7) {
  linked.add(group, {name}, std::move(value), file, line);
}

void add_hook(LinkedPlugins& linked, Stage stage) {
  add(linked, "custom_model", "nasty",
      CustomModelHook{{}, [stage] {
                        return std::unique_ptr<CustomModel>(std::make_unique<NastyModel>(stage));
                      }});
}

void add_operator(LinkedPlugins& linked) {
  add(linked, "operator", "nasty_op", OperatorFunction(fine_work), 3);
  add(linked, "custom_model", "nasty", wrapping_hook(emit_nasty), 4);
}

const std::vector<std::string> use_hook = {"--custom-model", "llama=nasty"};

std::vector<std::string> simulating(std::vector<std::string> more) {
  more.insert(more.begin(), {"simulate", "CONFIG", "--device", "TEST_DEVICE", "--input-length", "8",
                             "--output-length", "2"});
  return more;
}

std::vector<std::string> running(std::vector<std::string> more) {
  more.insert(more.begin(),
              {"run", "CONFIG", "--threads", "2", "--input-length", "4", "--output-length", "2"});
  return more;
}

struct Callback {
  const char* name;
  Add add;
  std::vector<std::string> command;
  const char* who;  ///< how the message names what was called
};

const std::vector<Callback>& callbacks() {
  static const std::vector<Callback> list = {
      {"architecture",
       [](LinkedPlugins& linked) {
         add(linked, "architecture", "llama", ArchitectureFunction([](const ArchitectureContext&) {
               return throw_it<std::unique_ptr<Module>>();
             }));
       },
       simulating({}), "the architecture 'llama'"},
      {"predicate",
       [](LinkedPlugins& linked) {
         add(linked, "architecture_predicate", "llama",
             ArchitecturePredicate([](const HfConfig&) { return throw_it<bool>(); }));
       },
       {"simulate", "UNKNOWN", "--device", "TEST_DEVICE"},
       "the architecture predicate 'llama'"},
      {"profile",
       [](LinkedPlugins& linked) {
         add(linked, "profile", "llama", ProfileFunction([] { return throw_it<ProfileText>(); }));
       },
       simulating({}), "the profile 'llama'"},
      {"module class",
       [](LinkedPlugins& linked) {
         add(linked, "module_class", "NastyClass",
             ModuleClassFunction([](Module&, const ModelProfile&, const ModelOptions&) {
               return throw_it<std::unique_ptr<Module>>();
             }));
       },
       simulating({"--profile", "CLASS_PROFILE"}), "the module class 'NastyClass'"},
      {"forward of a module",
       [](LinkedPlugins& linked) {
         add(linked, "custom_model", "nasty",
             CustomModelHook{[](TransformerModel& model) {
                               run_standard_steps(model);
                               replace_mlps<NastyMlp>(model);
                             },
                             {}});
       },
       simulating(use_hook), "forward of NastyMlp (model.layers.*.mlp) of the hook 'nasty'"},
      {"copying a module",
       [](LinkedPlugins& linked) {
         add(linked, "step", "nasty_copies",
             StepFunction([](TransformerModel& model, const Arguments&) -> TransformerModel& {
               replace_mlps<NastyCopy>(model);
               model.root().child("").child("model").child("layers").split_list(1, 1);
               return model;
             }));
       },
       simulating({"--profile", "COPY_PROFILE"}), "copying a NastyCopy of the step 'nasty_copies'"},
      {"operator",
       [](LinkedPlugins& linked) {
         add(linked, "operator", "nasty_op",
             OperatorFunction([](const CustomOp&) { return throw_it<OpWork>(); }));
         add(linked, "custom_model", "nasty", wrapping_hook(emit_nasty), 4);
       },
       simulating(use_hook), "the operator 'nasty_op'"},
      {"operator kernel",
       [](LinkedPlugins& linked) {
         add_operator(linked);
         add(linked, "operator_kernel", "nasty_op",
             OperatorKernel([](const CustomOp&, const KernelArgs&) { thrown->act(); }));
       },
       running(use_hook), "the operator kernel 'nasty_op'"},
      {"operator operands",
       [](LinkedPlugins& linked) {
         add_operator(linked);
         add(linked, "operator_kernel", "nasty_op", OperatorKernel(copy_logits), 5);
         add(linked, "operator_operands", "nasty_op",
             OperatorOperands([](const CustomOp&) { return throw_it<KernelOperands>(); }));
       },
       {"simulate", "CONFIG", "--input-length", "4", "--output-length", "2", "--no-store",
        "--time-budget", "0.2", "--threads", "1", "--custom-model", "llama=nasty"},
       "the operator operands 'nasty_op'"},
      {"operator cost",
       [](LinkedPlugins& linked) {
         add(linked, "operator_cost", "rms_norm",
             OperatorCost([](const OpRecord&, const OperatorCostContext&) {
               return throw_it<OpEstimate>();
             }));
       },
       simulating({}), "the operator cost 'rms_norm'"},
      {"input filler",
       [](LinkedPlugins& linked) {
         add(linked, "input_filler", "positions",
             InputFiller([](const InputContext&, const Buffer&) { thrown->act(); }));
       },
       running({}), "the input filler 'positions'"},
      {"device",
       [](LinkedPlugins& linked) {
         add(linked, "device", "nasty_npu",
             DeviceFunction([] { return throw_it<DeviceProfile>(); }));
       },
       {"simulate", "CONFIG", "--device", "nasty-npu"},
       "the device 'nasty_npu'"},
      {"cost model",
       [](LinkedPlugins& linked) {
         add(linked, "cost_model", "nasty",
             CostModelFunction([](const DeviceProfile&, const CostModel&) {
               return throw_it<std::unique_ptr<CostModel>>();
             }));
       },
       simulating({"--runner", "nasty"}), "the cost model 'nasty'"},
      {"estimate of a cost model",
       [](LinkedPlugins& linked) {
         add(linked, "cost_model", "nasty",
             CostModelFunction(
                 [](const DeviceProfile&, const CostModel&) -> std::unique_ptr<CostModel> {
                   return std::make_unique<NastyCost>(false);
                 }));
       },
       simulating({"--runner", "nasty"}), "estimate of the cost model 'nasty'"},
      {"explain of a cost model",
       [](LinkedPlugins& linked) {
         add(linked, "cost_model", "nasty",
             CostModelFunction(
                 [](const DeviceProfile&, const CostModel&) -> std::unique_ptr<CostModel> {
                   return std::make_unique<NastyCost>(true);
                 }));
       },
       simulating({"--runner", "nasty", "--explain", "matmul"}),
       "explain of the cost model 'nasty'"},
      {"executor",
       [](LinkedPlugins& linked) {
         add(linked, "executor", "nasty", KernelMaker([](const OpRecord&, const KernelContext&) {
               return throw_it<KernelResult>();
             }));
       },
       running({"--runner", "nasty"}), "the executor 'nasty'"},
      {"kernel of an executor",
       [](LinkedPlugins& linked) {
         add(linked, "executor", "nasty", KernelMaker([](const OpRecord&, const KernelContext&) {
               return KernelResult{std::make_unique<NastyKernel>(), ""};
             }));
       },
       running({"--runner", "nasty"}), "a kernel of the executor 'nasty'"},
      {"memory of an executor's kernel",
       [](LinkedPlugins& linked) {
         add(linked, "executor", "nasty", KernelMaker([](const OpRecord&, const KernelContext&) {
               return KernelResult{std::make_unique<NastyHolder>(), ""};
             }));
       },
       running({"--runner", "nasty"}), "held_bytes of the executor 'nasty'"},
      {"report writer",
       [](LinkedPlugins& linked) {
         add(linked, "report_writer", "nasty",
             ReportWriter([](const Report&) { return throw_it<std::string>(); }));
       },
       simulating({"--format", "nasty"}), "the report writer 'nasty'"},
      {"type validator",
       [](LinkedPlugins& linked) {
         add(linked, "type_validator", "hidden_*",
             TypeValidator([](const Node&) { thrown->act(); }));
       },
       simulating({}), "the type validator 'hidden_*'"},
      {"value converter",
       [](LinkedPlugins& linked) {
         add(linked, "value_converter", "float",
             ValueConverter([](const Node&) { return throw_it<std::any>(); }));
         add(linked, "custom_model", "nasty",
             CustomModelHook{
                 [](TransformerModel& model) { model.custom_model_config().get<float>("depth"); },
                 {}},
             4);
       },
       simulating({"--custom-model", "llama=nasty", "--custom-model-config", "depth=3"}),
       "the value converter 'float'"},
      {"name resolver",
       [](LinkedPlugins& linked) {
         add(linked, "name_resolver", "nasty",
             NameResolver([](const std::string&) { return throw_it<std::string>(); }));
       },
       {"inspect", "anything@nasty"},
       "the name resolver 'nasty'"},
      {"token loader",
       [](LinkedPlugins& linked) {
         add(linked, "token_loader", "*.nasty", TokenLoader([](const std::string&) {
               return throw_it<std::vector<std::vector<std::int64_t>>>();
             }));
       },
       {"run", "CONFIG", "--token-ids", "prompt.nasty"},
       "the token loader '*.nasty'"},
      {"logits dumper",
       [](LinkedPlugins& linked) {
         add(linked, "logits_dumper", "*.nasty",
             LogitsDumper([](const std::vector<std::int64_t>&, const std::vector<float>&) {
               return throw_it<std::string>();
             }));
       },
       running({"--dump-logits", "LOGITS"}), "the logits dumper '*.nasty'"},
      {"hook",
       [](LinkedPlugins& linked) {
         add(linked, "custom_model", "nasty",
             CustomModelHook{[](TransformerModel&) { thrown->act(); }, {}});
       },
       simulating(use_hook), "the hook 'nasty'"},
      {"object of a hook", [](LinkedPlugins& linked) { add_hook(linked, Stage::make); },
       simulating(use_hook), "the hook 'nasty'"},
      {"validate", [](LinkedPlugins& linked) { add_hook(linked, Stage::validate); },
       simulating(use_hook), "validate of the hook 'nasty'"},
      {"transform", [](LinkedPlugins& linked) { add_hook(linked, Stage::transform); },
       simulating(use_hook), "the hook 'nasty'"},
      {"parameter_name",
       [](LinkedPlugins& linked) { add_hook(linked, Stage::parameter_name); },
       {"inspect", "CONFIG", "--format", "json", "--custom-model", "llama=nasty"},
       "parameter_name of the hook 'nasty'"},
      {"parameter_name for patterns",
       [](LinkedPlugins& linked) { add_hook(linked, Stage::parameter_name); },
       simulating({"--custom-model", "llama=nasty", "--quantize-linear", "w8a8_dynamic",
                   "--quantize-ignore", "blocks.*"}),
       "parameter_name of the hook 'nasty'"},
      {"checkpoint_name", [](LinkedPlugins& linked) { add_hook(linked, Stage::checkpoint_name); },
       running(use_hook), "checkpoint_name of the hook 'nasty'"},
      {"step",
       [](LinkedPlugins& linked) {
         add(linked, "step", "nasty_step",
             StepFunction([](TransformerModel& model, const Arguments&) -> TransformerModel& {
               thrown->act();
               return model;
             }));
       },
       simulating({"--profile", "STEP_PROFILE"}), "the step 'nasty_step'"},
      {"patch",
       [](LinkedPlugins& linked) {
         add(linked, "patch", "nasty_patch",
             PatchFunction([](TransformerModel&) { thrown->act(); }));
       },
       simulating({"--profile", "PATCH_PROFILE"}), "the patch 'nasty_patch'"},
      {"observer before a step",
       [](LinkedPlugins& linked) {
         static NastyObserver observer(true);
         add(linked, "custom_model", "nasty",
             CustomModelHook{[](TransformerModel& model) {
                               model.set_observer(&observer);
                               wrap_model(model);
                             },
                             {}});
       },
       simulating(use_hook), "a step observer of the hook 'nasty'"},
      {"observer after a step",
       [](LinkedPlugins& linked) {
         static NastyObserver observer(false);
         add(linked, "custom_model", "nasty",
             CustomModelHook{[](TransformerModel& model) {
                               model.set_observer(&observer);
                               wrap_model(model);
                             },
                             {}});
       },
       simulating(use_hook), "a step observer of the hook 'nasty'"},
  };
  return list;
}

/// The command with the files that its words in capitals stand for.
Run run_with(const Scratch& scratch, std::vector<std::string> command) {
  const auto profile = [&](const std::string& name, const std::string& text) {
    return scratch.write(name + ".yaml", text + "\n");
  };
  for (std::string& word : command) {
    if (word == "CONFIG") word = scratch.config("llama");
    if (word == "UNKNOWN") word = scratch.config("never_heard_of");
    if (word == "LOGITS") word = scratch.file("logits.nasty");
    if (word == "CLASS_PROFILE") {
      word = profile("class", "pipeline: [{type: patch_attention, implementation: NastyClass}]");
    }
    if (word == "COPY_PROFILE") word = profile("copy", "pipeline: [wrap_model, nasty_copies]");
    if (word == "STEP_PROFILE") word = profile("step", "pipeline: [nasty_step]");
    if (word == "PATCH_PROFILE") word = profile("patch", "vl_patch_method: nasty_patch");
  }
  return run(command);
}

}  // namespace

TEST_CASE("D20, C1: whatever a callback throws is an Error that names the plugin") {
  const Scratch scratch;
  for (const Callback& callback : callbacks()) {
    LinkedPlugins linked(true);
    callback.add(linked);
    linked.link();
    for (const Throw& one : throws) {
      const std::string what = fmt::format("{} throws {}", callback.name, one.name);
      CAPTURE(what);
      thrown = &one;
      const Run result = run_with(scratch, callback.command);
      INFO(result.err);
      CHECK(result.status == 1);
      CHECK(result.out.empty());
      const std::string start = fmt::format(
          "tcast: error: {} of plugin 'nasty' (custom_model/nasty.cpp:7)", callback.who);
      const std::size_t at = result.err.find(start);
      REQUIRE(at != std::string::npos);
      const std::string message = result.err.substr(at, result.err.find('\n', at) - at);
      CHECK(contains(message, one.text));
      CHECK(message.substr(start.size(), 1).find_first_of(": ") == 0);
      CHECK(contains(result.err, one.hint));
    }
  }
  thrown = nullptr;
}

// --- nonsense ------------------------------------------------------------------------------------

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

void add_device(LinkedPlugins& linked, void (*spoil)(DeviceProfile&)) {
  add(linked, "device", "nasty_npu", DeviceFunction([spoil] {
        DeviceProfile device = load_device("TEST_DEVICE");
        spoil(device);
        return device;
      }));
}

void add_cost(LinkedPlugins& linked, void (*spoil)(OpEstimate&)) {
  add(linked, "operator_cost", "rms_norm",
      OperatorCost([spoil](const OpRecord&, const OperatorCostContext& context) {
        OpEstimate estimate = context.fallback;
        spoil(estimate);
        return estimate;
      }));
}

template <class Spoil>
void add_work(LinkedPlugins& linked, Spoil) {
  add(linked, "operator", "nasty_op", OperatorFunction([](const CustomOp& op) {
        OpWork work = fine_work(op);
        Spoil{}(work);
        return work;
      }));
  add(linked, "custom_model", "nasty", wrapping_hook(emit_nasty), 4);
}

void add_operands(LinkedPlugins& linked, Operand operand) {
  add_operator(linked);
  add(linked, "operator_kernel", "nasty_op", OperatorKernel(copy_logits), 5);
  add(linked, "operator_operands", "nasty_op", OperatorOperands([operand](const CustomOp&) {
        return KernelOperands{{operand}, {operand}};
      }));
}

void add_kernel(LinkedPlugins& linked, void (*run)(const KernelArgs&)) {
  add_operator(linked);
  add(linked, "operator_kernel", "nasty_op",
      OperatorKernel([run](const CustomOp&, const KernelArgs& args) { run(args); }));
}

void add_forward(LinkedPlugins& linked, Value (*forward)(Trace&, Value)) {
  add(linked, "custom_model", "nasty", wrapping_hook(forward));
}

const std::vector<std::string> on_nasty_device = {"simulate", "CONFIG", "--device", "nasty_npu"};

std::vector<std::string> timing() {
  return {"simulate", "CONFIG",         "--input-length", "4",   "--output-length",
          "2",        "--no-store",     "--time-budget",  "0.2", "--threads",
          "1",        "--custom-model", "llama=nasty"};
}

struct Nonsense {
  const char* name;
  Add add;
  std::vector<std::string> command;
  const char* message;
};

const std::vector<Nonsense>& nonsense() {
  const std::vector<std::string> hooked = simulating(use_hook);
  static const std::vector<Nonsense> list = {
      {"device without bandwidth",
       [](LinkedPlugins& linked) {
         add_device(linked, [](DeviceProfile& d) { d.memory_bandwidth_bytes_per_s = 0; });
       },
       on_nasty_device, "its memory_bandwidth_bytes_per_s is 0, expected a rate above 0"},
      {"device without a name",
       [](LinkedPlugins& linked) { add_device(linked, [](DeviceProfile& d) { d.name = "-"; }); },
       on_nasty_device, "it has no name"},
      {"device without memory",
       [](LinkedPlugins& linked) {
         add_device(linked, [](DeviceProfile& d) { d.memory_bytes = -1; });
       },
       on_nasty_device, "its memory_bytes is -1, expected a size above 0"},
      {"device with a peak that is no number",
       [](LinkedPlugins& linked) {
         add_device(linked, [](DeviceProfile& d) { d.matrix[DType::bf16] = nan; });
       },
       on_nasty_device, "its matrix peak of bfloat16 is nan, expected a rate above 0"},
      {"device faster than its peaks",
       [](LinkedPlugins& linked) {
         add_device(linked, [](DeviceProfile& d) { d.efficiency[0].compute = 1.5; });
       },
       on_nasty_device, "its matmul compute efficiency is 1.5, expected a share above 0"},
      {"device with an interconnect of no devices",
       [](LinkedPlugins& linked) {
         add_device(linked, [](DeviceProfile& d) {
           d.interconnect.levels.resize(1);
           d.interconnect.levels[0].devices = 0;
         });
       },
       on_nasty_device, "size is 0, expected a multiple of the 1 device(s) inside it"},
      {"cost that is no number",
       [](LinkedPlugins& linked) { add_cost(linked, [](OpEstimate& e) { e.total_s = nan; }); },
       simulating({}), "its estimate has total_s = nan"},
      {"negative cost",
       [](LinkedPlugins& linked) { add_cost(linked, [](OpEstimate& e) { e.total_s = -1e-6; }); },
       simulating({}), "its estimate has total_s = -1e-06"},
      {"infinite part of a cost",
       [](LinkedPlugins& linked) {
         add_cost(linked, [](OpEstimate& e) { e.memory_s = infinity; });
       },
       simulating({}), "its estimate has memory_s = inf"},
      {"cost with an unknown bound",
       [](LinkedPlugins& linked) {
         add_cost(linked, [](OpEstimate& e) { e.bound = static_cast<Bound>(99); });
       },
       simulating({}), "its estimate has a bound or a source that there is none of"},
      {"cost with negative work",
       [](LinkedPlugins& linked) {
         add_cost(linked, [](OpEstimate& e) { e.work.read_bytes = -8; });
       },
       simulating({}), "its work has read_bytes = -8"},
      {"work of negative bytes",
       [](LinkedPlugins& linked) { add_work(linked, [](OpWork& w) { w.read_bytes = -1; }); },
       hooked, "its work has read_bytes = -1"},
      {"infinite work",
       [](LinkedPlugins& linked) {
         add_work(linked, [](OpWork& w) { w.matrix_flops = infinity; });
       },
       hooked, "its work has matrix_flops = inf"},
      {"work that leaves the range of numbers",
       [](LinkedPlugins& linked) {
         add_work(linked, [](OpWork& w) { w.read_bytes = w.write_bytes = 1.7e308; });
       },
       hooked, "its work is more than any number"},
      {"work of more cold bytes than bytes",
       [](LinkedPlugins& linked) { add_work(linked, [](OpWork& w) { w.cold_bytes = 1e12; }); },
       hooked, "its work has cold_bytes = 1000000000000, more than"},
      {"work of an unknown dtype",
       [](LinkedPlugins& linked) {
         add_work(linked, [](OpWork& w) { w.matrix_dtype = static_cast<DType>(77); });
       },
       hooked, "its work has the dtype number 77"},
      {"operand without elements",
       [](LinkedPlugins& linked) {
         add_operands(linked, {OperandRole::activation, {4, 0}, DType::f32, 0});
       },
       timing(), "its input 0 has the shape [4, 0], expected sizes above 0"},
      {"operand of more elements than there are numbers",
       [](LinkedPlugins& linked) {
         constexpr std::int64_t huge = std::int64_t{1} << 40;
         add_operands(linked, {OperandRole::activation, {huge, huge}, DType::f32, 0});
       },
       timing(), "is larger than a 64-bit size can hold"},
      {"whole numbers below 0",
       [](LinkedPlugins& linked) {
         add_operands(linked, {OperandRole::index, {4}, DType::i64, 0});
       },
       timing(), "its input 0 has whole numbers below 0, expected a limit above 0"},
      {"kernel with negative scratch memory",
       [](LinkedPlugins& linked) {
         add(linked, "executor", "nasty", KernelMaker([](const OpRecord&, const KernelContext&) {
               return KernelResult{std::make_unique<NastyKernel>(-5), ""};
             }));
       },
       running({"--runner", "nasty"}), "it made a kernel with -5 bytes of scratch memory"},
      {"kernel that reads an operand that is not there",
       [](LinkedPlugins& linked) {
         add_kernel(linked, [](const KernelArgs& args) { read_element(args.inputs[3], 0); });
       },
       running(use_hook), "operand 3 of 1 was asked for"},
      {"kernel that reads past an operand",
       [](LinkedPlugins& linked) {
         add_kernel(linked, [](const KernelArgs& args) { read_element(args.inputs[0], 1 << 20); });
       },
       running(use_hook), "element 1048576 of a buffer of 64 was asked for"},
      {"kernel that writes before an operand",
       [](LinkedPlugins& linked) {
         add_kernel(linked, [](const KernelArgs& args) { write_element(args.outputs[0], -1, 0); });
       },
       running(use_hook), "element -1 of a buffer of 64 was asked for"},
      {"cost model that is none",
       [](LinkedPlugins& linked) {
         add(linked, "cost_model", "nasty",
             CostModelFunction([](const DeviceProfile&, const CostModel&) { return nullptr; }));
       },
       simulating({"--runner", "nasty"}), "it made nothing"},
      {"report of nothing",
       [](LinkedPlugins& linked) {
         add(linked, "report_writer", "nasty", ReportWriter([](const Report&) { return ""; }));
       },
       simulating({"--format", "nasty"}), "it wrote nothing"},
      {"architecture without a tree",
       [](LinkedPlugins& linked) {
         add(linked, "architecture", "llama",
             ArchitectureFunction([](const ArchitectureContext&) { return nullptr; }));
       },
       simulating({}), "it returned no tree"},
      {"module class that makes nothing",
       [](LinkedPlugins& linked) {
         add(linked, "module_class", "NastyClass",
             ModuleClassFunction(
                 [](Module&, const ModelProfile&, const ModelOptions&) { return nullptr; }));
       },
       simulating({"--profile", "CLASS_PROFILE"}),
       "it made no attention of model.layers.[0-1].self_attn"},
      {"hook without an object",
       [](LinkedPlugins& linked) {
         add(linked, "custom_model", "nasty",
             CustomModelHook{{}, [] { return std::unique_ptr<CustomModel>(); }});
       },
       hooked, "it made no object"},
      {"profile that is no YAML",
       [](LinkedPlugins& linked) {
         add(linked, "profile", "llama", ProfileFunction([] {
               return ProfileText{"base: [unclosed", "nasty.yaml"};
             }));
       },
       simulating({}), "nasty.yaml:"},
      {"resolver to nowhere",
       [](LinkedPlugins& linked) {
         add(linked, "name_resolver", "nasty", NameResolver([](const std::string&) { return ""; }));
       },
       {"inspect", "anything@nasty"},
       "it returned no path for 'anything'"},
      {"prompts of nothing",
       [](LinkedPlugins& linked) {
         add(linked, "token_loader", "*.nasty", TokenLoader([](const std::string&) {
               return std::vector<std::vector<std::int64_t>>{};
             }));
       },
       {"run", "CONFIG", "--token-ids", "prompt.nasty"},
       "it made of prompt.nasty no token ids"},
      {"logits of nothing",
       [](LinkedPlugins& linked) {
         add(linked, "logits_dumper", "*.nasty",
             LogitsDumper(
                 [](const std::vector<std::int64_t>&, const std::vector<float>&) { return ""; }));
       },
       running({"--dump-logits", "LOGITS"}), "it returned nothing to write"},
      {"activation of two values",
       [](LinkedPlugins& linked) { add(linked, "activation", "silu", ElementwiseKind::add); },
       simulating({}), "it is no function of one value"},
      {"activation that there is none of",
       [](LinkedPlugins& linked) {
         add(linked, "activation", "silu", static_cast<ElementwiseKind>(200));
       },
       simulating({}), "it is no function of one value"},
      {"value of no pass",
       [](LinkedPlugins& linked) { add_forward(linked, [](Trace&, Value) { return Value{}; }); },
       hooked, "a value belongs to the pass that is traced"},
      {"value of another region",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value) {
           return trace.unary(ElementwiseKind::relu, Value{1, 1 << 20});
         });
       },
       hooked, "a value belongs to the pass that is traced"},
      {"cache of no heads",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value logits) {
           CacheSpec spec;
           spec.elements_per_token = 4;
           spec.kv_heads = 0;
           trace.cache(spec);
           return logits;
         });
       },
       hooked, "a cache keeps keys and values of at least one head"},
      {"operator of nobody",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value x) {
           return trace.emit(CustomOp{}, {x}, trace.shape(x), trace.dtype(x));
         });
       },
       hooked, "a registered operator is used with the definition that find_operator() gives"},
      {"elementwise kind that there is none of",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value x) {
           return trace.unary(static_cast<ElementwiseKind>(200), x);
         });
       },
       hooked, "an elementwise kind that there is"},
      {"result of negative size",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value x) {
           return trace.emit(Softmax{}, {x}, Shape{-4, 2}, DType::f32);
         });
       },
       hooked, "the sizes of a tensor are at least 0, not [-4, 2]"},
      {"result that nothing can hold",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value x) {
           constexpr std::int64_t huge = std::int64_t{1} << 40;
           return trace.emit(Softmax{}, {x}, Shape{huge, huge}, DType::f32);
         });
       },
       hooked, "is larger than a 64-bit size can hold"},
      {"softmax that is executed with an operand of another size",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value x) { return trace.softmax(x, 1000, 1000); });
       },
       running(use_hook),
       "softmax rows=1000 columns=1000 f32: its input is [2, 64], expected "
       "rows of 1000"},
      {"operator with more operands than there can be",
       [](LinkedPlugins& linked) {
         add_forward(linked, [](Trace& trace, Value x) {
           return trace.emit(CustomOp{}, {x, x, x, x, x, x, x}, trace.shape(x), trace.dtype(x));
         });
       },
       hooked, "has more than 6 operands on a side"},
      {"module that calls itself without end",
       [](LinkedPlugins& linked) {
         add(linked, "custom_model", "nasty",
             CustomModelHook{[](TransformerModel& model) {
                               run_standard_steps(model);
                               model.wrap_root([](std::unique_ptr<Module> root) {
                                 return std::make_unique<Endless>(std::move(root));
                               });
                             },
                             {}});
       },
       hooked, "more than 1000 modules call one another"},
      {"hook that takes away what a forward needs",
       [](LinkedPlugins& linked) {
         add(linked, "custom_model", "nasty",
             CustomModelHook{[](TransformerModel& model) {
                               run_standard_steps(model);
                               model.find("model.layers.0.self_attn.q_proj")->set_name("gone");
                             },
                             {}});
       },
       hooked, "has no child 'q_proj'"},
  };
  return list;
}

}  // namespace

TEST_CASE("D20: nonsense that a callback returns is refused by name") {
  const Scratch scratch;
  for (const Nonsense& one : nonsense()) {
    const std::string name = one.name;
    CAPTURE(name);
    LinkedPlugins linked(true);
    one.add(linked);
    linked.link();
    const Run result = run_with(scratch, one.command);
    INFO(result.err);
    CHECK(result.status == 1);
    CHECK(contains(result.err, "of plugin 'nasty' (custom_model/nasty.cpp:7)"));
    CHECK(contains(result.err, one.message));
  }
}

TEST_CASE(
    "D20: a set-up function that throws anything fails its plugin, with --strict the command") {
  const Scratch scratch;
  const std::string config = scratch.config("llama");
  LinkedPlugins linked(true);
  add(linked, "setup", "device", SetupFunction([](SetupContext&) { thrown->act(); }));
  linked.link();
  const std::string failed =
      "plugin 'nasty' (custom_model/nasty.cpp:7) failed: its set-up function "
      "(custom_model/nasty.cpp:7) threw: ";
  for (const Throw& one : throws) {
    CAPTURE(one.name);
    thrown = &one;
    select_plugins({"", "the last throw", false});  // set-up functions run once for a selection
    const Run strict = run({"simulate", config, "--device", "TEST_DEVICE", "--strict"});
    INFO(strict.err);
    CHECK(strict.status == 1);
    CHECK(contains(strict.err, "tcast: error: " + failed));
    select_plugins({"", "the last throw", false});
    const Run warned = run({"simulate", config, "--device", "TEST_DEVICE"});
    CHECK(warned.status == 0);
    CHECK(contains(warned.err, "tcast: warning: " + failed));
  }
  thrown = nullptr;
}

TEST_CASE("D20: a value that cannot be copied is an Error that names its plugin") {
  struct Uncopied {
    bool* armed;
    explicit Uncopied(bool* flag) : armed(flag) {}
    Uncopied(const Uncopied& other) : armed(other.armed) {
      if (*armed) throw std::runtime_error("one of a kind");
    }
    DeviceProfile operator()() const { return load_device("TEST_DEVICE"); }
  };
  static bool armed = false;
  LinkedPlugins linked(true);
  add(linked, "device", "unique", DeviceFunction(Uncopied(&armed)));
  linked.link();
  armed = true;
  const Run result = run({"devices"});
  armed = false;
  CHECK(result.status == 1);
  CHECK(contains(result.err,
                 "copying the value of the device 'unique' of plugin 'nasty' "
                 "(custom_model/nasty.cpp:7) failed: one of a kind"));
}

// --- what no handler can catch -------------------------------------------------------------------

namespace {

/// Runs a command in a process of its own: its exit status (128 + signal) and standard error.
Run run_apart(const std::vector<std::string>& arguments) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    std::signal(SIGABRT, SIG_DFL);
    const Run result = run(arguments);
    const ssize_t ignored = write(STDERR_FILENO, result.err.data(), result.err.size());
    _exit(ignored < 0 ? 99 : result.status);
  }
  close(ends[1]);
  Run result;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(ends[0], buffer, sizeof buffer)) > 0;) {
    result.err.append(buffer, static_cast<std::size_t>(got));
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

class NoexceptCost final : public CostModel {
 public:
  OpEstimate estimate(const OpRecord&) const noexcept override {
    std::vector<int> none;
    return {.total_s = static_cast<double>(none.at(1))};
  }
  std::string explain(const OpRecord&) const override { return "nothing"; }
};

}  // namespace

TEST_CASE("D20: what ends the program names the plugin, with exit status 1") {
  const Scratch scratch;
  const std::string config = scratch.config("llama");
  LinkedPlugins linked(true);
  add(linked, "device", "threaded", DeviceFunction([] {
        std::thread([] { throw std::runtime_error("in a thread"); }).join();
        return load_device("TEST_DEVICE");
      }));
  add(linked, "cost_model", "noexcept",
      CostModelFunction([](const DeviceProfile&, const CostModel&) -> std::unique_ptr<CostModel> {
        return std::make_unique<NoexceptCost>();
      }));
  linked.link();
  const Run thread = run_apart({"simulate", config, "--device", "threaded"});
  INFO(thread.err);
  CHECK(thread.status == 1);
  CHECK(contains(thread.err,
                 "tcast: error: the device 'threaded' of plugin 'nasty' (custom_model/nasty.cpp:7) "
                 "ended the program: in a thread\n  hint: "));
  const Run function =
      run_apart({"simulate", config, "--device", "TEST_DEVICE", "--runner", "noexcept"});
  INFO(function.err);
  CHECK(function.status == 1);
  CHECK(contains(function.err,
                 "the cost model 'noexcept' of plugin 'nasty' "
                 "(custom_model/nasty.cpp:7) ended the program: vector"));
}
