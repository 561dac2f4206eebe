# Settings that every target of ours shares.
function(kerf_settings target)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Werror)
    # ccache with precompiled headers needs both; without them every build misses the cache.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>)
    if(KERF_SANITIZE)
        target_compile_options(${target} PRIVATE -fsanitize=${KERF_SANITIZE} -fno-omit-frame-pointer)
        target_link_options(${target} PRIVATE -fsanitize=${KERF_SANITIZE})
    endif()
endfunction()

# kerf_library(name [TORCH] [JSON] SOURCES ... LINK ...): one static library. With TORCH it sees LibTorch's headers; with JSON most
# of its files see those of JSON, which cost each of them some seconds. Both are precompiled.
function(kerf_library name)
    cmake_parse_arguments(arg "TORCH;JSON" "" "SOURCES;LINK" ${ARGN})
    add_library(${name} STATIC ${arg_SOURCES})
    target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
    target_link_libraries(${name} PUBLIC ${arg_LINK})
    kerf_settings(${name})
    if(arg_TORCH)
        target_link_libraries(${name} PUBLIC LibTorch::LibTorch)
        target_precompile_headers(${name} PRIVATE <ATen/ATen.h>)
    endif()
    if(arg_JSON)
        target_precompile_headers(${name} PRIVATE <nlohmann/json.hpp>)
    endif()
endfunction()

set(KERF_TEST_SHARDS 4)

# kerf_test(name [OWN_PROCESS] SOURCES ... LINK ...): one GoogleTest program, registered with CTest in KERF_TEST_SHARDS parts:
# a process for every test would spend minutes on loading LibTorch. GoogleTest deals its tests out to the parts in turn.
# With OWN_PROCESS, for tests that fork, each test is a part.
# KERF_TEST_DATA is tests/data; KERF_SHARED is ../shared, which a clone need not have.
function(kerf_test name)
    cmake_parse_arguments(arg "OWN_PROCESS" "" "SOURCES;LINK" ${ARGN})
    add_executable(${name} ${arg_SOURCES})
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/tests")
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
    target_link_libraries(${name} PRIVATE ${arg_LINK} GTest::gtest_main)
    target_compile_definitions(${name} PRIVATE KERF_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data"
        KERF_SHARED="${PROJECT_SOURCE_DIR}/../shared" KERF_BUILD="${PROJECT_BINARY_DIR}" KERF_SOURCE="${PROJECT_SOURCE_DIR}")
    kerf_settings(${name})
    target_precompile_headers(${name} PRIVATE <gtest/gtest.h> <nlohmann/json.hpp>)
    # What is tested is optimised; the tests themselves need not be, and compile twice as fast.
    target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
    # gcc 12 sees overlapping copies and ends of strings in "literal" + std::string (its bug 105651); tests are full of these.
    target_compile_options(${name} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict$<SEMICOLON>-Wno-array-bounds>)
    if(arg_OWN_PROCESS)
        include(GoogleTest)
        gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600)
        return()
    endif()
    math(EXPR last "${KERF_TEST_SHARDS} - 1")
    foreach(shard RANGE ${last})
        math(EXPR number "${shard} + 1")
        add_test(NAME ${name}.${number} COMMAND ${name})
        set_tests_properties(${name}.${number} PROPERTIES TIMEOUT 1500
            ENVIRONMENT "GTEST_TOTAL_SHARDS=${KERF_TEST_SHARDS};GTEST_SHARD_INDEX=${shard}")
    endforeach()
endfunction()
