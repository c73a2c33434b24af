#pragma once

/// Marks a declaration that shared-object plugins may use (architecture decision D11). Everything
/// else is hidden: the core is compiled with -fvisibility=hidden and linked whole into the program.
#define TCAST_API __attribute__((visibility("default")))
