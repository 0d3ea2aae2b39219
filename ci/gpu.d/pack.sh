# Sourced by ci/gpu: what `ci/gpu pack` leaves in build/gpu-pack, so that a machine with a GPU needs no packages: fh1 and
# the kernel tests in one archive, and checksums of it and of the golden data. They are linked statically but for the C
# library. Two small libraries lie beside them: Debian has no archive of libcjson, and that of libxxhash lacks the
# functions that choose by the processor.

pack=$root/build/gpu-pack

# archive NAME: the static library of a -dev package.
archive() {
    local found
    found=$("${CC:-cc}" -print-file-name="lib$1.a")
    [[ -e $found ]] || refuse "pack needs lib$1.a (ci/setup brings it)"
    realpath "$found"
}

# pack_build: fh1 and the kernel tests for sm_90a in build/gpu-pack.build.
pack_build() {
    local work=$1 cublas launcher=() language
    cublas=$("$root/ci/setup" --cuda) || refuse "pack needs cuBLAS's header: ci/setup --cuda"
    if command -v ccache > /dev/null; then
        for language in C CXX CUDA; do launcher+=("-DCMAKE_${language}_COMPILER_LAUNCHER=ccache"); done
    fi
    mkdir -p "$work/static"
    ln -sf "$(archive stdc++)" "$work/static/libstdc++.a" # found first, so -lstdc++ is static
    cmake -G Ninja -S "$root" -B "$work" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O2 \
        -DCMAKE_CXX_FLAGS_RELEASE=-O2 -DCMAKE_CUDA_FLAGS_RELEASE=-O2 -DCMAKE_SKIP_RPATH=ON \
        -DFH1_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90a-real -DFH1_CUBLAS_ROOT="$cublas" "${launcher[@]}" \
        -Dpkgcfg_lib_OPENBLAS_openblas="$(archive openblas)" -Dpkgcfg_lib_ZSTD_zstd="$(archive zstd)" \
        -Dpkgcfg_lib_PCRE2_pcre2-8="$(archive pcre2-8)" -Dpkgcfg_lib_CHECK_subunit="$(archive subunit)" \
        -DCMAKE_EXE_LINKER_FLAGS="-static-libgcc -L$work/static -Wl,-rpath,'\$ORIGIN',--gc-sections"
    mapfile -t programs < <(ninja -C "$work" -t targets all | sed -n 's/^\(tests\/gpu\/test_cu_[a-z0-9_]*\): .*/\1/p')
    ninja -C "$work" -j "$jobs" fh1 "${programs[@]}"
}

# pack_all: builds and collects; prints what it takes.
pack_all() {
    local work=$root/build/gpu-pack.build program library size
    local -a programs
    command -v nvcc > /dev/null || refuse "pack needs nvcc"
    "$root/ci/setup"
    pack_build "$work"
    rm -rf "$pack" "$work/programs"
    mkdir -p "$pack" "$work/programs"
    for program in fh1 "${programs[@]}"; do strip -o "$work/programs/${program##*/}" "$work/$program"; done
    for library in libcjson.so.1 libxxhash.so.0; do
        cp -L "$("${CC:-cc}" -print-file-name="$library")" "$work/programs/"
    done
    XZ_OPT=-6 tar -C "$work/programs" --owner=0 --group=0 --sort=name -cJf "$pack/programs.tar.xz" .
    { git -C "$root" rev-parse --short=12 HEAD 2> /dev/null || echo unknown; } > "$pack/commit"
    (cd "$root" && find build/gpu-pack golden/{models,gradients,traces,merges,configs,native,suite.json} -type f \
        ! -name files.sha256 -print0 | LC_ALL=C sort -z | xargs -0 sha256sum > "$pack/files.sha256")
    size=$(du -sm "$pack" | cut -f 1)
    echo "ci/gpu: $pack: $size MiB ($(du -sm "$work/programs" | cut -f 1) unpacked), fh1 and ${#programs[@]} tests"
    ((size < 60)) || refuse "the pack is larger than 60 MiB"
}

# pack_open: unpacks; fails when a file of the pack or of the golden data is missing or another one.
pack_open() {
    [[ -f $pack/files.sha256 ]] && (cd "$root" && sha256sum --quiet --check "$pack/files.sha256") &&
        rm -rf "$pack/programs" && python3 -m tarfile -e "$pack/programs.tar.xz" "$pack/programs"
}
