#include "tcast/base/plugin.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <limits>
#include <list>
#include <map>
#include <mutex>
#include <numeric>
#include <tuple>
#include <unordered_map>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

using internal::LiveRegistration;
using internal::SetupRegistration;

/// A registration and the number of its plugin.
struct Link {
  const RegistrationNode* node = nullptr;
  std::size_t plugin = 0;
};
using Links = std::vector<Link>;

/// A plugin without what it registered, which nobody needs but `tcast plugins`.
struct Record {
  std::string_view name;
  Origin origin = Origin::custom;
  std::string_view file;
  int line = 0;
  int interface_version = plugin_interface;
  bool declared = false;  ///< by TCAST_PLUGIN, whose line it has
  PluginState state = PluginState::loaded;
  struct Problem {
    std::string reason;
    std::vector<std::string> trace;
  };
  std::unique_ptr<Problem> problem{};  ///< most have none, and there may be thousands

  /// Why it is not loaded; empty: it is.
  const std::string& reason() const {
    static const std::string none;
    return problem == nullptr ? none : problem->reason;
  }
  std::vector<std::string> trace() const {
    return problem == nullptr ? std::vector<std::string>() : problem->trace;
  }

  std::string place() const { return fmt::format("{}:{}", file, line); }
};

struct Setup {
  const RegistrationNode* node = nullptr;
  std::size_t plugin = 0;
  enum class Progress : std::uint8_t { waiting, running, done } progress = Progress::waiting;
};

/// All that is known of plugins. Made from the list of registrations when first needed.
struct Host {
  std::recursive_mutex mutex;
  const RegistrationNode* made_from = nullptr;
  unsigned made_from_list = 0;
  bool made = false;
  std::uint64_t version = 1;
  PluginSelection selection;
  std::vector<Record> records;                         // by name, origin, file
  std::unordered_map<std::string_view, Links> groups;  // in the order of records, then of lines
  std::list<SetupRegistration> registrations;
  // What registries that were handed out point into.
  std::list<SetupRegistration> old_registrations;
  std::list<std::vector<Record>> old_records;
  std::vector<Setup> setups;
  std::deque<SetupContext> contexts;  // a plugin may keep a reference, which must not dangle
  std::vector<std::string> duplicates;
};

Host& host() {
  // Never destroyed: what lives longer than main may still hold registered values.
  static Host* const the_host = new Host;  // NOLINT
  return *the_host;
}

std::string_view stem(std::string_view file) {
  if (const std::size_t slash = file.rfind('/'); slash != std::string_view::npos) {
    file.remove_prefix(slash + 1);
  }
  return file.substr(0, file.find('.'));
}

bool is_plugin_name(std::string_view name) {
  return !name.empty() && name.front() != '-' && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
}

/// What is wrong with a name to register, or "".
std::string name_problem(std::string_view name, Origin origin, std::string_view group) {
  if (!name.empty() && name.find(':') == std::string_view::npos) return {};
  const std::size_t at = name.find("::");
  const bool scoped = at != std::string_view::npos && at > 0;
  if (name.empty() || (scoped && at + 2 == name.size())) {
    return fmt::format("{} registered under an empty name", internal::noun_of(group));
  }
  const std::string_view scope = scoped ? name.substr(0, at) : name_of(origin);
  if ((scope == "custom" || scope == "builtin") && scope != name_of(origin)) {
    return fmt::format("{} '{}' is registered from the {} folder", internal::noun_of(group),
                       printable(name), name_of(origin));
  }
  return {};
}

void fail(Record& record, std::string reason, std::vector<std::string> trace = {}) {
  if (record.state == PluginState::failed) return;  // the first reason is the cause
  record.state = PluginState::failed;
  record.problem =
      std::make_unique<Record::Problem>(Record::Problem{std::move(reason), std::move(trace)});
  ++host().version;
}

std::string failure_text(const Record& record) {
  return fmt::format("plugin '{}' ({}) failed: {}", printable(record.name), record.place(),
                     record.reason());
}

