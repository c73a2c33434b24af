#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/units.h"
#include "tcast/config/config_class.h"
#include "tcast/config/node.h"

namespace tcast {

/// Sizes by key.
using ConfigSizes = std::vector<std::pair<std::string, std::int64_t>>;

/// A key that nothing read and nothing is known of.
struct UnreadKey {
  std::string path;       ///< "text_config.foo"
  std::string key;        ///< its last part
  bool of_model = false;  ///< it stands where the keys of the config class do
  std::string value;      ///< as JSON on one line, cut short
};

/// The dtype of a checkpoint, and what is to be said about where it was found (empty: nothing).
struct CheckpointDtype {
  DType dtype = DType::bf16;
  std::string remark;
};

/// A HuggingFace config.json: immutable, typed, located. With a ConfigClass a key has the class's
/// other names and its default. It remembers which top-level and nested keys were looked at, so
/// that a report can list those that nothing looked at; copies and nested configs share that
/// memory, so one file belongs to one thread. With a ConfigClass, keys that the class has not are
/// absent, whatever the file says: a family reads its own keys.
class TCAST_API HfConfig {
 public:
  /// Reads a config.json, or the one in the given directory; of "name@place", where no such file
  /// is, what the name resolver `place` makes of it. Throws Error.
  static HfConfig load(const std::string& name);

  /// Parses a text; `file` is for messages. Throws Error.
  static HfConfig parse(std::string_view text, const std::string& file);

  /// The same config seen as one of a class: with its names, and with its values for absent keys.
  /// Without `sizes`, those of hidden_size, num_hidden_layers, num_attention_heads, vocab_size and
  /// intermediate_size are not taken: another type's config has them, or is no such model.
  HfConfig as_class(const ConfigClass& config_class, bool sizes = true) const;

  /// The same config without its class: any key may be read, under the name that it has in the
  /// file.
  HfConfig as_written() const;

  /// The config of the text model alone: what stands under text_config (llm_config,
  /// language_config), else, where the parts of other towers have configs of their own, the config
  /// itself. What the whole config says of the checkpoint counts: its dtype, its
  /// quantization_config, whether the head is tied. Throws Error when there are no other towers.
  HfConfig text_part() const;

  /// True for what text_part() returned.
  bool is_part() const { return outer_ != nullptr; }

  /// Keys and values as they are written, without marking them as read.
  std::vector<std::pair<std::string, Node>> members() const { return root_.members(); }

  /// `model_type`, else what a diffusers file has instead, `_class_name`. Throws Error with what to
  /// do when both are missing.
  std::string model_type() const;

  /// The file as the user named it.
  const std::string& file() const;

  /// The path of keys to this map in its file ("text_config.quantization_config"); "" for the
  /// whole.
  std::string path() const { return root_.path(); }

  /// The folder that holds the model's files, of a config.json or a directory that was loaded; else
  /// empty: what lies beside a file of another name need not belong to it.
  const std::string& folder() const { return folder_; }

  /// True when the key, under one of its names, is there with a value other than null.
  bool has(std::string_view key) const;

  /// Whether the class has the key; without a class, any key.
  bool reads(std::string_view key) const;

  /// True when the key is there and null: often "switched off" where absent means a default.
  bool is_null(std::string_view key) const;

  /// Value of `key` under one of its names, else the class's default; nothing when it is null or
  /// there is no default. Throws Error when it has another type, and when two of its names have
  /// different values. T is bool, std::int64_t, double, std::string, std::vector<std::int64_t>,
  /// std::vector<std::string>.
  template <class T>
  std::optional<T> find(std::string_view key) const;

  /// Like find(), but nothing is an Error that names the key, its names and the closest key there.
  template <class T>
  T get(std::string_view key) const;

  /// Like find() with a value for nothing.
  template <class T>
  T get_or(std::string_view key, T otherwise) const {
    std::optional<T> found = find<T>(key);
    return found ? *std::move(found) : std::move(otherwise);
  }

  /// A size that must be a whole number >= 1 (and <= 2^40, so that products can be checked).
  std::int64_t get_size(std::string_view key) const;
  std::int64_t get_size_or(std::string_view key, std::int64_t otherwise) const;

  /// A map under `key` (`rope_scaling`, `text_config`, `quantization_config`) as a config of its
  /// own that shares the read marks; nothing when absent or null. Throws Error if not a map.
  std::optional<HfConfig> nested(std::string_view key) const;

  /// The raw node of a key, marked as read with all below it; nothing when absent or null.
  std::optional<Node> node(std::string_view key) const;

  /// Marks keys as known that another branch of the reader would have read.
  void know(std::initializer_list<std::string_view> keys) const;

  /// The same config with other sizes, under every name that the size has in it, else the class's
  /// own; "map.key" inside a map that has it. Messages about it have other places than the file's.
  HfConfig with_sizes(const ConfigSizes& sizes) const;

  /// Checkpoint dtype: `dtype` before `torch_dtype`, that of the whole config before that of its
  /// text part, as transformers 5 reads them; nothing when absent. Throws Error for anything but
  /// float32, float16 and bfloat16: it is the dtype of what is not quantized.
  std::optional<CheckpointDtype> checkpoint_dtype() const;

  /// Keys of the whole file, in document order, that nothing has read so far and that neither the
  /// config class nor the lists of harmless keys know.
  std::vector<UnreadKey> unread() const;

  /// The key of the config class that may have been meant by an unread one: the closest of those
  /// that the config has not set. Empty: none.
  std::string closest_unset(const UnreadKey& key) const;

  /// Defaults of the config class that were read for absent keys and are no "off" (null, false, 0,
  /// empty), in the order in which they were first read: "head_dim 128".
  std::vector<std::string> defaults_read() const;

  /// Name of the config class; empty: none.
  std::string_view class_name() const { return class_ == nullptr ? "" : class_->name; }

  /// Throws Error located at `key` (or at the file when it is absent): "<place>: <message>".
  [[noreturn]] void fail(std::string_view key, std::string_view message,
                         std::string hint = {}) const;

 private:
  struct State;
  HfConfig(std::shared_ptr<State> state, Node root);
  static HfConfig from_root(Node root);

  /// Names under which a key may stand in the file, the class's own first.
  std::vector<std::string_view> names_of(std::string_view key) const;
  /// The value of a key in the file, marked as read without what is below it; nothing when absent
  /// or null.
  std::optional<Node> lookup(std::string_view key) const;
  /// The class's default for a key that is absent; nothing when there is none or it is null.
  std::optional<Node> default_of(std::string_view key) const;
  void mark_all(const Node& node) const;
  bool is_known(const Node& map, std::string_view key, const Node& value) const;
  std::string place_of_missing(std::string_view key) const;
  [[noreturn]] void fail_missing(std::string_view key) const;

  std::shared_ptr<State> state_;  // read marks, shared with nested configs of the same file
  Node root_;
  std::string folder_;
  std::shared_ptr<const ConfigClass> class_;  // null: none
  std::shared_ptr<const Node> defaults_;      // of the class; null: none
  bool has_sizes_ = true;                     // of the class, for absent ones
  std::shared_ptr<const HfConfig> outer_;     // of the whole model, if this is a part; null: none
};

}  // namespace tcast
