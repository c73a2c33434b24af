# Flags and helpers for our own targets. Nothing here touches global flags.

# Warnings, visibility and sanitizers for one target.
function(tcast_target target)
  file(RELATIVE_PATH source_from_build ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR})
  string(REGEX REPLACE "/$" "" source_from_build "${source_from_build}")
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/lib)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor
    -fvisibility=hidden
    # __FILE__ in registrations and messages is relative to the project, wherever it was built
    # (ccache with a base directory hands relative paths to the compiler).
    -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/= -fmacro-prefix-map=${source_from_build}/=)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # g++ 12 sees overlaps in std::string that are not there (GCC bug 105651).
    target_compile_options(${target} PRIVATE -Wno-restrict)
  endif()
  target_compile_options(${target} PRIVATE
    # Debug means: assertions on, yet fast enough to run every test.
    $<$<CONFIG:Debug>:-Og> $<$<CONFIG:Debug>:-D_GLIBCXX_ASSERTIONS>
    $<$<CONFIG:Release>:-ffunction-sections> $<$<CONFIG:Release>:-fdata-sections>)
  target_link_options(${target} PRIVATE $<$<CONFIG:Release>:-Wl,--gc-sections>)
  if(TCAST_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(TCAST_COVERAGE)
    target_compile_options(${target} PRIVATE --coverage)
    target_link_options(${target} PRIVATE --coverage)
  endif()
  if(TCAST_SANITIZE)
    target_compile_options(${target} PRIVATE
      -fsanitize=${TCAST_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=${TCAST_SANITIZE})
  endif()
  if(TCAST_FUZZ)
    # What fuzz targets are led by; everything else may be linked with it all the same.
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# An OBJECT library of all sources in a folder of models. A new file needs no edit here; an absent
# or empty folder gives a library with one stub.
function(tcast_model_library target folder origin)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  set(stub ${PROJECT_BINARY_DIR}/${target}_stub.cpp)
  if(NOT EXISTS ${stub})
    file(WRITE ${stub} "// Keeps ${target} a library when the folder has no sources.\n")
  endif()
  add_library(${target} OBJECT ${sources} ${stub})
  target_compile_definitions(${target} PRIVATE TCAST_MODEL_ORIGIN=${origin})
  target_link_libraries(${target} PRIVATE tcast_dependencies)
  set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)
  tcast_target(${target})
endfunction()

# yaml-cpp as a static library (its shared one is the only dependency besides oneDNN that would have
# to be installed where tcast runs).
function(tcast_find_yaml_cpp)
  find_package(yaml-cpp REQUIRED)
  find_library(TCAST_YAML_CPP_STATIC libyaml-cpp.a REQUIRED)
  mark_as_advanced(TCAST_YAML_CPP_STATIC)
  add_library(tcast_yaml_cpp INTERFACE)
  target_link_libraries(tcast_yaml_cpp INTERFACE ${TCAST_YAML_CPP_STATIC})
  if(DEFINED YAML_CPP_INCLUDE_DIR)
    target_include_directories(tcast_yaml_cpp SYSTEM INTERFACE ${YAML_CPP_INCLUDE_DIR})
  endif()
endfunction()
