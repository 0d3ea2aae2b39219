# How kernels are checked on the CPU (cuda/host), and the GPU build.
#
# FH1_CUDA_CHECK, flags of the kernels and of what is linked:
#   memory  MemorySanitizer, of everything, since it must see every write
#   thread  ThreadSanitizer, of kernels alone: the scheduler under them switches stacks and is none of its business
#   races   g++'s instrumentation for threads, answered by our checker (cuda/host/check*.cpp) instead of its library;
#           -fno-tree-sra: 16-byte copies stay whole, entry and exit of functions are of no interest
add_library(fh1_kernel_check INTERFACE)
if(FH1_CUDA_CHECK STREQUAL memory)
  target_compile_options(fh1_flags INTERFACE -fsanitize=memory -fno-omit-frame-pointer)
  target_link_options(fh1_flags INTERFACE -fsanitize=memory)
elseif(FH1_CUDA_CHECK STREQUAL thread)
  target_compile_options(fh1_kernel_check INTERFACE -fsanitize=thread)
  target_link_options(fh1_flags INTERFACE -fsanitize=thread)
elseif(FH1_CUDA_CHECK STREQUAL races)
  target_compile_options(fh1_kernel_check INTERFACE -fsanitize=thread -fno-tree-sra --param tsan-instrument-func-entry-exit=0)
  target_compile_definitions(fh1_flags INTERFACE CU_HOST_CHECK=1)
elseif(FH1_CUDA_CHECK)
  message(FATAL_ERROR "FH1_CUDA_CHECK: expected memory, thread, races or nothing, found '${FH1_CUDA_CHECK}'")
endif()

# The GPU build: nvcc where it is wanted and found, and cuBLASLt, from the toolkit or from FH1_CUBLAS_ROOT. Leaves FH1_NVCC
# (TRUE: there is one) and the target fh1_cublas. Without it the same kernels still run on the CPU (cuda/host).
set(FH1_NVCC FALSE)
if(FH1_CUDA STREQUAL OFF)
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT FH1_CUDA STREQUAL AUTO)
    message(FATAL_ERROR "FH1_CUDA=${FH1_CUDA}, but nvcc is not on the PATH (CUDACXX names one elsewhere)")
  endif()
  message(STATUS "no nvcc: the engine 'cuda' is not built")
  return()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES) # before enable_language: the default is too old for bf16
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real)
endif()
set(CMAKE_CUDA_STANDARD 17)
enable_language(CUDA)
find_package(CUDAToolkit 13.0 REQUIRED)

if(NOT FH1_CUBLAS_ROOT AND DEFINED ENV{FH1_CUBLAS_ROOT})
  set(FH1_CUBLAS_ROOT $ENV{FH1_CUBLAS_ROOT} CACHE PATH "" FORCE)
endif()
# cuBLASLt is opened when the program runs (cuda/blas.h): only its header is needed here, and its folder as a place to look
# in. pip's package has libcublasLt.so.13 and no libcublasLt.so, so the file is named.
find_path(FH1_CUBLAS_INCLUDE cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${FH1_CUBLAS_ROOT}/include NO_DEFAULT_PATH)
find_library(FH1_CUBLASLT NAMES cublasLt libcublasLt.so.13
             HINTS ${CUDAToolkit_LIBRARY_DIR} ${FH1_CUBLAS_ROOT}/lib NO_DEFAULT_PATH)
add_library(fh1_cublas INTERFACE)
target_link_libraries(fh1_cublas INTERFACE CUDA::cudart_static)
if(FH1_CUBLAS_INCLUDE)
  target_include_directories(fh1_cublas SYSTEM INTERFACE ${FH1_CUBLAS_INCLUDE})
else()
  message(STATUS "no cublasLt.h: products use our own kernels (ci/setup --cuda brings cuBLAS; FH1_CUBLAS_ROOT names it)")
endif()
if(FH1_CUBLASLT)
  get_filename_component(FH1_CUBLAS_FOLDER ${FH1_CUBLASLT} DIRECTORY)
  list(APPEND CMAKE_BUILD_RPATH ${FH1_CUBLAS_FOLDER})
endif()
set(FH1_NVCC TRUE)
