"""Prints the back ends that llama.cpp found for itself: CPU, CUDA."""

import ctypes
import sys

import llama_cpp.llama_cpp as lib

ggml = lib._lib
ggml.ggml_backend_reg_get.restype = ctypes.c_void_p
ggml.ggml_backend_reg_get.argtypes = [ctypes.c_size_t]
ggml.ggml_backend_reg_name.restype = ctypes.c_char_p
ggml.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
ggml.ggml_backend_reg_count.restype = ctypes.c_size_t
names = [
    ggml.ggml_backend_reg_name(ggml.ggml_backend_reg_get(number)).decode()
    for number in range(ggml.ggml_backend_reg_count())
]
sys.stdout.write(" ".join(sorted(names)) + "\n")
