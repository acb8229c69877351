# Sourced by the scripts beside it: changes to the repository's root and keeps .venv up to date.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
VENV=$ROOT/.venv

# Tests and benchmarks find their data here; those that need it skip where it is absent.
if [ -z "${EDGECOMPILE_DATA:-}" ] && [ -d "$ROOT/../shared/data" ]; then
    EDGECOMPILE_DATA=$(cd "$ROOT/../shared/data" && pwd)
    export EDGECOMPILE_DATA
fi

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'Error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  Try: %s\n' "$2" >&2
    exit 1
}

# Ends with a message where $PYTHON (default: python3) can't serve.
check_python() {
    PYTHON=${PYTHON:-python3}
    command -v "$PYTHON" > /dev/null || fail "there is no $PYTHON" "install Python 3.10 to 3.13, or set PYTHON to where it is"
    local version
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
        fail "$PYTHON doesn't run" "set PYTHON to a Python 3.10 to 3.13"
    case $version in
        3.10 | 3.11 | 3.12 | 3.13) ;;
        *) fail "$PYTHON is Python $version; 3.10 to 3.13 are supported" "set PYTHON, such as PYTHON=python3.12" ;;
    esac
    "$PYTHON" -c 'import venv, ensurepip' 2> /dev/null ||
        fail "$PYTHON has no venv with pip in it" "apt-get install python3-venv (python$version-venv where $PYTHON is not Debian's default)"
}

# What an installation depends on. An editable install finds new modules by itself, but not new packages or requirements.
install_digest() {
    {
        cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml"
        "$VENV/bin/python" -c 'import sys; print(sys.version)'
    } | sha256sum | cut -d ' ' -f 1
}

# ensure_venv base|test: .venv with the package (editable), and with the test extra for "test".
ensure_venv() {
    local wanted=$1 requirement=. stamp digest
    # What pip writes to .venv/bin holds the folder's path: a .venv can't be moved.
    if [ -e "$VENV/made-at" ] && [ "$(cat "$VENV/made-at")" != "$ROOT" ]; then
        say "removing .venv, which was made in another folder"
        rm -rf "$VENV"
    elif [ -e "$VENV" ] && ! "$VENV/bin/python" -m pip --version > /dev/null 2>&1; then
        say "removing .venv, which is incomplete"
        rm -rf "$VENV"
    fi
    if [ -e "$VENV" ] && [ -n "${PYTHON:-}" ]; then
        check_python
        local query='import sys; print(sys.version)'
        if [ "$("$PYTHON" -c "$query")" != "$("$VENV/bin/python" -c "$query")" ]; then
            say "removing .venv, which is of another Python than $PYTHON"
            rm -rf "$VENV"
        fi
    fi
    if [ ! -e "$VENV" ]; then
        check_python
        say "making .venv with $("$PYTHON" --version)"
        "$PYTHON" -m venv "$VENV"
        printf '%s\n' "$ROOT" > "$VENV/made-at"
    fi
    digest=$(install_digest)
    # The test extra includes the base install.
    for stamp in "$wanted" test; do
        if [ "$(cat "$VENV/installed-$stamp" 2> /dev/null)" = "$digest" ]; then
            say ".venv is up to date"
            return
        fi
    done
    [ "$wanted" = base ] || requirement=".[$wanted]"
    say "installing the package into .venv: pip install --editable $requirement"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$requirement"
    printf '%s\n' "$digest" > "$VENV/installed-$wanted"
}

# One worker for each processor, but at most 4: each imports TensorFlow (about 1 GB of memory).
test_workers() {
    local n
    n=$(nproc)
    printf '%s\n' "$((n < 4 ? n : 4))"
}
