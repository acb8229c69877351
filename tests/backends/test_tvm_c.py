"""A compiled model from C: the public header, a library that is linked and one that is opened, LiteRT's outputs."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from backends.compiled import EXACT, Array, own_isa

from edgecompile.backends.litert import REFERENCE, LiteRtRunner
from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.planner import Planner
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read

SAMPLES = 16
PROGRAM = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "edgecompile.h"

#ifdef OPENED /* as a program does that has several models */
#define FUNCTION(name) __typeof__(name) *name##_ = (__typeof__(name) *)dlsym(library, #name)
#else
#define FUNCTION(name) __typeof__(name) *name##_ = name
#endif

int main(int count, char **words) {
    size_t taken = (size_t)atol(words[1]), given = (size_t)atol(words[2]);
    int threads = atoi(words[3]), samples = atoi(words[4]);
#ifdef OPENED
    void *library = dlopen(words[5], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return fprintf(stderr, "%s\n", dlerror()), 1;
#endif
    FUNCTION(edgecompile_open);
    FUNCTION(edgecompile_close);
    FUNCTION(edgecompile_run);
    FUNCTION(edgecompile_profile);
    FUNCTION(edgecompile_peaks);
    FUNCTION(edgecompile_error);
    FUNCTION(edgecompile_signature);
    (void)count;
    if (edgecompile_open_(0) != NULL) return 2;
    fprintf(stderr, "%s\n%s\n", edgecompile_error_(), edgecompile_signature_());
    edgecompile_model *model = edgecompile_open_(threads), *other = edgecompile_open_(1);
    void *input = aligned_alloc(EDGECOMPILE_ALIGNED, (taken + 63) / 64 * 64);
    void *output = aligned_alloc(EDGECOMPILE_ALIGNED, (given + 63) / 64 * 64);
    void *again = aligned_alloc(EDGECOMPILE_ALIGNED, (given + 63) / 64 * 64);
    const void *inputs[] = {input};
    void *outputs[] = {output}, *others[] = {again};
    double seconds[1000] = {0}, found[3] = {0}, total = 0;
    if (model == NULL || other == NULL) return 3;
    for (int i = 0; i < samples; i++) {
        if (fread(input, 1, taken, stdin) != taken) return 4;
        if (edgecompile_run_(model, inputs, outputs)) return fprintf(stderr, "%s\n", edgecompile_error_()), 5;
        if (edgecompile_profile_(other, inputs, others, seconds) || memcmp(output, again, given)) return 6;
        fwrite(output, 1, given, stdout);
    }
    for (int i = 0; i < 1000; i++) total += seconds[i];
    if (edgecompile_peaks_(found)) return 7;
    edgecompile_close_(other);
    edgecompile_close_(model);
    edgecompile_close_(NULL);
    free(input), free(output), free(again);
    return total > 0 && found[0] > 1e6 && found[1] > 1e6 && found[2] > 1e6 ? 0 : 8;
}
"""
HEADER = "edgecompile.h"


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keyword network as a library, the header and the program."""
    folder, isa = tmp_path_factory.mktemp("c"), own_isa()
    model = read(data / "models/mlperf_tiny/kws/kws_ref_model.tflite")
    (folder / "work").mkdir()
    plan = Planner(model, isa, EXACT, 2).run()
    library.build({isa: plan}, own_signature(model), folder / "libkws.so", folder / "work")
    shutil.copy(str(files("edgecompile.backends.tvm").joinpath(HEADER)), folder)
    (folder / "main.c").write_text(PROGRAM)
    return folder


@pytest.fixture(scope="module")
def keywords(data: Path) -> tuple[Array, Array]:
    """(int8 samples, what LiteRT's reference kernels make of them)"""
    runner = LiteRtRunner(data / "models/mlperf_tiny/kws/kws_ref_model.tflite", REFERENCE)
    with np.load(data / "kws/kws01_mlperf1000.npz") as saved:
        x = saved["int8"][:SAMPLES].reshape(SAMPLES, 49, 10, 1)
    (found,) = runner.run({"input_1": x}).values()
    return x, found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("opened", [False, True], ids=["linked", "opened"])
def test_a_program_in_c(opened: bool, threads: int, built: Path, keywords: tuple[Array, Array]) -> None:
    x, expected = keywords
    how = ["-DOPENED", "main.c", "-ldl"] if opened else ["main.c", "-L.", "-lkws", "-Wl,-rpath,$ORIGIN"]
    compiled = subprocess.run(
        ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", "main", *how], cwd=built, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr
    words = map(str, (x[0].nbytes, expected[0].nbytes, threads, SAMPLES, built / "libkws.so"))
    done = subprocess.run([built / "main", *words], input=x.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    said, signature, *_ = done.stderr.decode("ascii").splitlines()
    assert said == "the number of threads is 1 to 64"
    assert '"input_1"' in signature
    assert np.array_equal(np.frombuffer(done.stdout, np.int8).reshape(expected.shape), expected)
    assert len(np.unique(expected, axis=0)) > 1


def test_the_headers_say_all_that_a_library_exports(built: Path) -> None:
    """What a program needs, and what checks need."""
    header = (built / HEADER).read_text() + files("edgecompile.backends.tvm").joinpath("variants.h").read_text()
    declared = set(re.findall(r"(edgecompile_[a-z_]+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)))
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", "libkws.so"], cwd=built, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in listed.splitlines() if "edgecompile_" in line} == declared


def test_the_header_is_cpp_too(built: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("the Debian package g++ is not installed")
    done = subprocess.run(
        ["g++", "-x", "c++", "-Wall", "-Werror", "-fsyntax-only", HEADER], cwd=built, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
