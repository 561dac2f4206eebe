# kerf_embed_text(target file symbol): the text of a file as `std::string_view kerf::core::symbol`, declared in a header that
# lies, below the build's folder, beside the file: core/export/x.py with the symbol `source` gives core/export/source.hpp.
function(kerf_embed_text target file symbol)
    get_filename_component(folder "${file}" DIRECTORY)
    file(RELATIVE_PATH below "${PROJECT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}/${folder}")
    set(base "${PROJECT_BINARY_DIR}/generated/${below}/${symbol}")
    add_custom_command(OUTPUT "${base}.hpp" "${base}.cpp"
        COMMAND ${CMAKE_COMMAND} -D "text=${CMAKE_CURRENT_SOURCE_DIR}/${file}" -D "symbol=${symbol}" -D "base=${base}"
            -D "header=${below}/${symbol}.hpp" -P "${PROJECT_SOURCE_DIR}/cmake/embed_text_script.cmake"
        DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${file}" "${PROJECT_SOURCE_DIR}/cmake/embed_text_script.cmake"
        COMMENT "Embedding ${file}" VERBATIM)
    target_sources(${target} PRIVATE "${base}.cpp" "${base}.hpp")
    target_include_directories(${target} PRIVATE "${PROJECT_BINARY_DIR}/generated")
endfunction()
