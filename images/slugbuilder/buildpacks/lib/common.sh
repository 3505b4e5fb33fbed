# shellcheck shell=bash
# What our buildpacks share. Sourced by bin/compile.

step() { echo "-----> $*"; }

# Says something, or shows what a command prints, indented as people expect it.
say() { printf '       %s\n' "$*"; }
indented() { sed -u 's/^/       /'; }

warn() { printf ' !     %s\n' "$@"; }

fail() {
    warn "$@"
    exit 1
}

# Exports the app's environment, except what would break the build itself.
export_env_dir() { # env_dir
    local file name
    [[ -n ${1-} && -d $1 ]] || return 0
    for file in "$1"/*; do
        name=${file##*/}
        [[ -f $file && $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || continue
        case $name in
        PATH | HOME | PWD | SHELL | USER | IFS | BASH_ENV | ENV | GIT_DIR | LD_* | CPATH | CPPATH | PYTHONHOME | PORT) ;;
        *) export "$name=$(cat "$file" && printf x)" && export "$name=${!name%x}" ;;
        esac
    done
}

# The digest of some files and words: whether a cached directory still fits.
digest() { # word... -- file...
    local words=()
    while [[ $# -gt 0 && $1 != -- ]]; do words+=("$1") && shift; done
    shift || true
    {
        printf '%s\n' ${words[@]+"${words[@]}"}
        cat -- "$@"
    } | sha256sum | cut -c1-64
}
