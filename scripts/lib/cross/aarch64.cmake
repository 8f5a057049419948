# CMake's toolchain file for scripts/build-wheel: makes programs for 64-bit ARM on another machine.
# CUDA_TOOLKIT, where it is in the environment, is nvcc for this machine with ARM libraries beside it.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# Nothing of this machine's own is linked in: OpenMP comes with the compiler.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

if(DEFINED ENV{CUDA_TOOLKIT})
    set(CMAKE_CUDA_COMPILER $ENV{CUDA_TOOLKIT}/bin/nvcc)
    set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
    set(CMAKE_CUDA_FLAGS_INIT "-cudart shared")
    set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
endif()
