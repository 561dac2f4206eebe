# CUDA is found when present and never required. Nothing of kerf uses it yet, so the CUDA language stays off; the
# toolkit's version is reported, that a build log tells which machine it comes from.
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND)
    message(STATUS "CUDA toolkit ${CUDAToolkit_VERSION} in ${CUDAToolkit_BIN_DIR}: no part of this version needs it")
else()
    message(STATUS "No CUDA toolkit: kerf is built for the CPU")
endif()