[[noreturn]] void throw_failure(const Record& record) {
  throw Error(failure_text(record), fmt::format("leave it out with --plugins=-{}, or run without "
                                                "--strict",
                                                printable(record.name)));
}

bool is_declaration(const RegistrationNode& node) { return std::strcmp(node.group, "plugin") == 0; }

void check_node(Record& record, const RegistrationNode& node) {
  const auto refuse = [&](const std::string& what) {
    fail(record, fmt::format("{}:{}: {}", node.file, node.line, what));
  };
  if (node.name_count == 0) {
    refuse(fmt::format("{} registered without a name", internal::noun_of(node.group)));
  }
  for (int i = 0; i < node.name_count; ++i) {
    const char* const name = node.names[i].text;
    const std::string problem = name_problem(name == nullptr ? "" : name, node.origin, node.group);
    if (!problem.empty()) refuse(problem);
  }
  if (!node.is_usable(node.value)) {
    const char* const name = node.name_count > 0 ? node.names[0].text : nullptr;
    refuse(fmt::format("{} '{}' is null", internal::noun_of(node.group),
                       printable(name == nullptr ? "" : name)));
  }
}

void check_records(Host& all) {
  for (std::size_t i = 0; i < all.records.size(); ++i) {
    Record& record = all.records[i];
    if (record.name == "custom" || record.name == "builtin") {
      fail(record, fmt::format("'{}' is the name of a folder", record.name));
    } else if (!is_plugin_name(record.name)) {
      fail(record, fmt::format("a plugin's name is made of letters, digits, '_', '-' and '.', got "
                               "'{}'",
                               printable(record.name)));
    } else if (record.interface_version != plugin_interface) {
      fail(record, fmt::format("it was written for version {} of the plugin interface, this tcast "
                               "has version {}",
                               record.interface_version, plugin_interface));
    }
    for (const std::size_t other : {i - 1, i + 1}) {
      if (other >= all.records.size()) continue;
      const Record& near = all.records[other];
      if (near.name != record.name || near.origin != record.origin) continue;
      fail(record, fmt::format("another plugin has the same name: {}", near.place()));
    }
  }
}

/// One word of a selection: the plugins that it names.
std::vector<std::size_t> find_selected(const Host& all, std::string_view word) {
  std::vector<std::size_t> found;
  std::string_view name = word;
  std::optional<Origin> origin;
  for (const Origin one : {Origin::custom, Origin::builtin}) {
    const std::string_view scope = name_of(one);
    if (word == scope) {
      origin = one;
      name = {};
    } else if (word.substr(0, scope.size()) == scope && word.substr(scope.size(), 2) == "::") {
      origin = one;
      name = word.substr(scope.size() + 2);
    }
  }
  for (std::size_t i = 0; i < all.records.size(); ++i) {
    const Record& record = all.records[i];
    if (origin && record.origin != *origin) continue;
    if (name.empty() || record.name == name) found.push_back(i);
  }
  // A plain name means the custom one, when both folders have it.
  if (!origin && found.size() > 1) {
    const auto custom = std::find_if(found.begin(), found.end(), [&](std::size_t i) {
      return all.records[i].origin == Origin::custom;
    });
    if (custom != found.end()) found = {*custom};
  }
  if (found.empty() && !(origin && name.empty())) {
    std::vector<std::string> known;
    for (const Record& record : all.records) known.emplace_back(record.name);
    throw Error(fmt::format("{}: unknown plugin '{}'", all.selection.source, printable(word)),
                did_you_mean(word, known, "see 'tcast plugins'"));
  }
  return found;
}

