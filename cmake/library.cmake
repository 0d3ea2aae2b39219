# libfh1: the objects of all folders in one static library, installed with headers, a CMake package
# (find_package(fh1), target fh1::fh1) and a pkg-config file (fh1).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(fh1 STATIC)
foreach(objects oracle convert reference_f32 reference_f64 reference_c128 reference_faulty_f32 reference_faulty_f64
        reference_plain golden cuda_names cuda_host cuda_spoiled cuda_spoilers cuda_runtime)
  target_sources(fh1 PRIVATE $<TARGET_OBJECTS:fh1_${objects}>)
endforeach()
set_target_properties(fh1 PROPERTIES LINKER_LANGUAGE C)
target_link_libraries(fh1 PUBLIC PkgConfig::OPENBLAS PkgConfig::CJSON PkgConfig::ZSTD PkgConfig::XXHASH
                      PkgConfig::PCRE2 Threads::Threads stdc++ m)
if(FH1_NVCC)
  target_sources(fh1 PRIVATE $<TARGET_OBJECTS:fh1_cuda_gpu>)
  target_link_libraries(fh1 PUBLIC $<BUILD_INTERFACE:fh1_cublas>)
endif()
target_include_directories(fh1 PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/fh1>)

install(TARGETS fh1 EXPORT fh1Targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
# What the parts of one folder share among themselves is not installed; of the reference only its engines are.
set(FH1_INTERNAL judge_rules.h judge_state.h map_rules.h trace_owner.h report_impl.h clones.h law_impl.h op_case_impl.h
    explain.h find_name.h judge_tally.h fault_cases.h shrink_impl.h report_html.h native_impl.h bnb_state.h bnb_parts.h target_live.h
    adapter_config.h adapter_match.h adapter_parts.h merge_block.h merge_kernel.h merge_plan.h
    convert/fault.h convert/fault_list.h)
foreach(folder oracle convert golden)
  file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.h)
  foreach(internal IN LISTS FH1_INTERNAL)
    list(FILTER headers EXCLUDE REGEX "/${internal}$")
  endforeach()
  install(FILES ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fh1/${folder})
endforeach()
install(FILES ${PROJECT_SOURCE_DIR}/reference/engine.h ${PROJECT_SOURCE_DIR}/reference/faulty.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fh1/reference)
install(FILES ${PROJECT_SOURCE_DIR}/cuda/engine.h ${PROJECT_SOURCE_DIR}/cuda/session.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fh1/cuda)

install(EXPORT fh1Targets NAMESPACE fh1:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fh1)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/fh1Config.cmake.in ${PROJECT_BINARY_DIR}/cmake/fh1Config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fh1)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/fh1ConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/fh1Config.cmake ${PROJECT_BINARY_DIR}/cmake/fh1ConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fh1)

# Relative to the file itself, so that an installed tree can be moved.
file(RELATIVE_PATH FH1_PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${PROJECT_SOURCE_DIR}/cmake/fh1.pc.in ${PROJECT_BINARY_DIR}/cmake/fh1.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cmake/fh1.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
