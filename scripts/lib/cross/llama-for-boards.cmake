# Included by CMake when llama.cpp's own project begins, for wheels that go to another machine.
include(${CMAKE_CURRENT_LIST_DIR}/llama-without-common.cmake)

function(edge_finish_targets)
    foreach(target llama ggml ggml-base ggml-cpu ggml-cuda)
        if(TARGET ${target})
            # A wheel has no links: libggml-cuda.so, .so.0 and .so.0.25.3 would be three copies.
            set_property(TARGET ${target} PROPERTY VERSION)
            set_property(TARGET ${target} PROPERTY SOVERSION)
            # This machine's folders are nothing to look for libraries in over there.
            set_property(TARGET ${target} PROPERTY INSTALL_RPATH_USE_LINK_PATH OFF)
        endif()
    endforeach()
    if(TARGET ggml-cuda)
        # JetPack tells ldconfig of it; a container may not.
        set_property(TARGET ggml-cuda APPEND PROPERTY INSTALL_RPATH /usr/local/cuda/lib64)
    endif()
    if(GGML_BACKEND_DL)
        target_sources(llama PRIVATE ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/llama-loads-back-ends.cpp)
    endif()
endfunction()

# The targets are made after this file has been read.
cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL edge_finish_targets)