void apply_selection(Host& all) {
  if (!all.selection.names) return;
  std::vector<std::string> words = split(*all.selection.names, ',');
  for (std::string& word : words) {
    const std::size_t first = word.find_first_not_of(' ');
    word = first == std::string::npos ? ""
                                      : word.substr(first, word.find_last_not_of(' ') - first + 1);
  }
  words.erase(std::remove(words.begin(), words.end(), ""), words.end());
  const bool only_exclusions =
      !words.empty() && std::all_of(words.begin(), words.end(),
                                    [](const std::string& word) { return word.front() == '-'; });
  std::vector<bool> chosen(all.records.size(), only_exclusions);
  for (const bool excluding : {false, true}) {
    for (const std::string& word : words) {
      if ((word.front() == '-') != excluding) continue;
      for (const std::size_t i :
           find_selected(all, std::string_view(word).substr(excluding ? 1 : 0))) {
        chosen[i] = !excluding;
      }
    }
  }
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i]) continue;
    all.records[i].state = PluginState::disabled;
    all.records[i].problem = std::make_unique<Record::Problem>(
        Record::Problem{fmt::format("not selected by {}", all.selection.source), {}});
  }
}

/// Makes the table from the list of registrations, unless it is up to date. Throws Error for a
/// selection that names nobody.
Host& made_host() {
  Host& all = host();
  if (all.made && all.made_from == first_registration() &&
      all.made_from_list == registration_lists()) {
    return all;
  }
  all.made = false;
  if (!all.records.empty()) all.old_records.push_back(std::exchange(all.records, {}));
  all.groups.clear();
  all.old_registrations.splice(all.old_registrations.end(), all.registrations);
  all.setups.clear();
  all.duplicates.clear();
  ++all.version;

  std::vector<Record> records;
  Links links;
  // There may be thousands: memory that is touched for the first time costs more than what is done
  // with it.
  std::size_t total = 0;
  std::size_t files = 0;
  const char* last_file = nullptr;
  for (const RegistrationNode* node = first_registration(); node != nullptr; node = node->next) {
    ++total;
    if (node->file != std::exchange(last_file, node->file)) ++files;
  }
  links.reserve(total);
  records.reserve(files);
  TextIndex index(files);
  last_file = nullptr;
  std::size_t last_plugin = 0;
  for (const RegistrationNode* node = first_registration(); node != nullptr; node = node->next) {
    // The registrations of a file stand together.
    if (node->file != last_file) {
      last_file = node->file;
      last_plugin = index.insert(node->file, records.size());
      if (last_plugin == records.size()) {
        Record& fresh = records.emplace_back();
        fresh.name = stem(node->file);
        fresh.origin = node->origin;
        fresh.file = node->file;
        fresh.line = std::numeric_limits<int>::max();
      }
    }
    links.push_back({node, last_plugin});
    Record& record = records[last_plugin];
    if (!is_declaration(*node)) {
      if (!record.declared) record.line = std::min(record.line, node->line);
      continue;
    }
    const bool named = node->name_count > 0 && node->names[0].text != nullptr;
    record.name = named ? node->names[0].text : "";
    record.line = node->line;
    record.declared = true;
    record.interface_version =
        static_cast<const PluginDeclaration*>(node->value)->interface_version;
  }

  std::vector<std::size_t> order(records.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) {
    const Record& a = records[x];
    const Record& b = records[y];
    if (const int difference = a.name.compare(b.name); difference != 0) return difference < 0;
    return std::tie(a.origin, a.file) < std::tie(b.origin, b.file);
  });
  std::vector<std::size_t> place(records.size());
  for (std::size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
  for (std::size_t to = 0; to < order.size(); ++to) {
    std::size_t from = order[to];
    while (from < to) from = order[from];  // where swapping has put it
    if (from != to) std::swap(records[to], records[from]);
  }
  all.records = std::move(records);
  check_records(all);

  for (Link& link : links) link.plugin = place[link.plugin];
  std::sort(links.begin(), links.end(), [](const Link& a, const Link& b) {
    return a.plugin != b.plugin ? a.plugin < b.plugin : a.node->line < b.node->line;
  });
  for (const Link& link : links) {
    if (is_declaration(*link.node)) continue;
    check_node(all.records[link.plugin], *link.node);
    all.groups[link.node->group].push_back(link);
  }
  for (const Link& link : all.groups["setup"]) {
    all.setups.push_back({link.node, link.plugin, Setup::Progress::waiting});
  }
  apply_selection(all);
  all.made_from = first_registration();
  all.made_from_list = registration_lists();
  all.made = true;
  return all;
}

