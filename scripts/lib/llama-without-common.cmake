# Included by CMake when llama.cpp's own project begins (CMAKE_PROJECT_llama.cpp_INCLUDE).
# llama-cpp-python forces llama.cpp's "common" library on, a third of the build and a link to
# OpenSSL, though the bindings never load it. A plain variable set here wins over its cache entry.
set(LLAMA_BUILD_COMMON OFF)
