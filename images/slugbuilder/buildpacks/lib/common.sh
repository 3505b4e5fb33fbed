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

# The app's environment, as words for env(1). Nothing of it becomes a variable of this script: an app may call its own
# `cache`, `build` or `UID`, and means no directory of ours with it.
app_env=()
# What a buildpack sets for the programs it runs; goes before the app's.
settings=()
# Bytes one variable may have, with its name, and all of them together, for the system to start a program.
VARIABLE_MAX=131071
ENVIRONMENT_MAX=1600000

# Reads the app's environment, except what would break the build itself.
read_env_dir() { # env_dir
    local LC_ALL=C file name value bytes total=0
    [[ -n ${1-} && -d $1 ]] || return 0
    for file in "$1"/*; do
        [[ -f $file ]] || continue
        name=${file##*/} value=''
        case $name in
        PATH | HOME | PWD | OLDPWD | SHELL | USER | IFS | ENV | BASH_* | BASHOPTS | SHELLOPTS | PS4 | OPTIND | GIT_* | LD_* | CPATH | CPPATH | PYTHONHOME | PORT) continue ;;
        esac
        # Up to a NUL, of which there is none, so with the line ends at its end.
        IFS= read -r -d '' value <"$file" || true
        bytes=$((${#name} + 1 + ${#value}))
        if ((bytes > VARIABLE_MAX)); then
            warn "$name has $bytes bytes, more than one variable can: the build does without it."
            continue
        fi
        total=$((total + bytes + 9))
        app_env+=("$name=$value")
    done
    ((total <= ENVIRONMENT_MAX)) ||
        fail "The environment of the app has $total bytes; a program can be started with $ENVIRONMENT_MAX at most." \
            'Put what is long into files, or into a database.'
}

# A variable of the app, or a default.
app_var() { # name default
    local word
    for word in "${app_env[@]}"; do
        if [[ $word == "$1="* ]]; then printf '%s' "${word#*=}" && return; fi
    done
    printf '%s' "${2-}"
}

# Whether the app says no to something that is otherwise done.
is_off() { # name
    case $(app_var "$1") in false | 0 | no | off) return 0 ;; *) return 1 ;; esac
}

# Runs a program with the app's environment and the buildpack's settings.
run() { env -- "${app_env[@]}" "${settings[@]}" "$@"; }

# Empties a cache that has grown beyond what is worth its transfer.
bound() { # directory MiB
    local size
    [[ -d $1 ]] || return 0
    size=$(du -sm "$1" | cut -f1)
    if ((size > $2)); then
        say "The cache has grown to $size MiB and is emptied."
        rm -rf "$1"
    fi
}