std::string message_of(const std::exception& error) {
  return error.what() == nullptr ? "it gave no reason" : error.what();
}

/// "where: what", then what caused it, and so on.
void add_causes(const std::exception& error, std::vector<std::string>& trace) {
  std::string text = message_of(error);
  if (const auto* known = dynamic_cast<const Error*>(&error); known != nullptr) {
    if (!known->hint().empty()) text += fmt::format(" ({})", known->hint());
  }
  trace.push_back(fmt::format("{}{}", trace.empty() ? "" : "caused by: ", text));
  try {
    std::rethrow_if_nested(error);
  } catch (const std::exception& cause) {
    add_causes(cause, trace);
  } catch (...) {
    trace.emplace_back("caused by: something that is no std::exception");
  }
}

void run_setup(Host& all, std::size_t at) {
  Record& record = all.records[all.setups[at].plugin];
  const RegistrationNode& node = *all.setups[at].node;
  all.setups[at].progress = Setup::Progress::running;
  SetupContext& context =
      all.contexts.emplace_back(all.setups[at].plugin, std::string(record.name), node);
  std::string reason;
  std::vector<std::string> trace;
  Registered callee;
  callee.pattern = record.name;
  callee.origin = record.origin;
  callee.line = node.line;
  callee.file = LastingText(std::string_view(node.file));
  callee.plugin = record.name;
  callee.noun = "set-up function";
  try {
    const internal::ActiveCall active(callee);
    (*static_cast<const SetupFunction*>(node.value))(context);
  } catch (const std::exception& error) {
    add_causes(error, trace);
    reason = message_of(error);
  } catch (...) {
    trace.emplace_back("something that is no std::exception");
    reason = trace.back();
  }
  context.close();
  all.setups[at].progress = Setup::Progress::done;
  if (trace.empty()) return;
  trace.insert(trace.begin(), fmt::format("{}:{}: in the set-up function of plugin '{}'", node.file,
                                          node.line, record.name));
  fail(record, fmt::format("its set-up function ({}:{}) threw: {}", node.file, node.line, reason),
       std::move(trace));
  if (all.selection.strict) throw_failure(record);
}

bool announces(const RegistrationNode& node, std::string_view group) {
  for (int i = 0; i < node.name_count; ++i) {
    if (group.empty() || matches_pattern(group, node.names[i].text)) return true;
  }
  return false;
}

}  // namespace

std::string_view name_of(PluginState state) {
  constexpr std::string_view names[] = {"loaded", "disabled", "failed"};
  return names[static_cast<std::size_t>(state)];
}

void select_plugins(const PluginSelection& selection) {
  Host& all = host();
  const std::lock_guard lock(all.mutex);
  if (!(all.selection == selection)) {
    const PluginSelection before = all.selection;
    all.selection = selection;
    all.made = false;
    try {
      made_host();
    } catch (const Error&) {
      all.selection = before;
      throw;
    }
  }
  made_host();
  if (!selection.strict) return;
  for (const Record& record : all.records) {
    if (record.state == PluginState::failed) throw_failure(record);
  }
}

std::vector<Plugin> plugins() {
  const std::lock_guard lock(host().mutex);
  const Host& all = made_host();
  std::vector<Plugin> list;
  for (const Record& record : all.records) {
    list.push_back({std::string(record.name),
                    record.origin,
                    std::string(record.file),
                    record.line,
                    record.interface_version,
                    record.state,
                    record.reason(),
                    record.trace(),
                    {}});
  }
  for (const auto& [group, links] : all.groups) {
    for (const auto& [node, plugin] : links) {
      PluginItem item{std::string(group), {}, node->file, node->line};
      for (int i = 0; i < node->name_count; ++i) {
        item.names.emplace_back(node->names[i].text == nullptr ? "" : node->names[i].text);
      }
      list[plugin].items.push_back(std::move(item));
    }
  }
  for (const SetupRegistration& one : all.registrations) {
    list[one.plugin].items.push_back({one.group, one.names, one.file, one.line});
  }
  for (Plugin& plugin : list) {
    std::sort(plugin.items.begin(), plugin.items.end(), [](const auto& a, const auto& b) {
      return std::tie(a.group, a.file, a.line, a.names) <
             std::tie(b.group, b.file, b.line, b.names);
    });
  }
  return list;
}

