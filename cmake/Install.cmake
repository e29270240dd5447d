# What `cmake --install` installs. Programs that were not built are left out, so that a partial build installs too.
#
# The plug-in goes where ggml looks for back-ends (or to CARAVAN_BACKEND_DIR) if that folder lies below the prefix or the
# prefix is the default one. With any other prefix nothing is installed outside of it: the plug-in goes below it, and the
# installation prints how programs find it there.
configure_file(${CMAKE_CURRENT_LIST_DIR}/check_built.cmake.in ${CMAKE_BINARY_DIR}/check_built.cmake @ONLY)
install(SCRIPT ${CMAKE_BINARY_DIR}/check_built.cmake)
install(TARGETS rpc-server rpc-doctor rpc-bench RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} OPTIONAL)
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")

configure_file(${CMAKE_CURRENT_LIST_DIR}/install_plugin.cmake.in ${CMAKE_BINARY_DIR}/install_plugin.cmake @ONLY)
install(SCRIPT ${CMAKE_BINARY_DIR}/install_plugin.cmake)
