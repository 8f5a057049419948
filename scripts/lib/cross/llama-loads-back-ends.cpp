// Built into libllama.so where back ends are plug-ins (GGML_BACKEND_DL): loads those beside it.
//
// llama.cpp's programs load them in main(); a library that Python opens has no main(), and without a
// back end no model loads at all. A plug-in whose own libraries are missing is left out: CUDA's on a
// board without CUDA. The same wheel then computes on the CPU, where one that links CUDA could not
// even be imported.
#include <dlfcn.h>

#include <string>

#include "ggml-backend.h"

__attribute__((constructor)) static void load_back_ends() {
    Dl_info here;
    if (dladdr(reinterpret_cast<void *>(&load_back_ends), &here) == 0) {
        return;
    }
    const std::string path = here.dli_fname;
    ggml_backend_load_all_from_path(path.substr(0, path.rfind('/')).c_str());
}