void run_setups(std::string_view group) {
  const std::lock_guard lock(host().mutex);
  Host& all = made_host();
  for (std::size_t i = 0; i < all.setups.size(); ++i) {
    const Setup& setup = all.setups[i];
    const Record& record = all.records[setup.plugin];
    if (setup.progress == Setup::Progress::done || record.state != PluginState::loaded) continue;
    if (!announces(*setup.node, group)) continue;
    if (setup.progress == Setup::Progress::running) {
      throw Error(
          fmt::format("the set-up function of plugin '{}' ({}:{}) asks for the group '{}', "
                      "which it is announced for itself",
                      record.name, setup.node->file, setup.node->line, group.empty() ? "*" : group),
          "ask the context instead: context.is_taken(group, name)");
    }
    run_setup(all, i);
  }
}

std::vector<PluginProblem> plugin_problems() {
  const std::lock_guard lock(host().mutex);
  const Host& all = made_host();
  std::vector<PluginProblem> problems;
  for (const Record& record : all.records) {
    if (record.state != PluginState::failed) continue;
    problems.push_back({failure_text(record), record.trace()});
  }
  for (const std::string& text : all.duplicates) problems.push_back({text, {}});
  return problems;
}

std::string missing_plugin_hint(std::string_view group, std::string_view name) {
  const std::lock_guard lock(host().mutex);
  const Host& all = made_host();
  if (const auto nodes = all.groups.find(group); nodes != all.groups.end()) {
    for (const auto& [node, plugin] : nodes->second) {
      const Record& record = all.records[plugin];
      if (record.state != PluginState::disabled) continue;
      for (int i = 0; i < node->name_count; ++i) {
        if (!matches_pattern(name, node->names[i].text)) continue;
        return fmt::format("the plugin '{}' ({}:{}) registers it, but is {}", record.name,
                           node->file, node->line, record.reason());
      }
    }
  }
  for (const Setup& setup : all.setups) {
    const Record& record = all.records[setup.plugin];
    if (record.state == PluginState::loaded || !announces(*setup.node, group)) continue;
    return fmt::format("the plugin '{}' might register it, but {}: {}", record.name,
                       record.state == PluginState::failed ? "failed" : "is disabled",
                       record.reason());
  }
  return {};
}

// --- what registries are made of -----------------------------------------------------------------

