# LibTorch as the PyPI wheel lays it out. Its own TorchConfig insists on a CUDA toolkit and links all of CUDA; a kerf that
# runs on a CPU needs libtorch_cpu and libc10 alone. LIBTORCH (variable or environment) is the folder with include/ and lib/.
if(NOT LIBTORCH)
    set(LIBTORCH "$ENV{LIBTORCH}")
endif()
if(NOT LIBTORCH)
    set(LIBTORCH "${PROJECT_SOURCE_DIR}/.deps/libtorch/torch")
endif()
set(LIBTORCH "${LIBTORCH}" CACHE PATH "Folder of LibTorch, with include/ and lib/" FORCE)

find_path(LibTorch_INCLUDE_DIR ATen/ATen.h PATHS "${LIBTORCH}/include" NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS "${LIBTORCH}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS "${LIBTORCH}/lib" NO_DEFAULT_PATH)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
    REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
    REASON_FAILURE_MESSAGE "no LibTorch in ${LIBTORCH} (./bootstrap build fetches it, LIBTORCH=/dir uses your own)")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
    add_library(LibTorch::LibTorch INTERFACE IMPORTED)
    set_target_properties(LibTorch::LibTorch PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
        INTERFACE_LINK_LIBRARIES "${LibTorch_CPU_LIBRARY};${LibTorch_C10_LIBRARY}")
    file(STRINGS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h" LibTorch_VERSION_LINES REGEX "TORCH_VERSION_(MAJOR|MINOR|PATCH)")
    set(LibTorch_VERSION "")
    foreach(line IN LISTS LibTorch_VERSION_LINES)
        if(line MATCHES "TORCH_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+)")
            string(APPEND LibTorch_VERSION "${CMAKE_MATCH_2}.")
        endif()
    endforeach()
    string(REGEX REPLACE "\\.$" "" LibTorch_VERSION "${LibTorch_VERSION}")
endif()
