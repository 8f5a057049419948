"""Writes a model again with all its weights in 32-bit numbers: the same values, and kernels that
round no activation."""

import ctypes
import sys

import llama_cpp.llama_cpp as lib

LLAMA_FTYPE_ALL_F32 = 0

params = lib.llama_model_quantize_default_params()
params.ftype = LLAMA_FTYPE_ALL_F32
params.allow_requantize = True
source, target = (path.encode() for path in sys.argv[1:3])
sys.exit(lib.llama_model_quantize(source, target, ctypes.byref(params)))
