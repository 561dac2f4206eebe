# kerf_add_plugin(NAME SOURCES file... [LINK library...] [TORCH])
#
# Builds kerf-NAME.so: a module with one exported symbol and everything else hidden. In C or C++. TORCH is for plugins that
# include kerf/torch.hpp: it links LibTorch (find_package(LibTorch) or find_package(Torch) comes first) and stamps its version
# into the manifest.
# Variables: KERF_PLUGIN_OUTPUT_DIRECTORY (where the file is built), KERF_PLUGIN_INSTALL_DIR (default lib/kerf, where an
# installed kerf looks).
function(kerf_add_plugin name)
    set(exports "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/kerf-plugin.map")
    cmake_parse_arguments(arg "TORCH" "" "SOURCES;LINK" ${ARGN})
    if(NOT arg_SOURCES OR arg_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "kerf_add_plugin(${name}): SOURCES file... [LINK library...] [TORCH] is what it takes")
    endif()
    add_library(${name} MODULE ${arg_SOURCES})
    target_link_libraries(${name} PRIVATE kerf::sdk ${arg_LINK})
    # Asked of the files that there are: a plugin in C alone needs no C++ compiler.
    foreach(file IN LISTS arg_SOURCES)
        if(file MATCHES "\\.c$")
            target_compile_features(${name} PRIVATE c_std_11)
        else()
            target_compile_features(${name} PRIVATE cxx_std_20)
        endif()
    endforeach()
    set_target_properties(${name} PROPERTIES
        PREFIX "kerf-" SUFFIX ".so"
        POSITION_INDEPENDENT_CODE ON C_EXTENSIONS OFF CXX_EXTENSIONS OFF
        C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
        LINK_DEPENDS "${exports}")
    # No fused multiply-add behind the author's back: the same source gives the same bytes whatever the compiler.
    target_compile_options(${name} PRIVATE -ffp-contract=off $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-gnu-unique>)
    target_link_options(${name} PRIVATE "LINKER:--version-script=${exports}")
    if(arg_TORCH)
        target_compile_definitions(${name} PRIVATE KERF_PLUGIN_USES_TORCH)
        if(TARGET LibTorch::LibTorch)
            target_link_libraries(${name} PRIVATE LibTorch::LibTorch)
        elseif(TORCH_LIBRARIES)
            target_link_libraries(${name} PRIVATE ${TORCH_LIBRARIES})
        else()
            message(FATAL_ERROR "kerf_add_plugin(${name} TORCH): find_package(Torch) has to come first")
        endif()
    endif()
    if(KERF_PLUGIN_OUTPUT_DIRECTORY)
        set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${KERF_PLUGIN_OUTPUT_DIRECTORY}")
    endif()
    if(COMMAND kerf_settings)  # inside kerf's own tree
        kerf_settings(${name})
    endif()
    if(NOT KERF_PLUGIN_INSTALL_DIR)
        set(KERF_PLUGIN_INSTALL_DIR lib/kerf)
    endif()
    install(TARGETS ${name} LIBRARY DESTINATION ${KERF_PLUGIN_INSTALL_DIR})
endfunction()

# kerf_kernel_library(NAME SOURCES file...)
#
# A static library for plugins and their tests to link: SOURCES and kernels, one body compiled once for each instruction set,
# which are kernel_portable.cpp and, on x86, kernel_avx2.cpp and kernel_avx512.cpp. These include kernel_body.inl (see
# kerf/panel_kernels.hpp). KERF_KERNELS_X86 says in the source that the last two are there; kerf::best_isa() says which of
# them the processor can run.
function(kerf_kernel_library target)
    cmake_parse_arguments(arg "" "" "SOURCES" ${ARGN})
    add_library(${target} STATIC ${arg_SOURCES})
    target_include_directories(${target} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
    target_link_libraries(${target} PUBLIC kerf::sdk)
    target_compile_features(${target} PUBLIC cxx_std_20)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
        VISIBILITY_INLINES_HIDDEN ON)
    # Fused multiply-adds only where the source says so, and no reordering: every instruction set gives the same bytes. The
    # other two let min, max and rounding become vector instructions.
    target_compile_options(${target} PRIVATE -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math)
    target_sources(${target} PRIVATE kernel_portable.cpp)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        target_sources(${target} PRIVATE kernel_avx2.cpp kernel_avx512.cpp)
        target_compile_definitions(${target} PUBLIC KERF_KERNELS_X86)
        set_source_files_properties(kernel_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma")
        set_source_files_properties(kernel_avx512.cpp PROPERTIES COMPILE_OPTIONS
            "-mavx512f;-mavx512vl;-mavx512dq;-mavx512bw;-mavx2;-mfma;-mprefer-vector-width=512")
    endif()
    set_source_files_properties(kernel_portable.cpp kernel_avx2.cpp kernel_avx512.cpp PROPERTIES
        OBJECT_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernel_body.inl)
    if(COMMAND kerf_settings)  # inside kerf's own tree
        kerf_settings(${target})
    endif()
endfunction()