namespace internal {

bool is_valid_name(const char* name, Origin origin) {
  return name != nullptr && name_problem(name, origin, "").empty();
}

std::string noun_of(std::string_view group) {
  if (group == "custom_model") return "hook";  // as users know it
  std::string noun(group);
  std::replace(noun.begin(), noun.end(), '_', ' ');
  return noun;
}

LastingText lasting_noun_of(std::string_view group) {
  // Never destroyed, as what refers to it.
  static auto* const nouns = new std::map<std::string, std::string, std::less<>>;  // NOLINT
  const std::lock_guard lock(host().mutex);
  const auto known = nouns->find(group);
  if (known != nouns->end()) return known->second;
  return nouns->emplace(std::string(group), noun_of(group)).first->second;
}

std::uint64_t registrations_version() {
  const std::lock_guard lock(host().mutex);
  return made_host().version;
}

std::vector<LiveRegistration> live_registrations(std::string_view group,
                                                 const std::type_info& type) {
  const std::lock_guard lock(host().mutex);
  Host& all = made_host();
  std::vector<LiveRegistration> live;
  const auto wrong_type = [&](Record& record, std::string_view file, int line) {
    fail(record, fmt::format("{}:{}: registers another type of value than the group '{}' holds",
                             file, line, group));
    if (all.selection.strict) throw_failure(record);
  };
  if (const auto nodes = all.groups.find(group); nodes != all.groups.end()) {
    live.reserve(nodes->second.size());
    for (const auto& [node, plugin] : nodes->second) {
      Record& record = all.records[plugin];
      if (record.state == PluginState::disabled) continue;
      if (*node->type != type) {
        wrong_type(record, node->file, node->line);
        continue;
      }
      if (!node->is_usable(node->value)) continue;
      live.push_back({node->value, node->origin, node->names, node->name_count, node->file,
                      node->line, record.name, record.reason()});
    }
  }
  for (const SetupRegistration& made : all.registrations) {
    if (made.group != group) continue;
    Record& record = all.records[made.plugin];
    if (*made.type != type) {
      wrong_type(record, made.file, made.line);
      continue;
    }
    live.push_back({made.value.get(), record.origin, made.registered.data(),
                    static_cast<int>(made.registered.size()), made.file.c_str(), made.line,
                    record.name, record.reason()});
  }
  return live;
}

void add_setup_registration(SetupRegistration registration) {
  Host& all = host();
  const std::lock_guard lock(all.mutex);
  SetupRegistration& made = all.registrations.emplace_back(std::move(registration));
  for (const std::string& name : made.names) {
    made.registered.emplace_back(name.c_str(), made.overrides);
  }
  ++all.version;
}

void note_duplicates(const std::vector<std::string>& messages) {
  if (messages.empty()) return;
  Host& all = host();
  const std::lock_guard lock(all.mutex);
  for (const std::string& text : messages) {
    if (std::find(all.duplicates.begin(), all.duplicates.end(), text) == all.duplicates.end()) {
      all.duplicates.push_back(text);
    }
  }
  std::sort(all.duplicates.begin(), all.duplicates.end());
  if (all.selection.strict) throw Error(all.duplicates.front(), "remove one of the two");
}

}  // namespace internal

// --- the context of set-up functions -------------------------------------------------------------

bool SetupContext::is_taken(std::string_view group, std::string_view name) const {
  const std::lock_guard lock(host().mutex);
  const Host& all = made_host();
  if (const auto nodes = all.groups.find(group); nodes != all.groups.end()) {
    for (const auto& [node, plugin] : nodes->second) {
      if (all.records[plugin].state == PluginState::disabled) continue;
      for (int i = 0; i < node->name_count; ++i) {
        if (node->names[i].text != nullptr && name == node->names[i].text) return true;
      }
    }
  }
  return std::any_of(
      all.registrations.begin(), all.registrations.end(), [&](const SetupRegistration& made) {
        return made.group == group &&
               std::find(made.names.begin(), made.names.end(), name) != made.names.end();
      });
}

void SetupContext::check(const std::string& group, const std::vector<std::string>& names,
                         bool usable, const char* file, int line) const {
  const std::string noun = internal::noun_of(group);
  const auto refuse = [&](const std::string& what, const std::string& hint) {
    throw Error(fmt::format("{}:{}: {}", file, line, what), hint);
  };
  if (!open_) {
    refuse(
        fmt::format("plugin '{}' registers a {} after its set-up function returned", name_, noun),
        "register in the set-up function only");
  }
  if (group.empty()) refuse("registered into a group without a name", "name the group");
  if (!announces(announced_, group)) {
    refuse(fmt::format("the set-up function of plugin '{}' registers into the group '{}', which it "
                       "is not announced for",
                       name_, group),
           fmt::format("add \"{}\" to its TCAST_REGISTER_SETUP", group));
  }
  if (names.empty()) {
    refuse(fmt::format("{} registered without a name", noun), "give it at least one name");
  }
  const Host& all = host();
  for (const std::string& name : names) {
    const std::string problem = name_problem(name, all.records.at(plugin_).origin, group);
    if (!problem.empty()) refuse(problem, "give it a name or a pattern");
  }
  if (!usable) {
    refuse(fmt::format("{} '{}' is null", noun, printable(names.front())),
           "register a function or an object");
  }
}

}  // namespace tcast
