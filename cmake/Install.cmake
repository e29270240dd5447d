# Installation. Programs that were not built are skipped, so that a partial build can be installed.
#
# The plug-in is installed into the folder that ggml searches (or CARAVAN_BACKEND_DIR) if that folder is below the prefix or
# the prefix is the default one. With any other prefix it is installed below the prefix, and the installation prints how
# programs find it there.
configure_file(${CMAKE_CURRENT_LIST_DIR}/check_built.cmake.in ${CMAKE_BINARY_DIR}/check_built.cmake @ONLY)
install(SCRIPT ${CMAKE_BINARY_DIR}/check_built.cmake)
install(TARGETS caravan-worker RUNTIME DESTINATION ${caravan_worker_dir} OPTIONAL)
install(TARGETS rpc-server rpc-doctor rpc-bench RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} OPTIONAL)
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES include/caravan.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")

configure_file(${CMAKE_CURRENT_LIST_DIR}/install_plugin.cmake.in ${CMAKE_BINARY_DIR}/install_plugin.cmake @ONLY)
install(SCRIPT ${CMAKE_BINARY_DIR}/install_plugin.cmake)
