#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/units.h"
#include "tcast/config/node.h"

namespace tcast {

/// Sizes by key.
using ConfigSizes = std::vector<std::pair<std::string, std::int64_t>>;

/// A HuggingFace config.json: immutable, typed, located. Keys have aliases (`n_layer` for
/// `num_hidden_layers`, ...), which are tried after the key itself. It remembers which top-level
/// and nested keys were looked at, so that a report can list those that nothing looked at; copies
/// and nested configs share that memory, so one file belongs to one thread.
class TCAST_API HfConfig {
 public:
  /// Reads a config.json, or the one in the given directory; of "name@place", where no such file
  /// is, what the name resolver `place` makes of it. Throws Error.
  static HfConfig load(const std::string& path);

  /// Parses a text; `file` is for messages. Throws Error.
  static HfConfig parse(std::string_view text, const std::string& file);

  /// Keys and values as they are written, without marking them as read.
  std::vector<std::pair<std::string, Node>> members() const { return root_.members(); }

  /// `model_type`; throws Error with what to do when it is missing (a diffusers file has
  /// `_class_name` instead and is named by that).
  std::string model_type() const;

  /// The file as the user named it.
  const std::string& file() const;

  /// The path of keys to this map in its file ("text_config.quantization_config"); "" for the
  /// whole.
  std::string path() const { return root_.path(); }

  /// The folder that holds the model's files, of a config.json or a directory that was loaded; else
  /// empty: what lies beside a file of another name need not belong to it.
  const std::string& folder() const { return folder_; }

  /// True when the key, or one of its aliases, is there with a value other than null.
  bool has(std::string_view key) const;

  /// True when the key itself is there and null: often "switched off" where absent means a default.
  bool is_null(std::string_view key) const;

  /// Value of `key` or of one of its aliases; null counts as absent. Throws Error when it has
  /// another type. T is bool, std::int64_t, double, std::string, std::vector<std::int64_t>,
  /// std::vector<std::string>.
  template <class T>
  std::optional<T> find(std::string_view key) const;

  /// Like find(), but absent is an Error that names the key, its aliases and the closest key there.
  template <class T>
  T get(std::string_view key) const;

  /// Like find() with a value for absent.
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

  /// This config with the values that `outer` has for some keys which are absent here: what the
  /// config of a whole model says of its parts.
  HfConfig with_defaults_of(const HfConfig& outer, std::vector<std::string> keys) const;

  /// The raw node of a key, marked as read with all below it; nothing when absent or null.
  std::optional<Node> node(std::string_view key) const;

  /// The same config with other sizes, under every name that the size has in it; under the given
  /// one where it has none. Messages about it have other places than those in the file; what the
  /// config of the whole model says stays.
  HfConfig with_sizes(const ConfigSizes& sizes) const;

  /// Checkpoint dtype: `torch_dtype` or `dtype`; nothing when absent. Throws Error for anything but
  /// float32, float16 and bfloat16: it is the dtype of what is not quantized.
  std::optional<DType> checkpoint_dtype() const;

  /// Key paths that nothing has read so far, in document order; keys that cannot matter for
  /// structure, memory or speed (token ids, dropout, initializer_range, auto_map, ...) left out,
  /// and those that another key switches off (max_window_layers without use_sliding_window).
  std::vector<std::string> unread_keys() const;

  /// Throws Error located at `key` (or at the file when it is absent): "<place>: <message>".
  [[noreturn]] void fail(std::string_view key, std::string_view message,
                         std::string hint = {}) const;

 private:
  struct State;
  HfConfig(std::shared_ptr<State> state, Node root);
  static HfConfig from_root(Node root);

  /// The value of a key or alias, marked as read without what is below it; nothing when absent.
  std::optional<Node> lookup(std::string_view key) const;
  void mark_all(const Node& node) const;
  std::string place_of_missing(std::string_view key) const;
  [[noreturn]] void fail_missing(std::string_view key) const;

  std::shared_ptr<State> state_;  // read marks, shared with nested configs of the same file
  Node root_;
  std::string folder_;
  std::shared_ptr<const HfConfig> outer_;  // that copies of this one share; null: none
  std::vector<std::string> outer_keys_;    // those that it is asked for
};

}  // namespace tcast
