# Targets named after llama.cpp's tools: each makes, in bin/, a launcher for the installed tool that loads our plug-in.
# (An installed Caravan needs none: ggml finds it by itself.)
set(CMAKE_IGNORE_PATH ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
foreach(tool IN ITEMS llama-bench llama-batched-bench llama-cli llama-completion llama-perplexity llama-server)
  find_program(CARAVAN_PROGRAM_${tool} ${tool})
  mark_as_advanced(CARAVAN_PROGRAM_${tool})
  if(CARAVAN_PROGRAM_${tool})
    set(program ${CARAVAN_PROGRAM_${tool}})
    set(plugin $<TARGET_FILE_NAME:ggml-rpc-caravan>)
    configure_file(${CMAKE_CURRENT_LIST_DIR}/launcher.in ${CMAKE_BINARY_DIR}/launchers/${tool}.in @ONLY)
    file(GENERATE OUTPUT ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/${tool} INPUT ${CMAKE_BINARY_DIR}/launchers/${tool}.in
         FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
    add_custom_target(${tool} ALL DEPENDS ggml-rpc-caravan)
  else()
    add_custom_target(${tool} COMMAND ${CMAKE_COMMAND} -E echo "${tool} is not installed: nothing to launch"
                      COMMAND ${CMAKE_COMMAND} -E false)
  endif()
endforeach()
unset(CMAKE_IGNORE_PATH)
