#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tcast/base/export.h"

namespace tcast {

/// Where something comes from that was chosen by its name: a device, a hook, a profile.
struct TCAST_API Provenance {
  enum class From : std::uint8_t { builtin, plugin, file, host };

  std::string kind{};  ///< "device"
  std::string name{};  ///< as it is registered
  From from = From::builtin;
  std::string plugin{};           ///< empty: it is no plugin's
  std::string file{};             ///< that registers or describes it
  int line = 0;                   ///< 0: the file as a whole
  bool replaces_builtin = false;  ///< a plugin's in place of a builtin one of the same name

  bool operator==(const Provenance&) const = default;
};

/// "builtin", "plugin", "file", "host".
TCAST_API std::string_view name_of(Provenance::From from);

/// "builtin", "of plugin 'mine' (custom_model/mine.cpp:12), in place of the builtin one", "the file
/// my.yaml", "this host".
TCAST_API std::string to_string(const Provenance& provenance);

}  // namespace tcast
