# Writes OUTPUT, a source file with a name for the kernels as they are: a digest of FILES and of
# FLAGS. Run at build time (cmake -P), so that it is never out of date.
set(all "${FLAGS}")
foreach(file IN LISTS FILES)
  file(SHA256 ${file} digest)
  string(APPEND all ${digest})
endforeach()
string(SHA256 digest "${all}")
string(SUBSTRING ${digest} 0 12 version)
file(WRITE ${OUTPUT}.new
  "namespace tcast {\nextern const char* const kernel_version;\nconst char* const kernel_version = \"${version}\";\n}  // namespace tcast\n")
file(RENAME ${OUTPUT}.new ${OUTPUT})
