# The environment of every make recipe, sourced by each (BASH_ENV): `.env`, then what follows from it.
#
# `.env` is read as `dagster dev` reads it (python-dotenv), in Bash, because the first recipe has no Python environment
# yet. No line of it is run: `$(…)`, `` `…` `` and `$NAME` stay as they are; `${NAME}` and `${NAME:-default}` are replaced.
# Stricter than python-dotenv, which passes over a line that it cannot read: such a line ends the recipe. Values are never
# printed.

_env_stop() {
  printf '%s:%s: %s\n' "$1" "$2" "$3" >&2
  # `exit` would close an interactive shell that sources this file.
  case $- in *i*) return 1 ;; *) exit 2 ;; esac
}

# The escapes that python-dotenv knows within quotes: those in $2; any other backslash stays.
_env_unescape() {
  local _rest=$1 _known=$2 _next
  _value=
  while [[ $_rest == *\\* ]]; do
    _value+=${_rest%%\\*}
    _rest=${_rest#*\\}
    _next=${_rest:0:1}
    if [[ -z $_next || $_known != *"$_next"* ]]; then
      _value+=\\
      continue
    fi
    _rest=${_rest:1}
    case $_next in
      a) _value+=$'\a' ;; b) _value+=$'\b' ;; f) _value+=$'\f' ;; n) _value+=$'\n' ;;
      r) _value+=$'\r' ;; t) _value+=$'\t' ;; v) _value+=$'\v' ;; *) _value+=$_next ;;
    esac
  done
  _value+=$_rest
}

_env_expand() {
  local _rest=$1 _name _default _pattern='^([^}:]*)(:-([^}]*))?\}(.*)$'
  _value=
  while [[ $_rest == *'${'* ]]; do
    _value+=${_rest%%'${'*}
    _rest=${_rest#*'${'}
    if ! [[ $_rest =~ $_pattern ]]; then
      _value+='${'
      continue
    fi
    _name=${BASH_REMATCH[1]} _default=${BASH_REMATCH[3]} _rest=${BASH_REMATCH[4]}
    [[ $_name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || return 1
    if [[ -n ${!_name+set} ]]; then _value+=${!_name}; else _value+=$_default; fi
  done
  _value+=$_rest
}

_env_read() {
  local _file=$1 _label=$2 _line _name _space _rest _number=0
  local _assignment='^(export[[:blank:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:blank:]]*=([[:blank:]]*)(.*)$'
  local _single="^'(([^'\\\\]|\\\\.)*)'[[:blank:]]*(#.*)?\$" _double='^"(([^"\\]|\\.)*)"[[:blank:]]*(#.*)?$'
  [[ -f $_file && -r $_file ]] || { _env_stop "$_label" 1 "the file cannot be read"; return 1; }
  while IFS= read -r _line || [[ -n $_line ]]; do
    _number=$((_number + 1))
    _line=${_line%$'\r'}
    _line=${_line#"${_line%%[![:blank:]]*}"}
    [[ -z $_line || $_line == \#* ]] && continue
    if ! [[ $_line =~ $_assignment ]]; then
      _env_stop "$_label" "$_number" "expected NAME=value, a comment or an empty line"
      return 1
    fi
    _name=${BASH_REMATCH[2]} _space=${BASH_REMATCH[3]} _rest=${BASH_REMATCH[4]}
    if [[ $_rest =~ $_single ]]; then
      _env_unescape "${BASH_REMATCH[1]}" "\\'"
    elif [[ $_rest =~ $_double ]]; then
      _env_unescape "${BASH_REMATCH[1]}" "\\'\"abfnrtv"
    elif [[ $_rest == [\'\"]* ]]; then
      _env_stop "$_label" "$_number" "$_name: expected the quote to be closed on this line, and nothing but a comment after it"
      return 1
    elif [[ -n $_space && $_rest == \#* ]]; then
      _value=
    else
      _rest=${_rest%%[[:blank:]]#*}
      _value=${_rest%"${_rest##*[![:blank:]]}"}
    fi
    if ! _env_expand "$_value"; then
      _env_stop "$_label" "$_number" "$_name: expected \${NAME} or \${NAME:-default}, with the name of a variable"
      return 1
    fi
    if ! export "$_name=$_value" 2>/dev/null; then
      _env_stop "$_label" "$_number" "$_name: the shell does not allow this variable to be set"
      return 1
    fi
  done < "$_file"
}

_root=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
if [ -e "$_root/.env" ]; then
  _env_read "$_root/.env" .env || { unset _root _value; return 1; }
fi
# The project of this repository keeps to every policy; other projects get warnings.
if [ -z "${LAKEHOUSE_DBT_PROJECT_DIR:-}" ]; then
  : "${LAKEHOUSE_STRICT:=true}"
fi
# On Trino, without another one named: the local stack that `make stack-up` started.
_stack=${LAKEHOUSE_STACK_DIR:-$_root/.stack}
_engine=${LAKEHOUSE_ENGINE:-duckdb}
if [ "${LAKEHOUSE_ENV:-local}" = local ] && [ "$_engine" = trino ] || [ "${LAKEHOUSE_ENV:-local}" = trino ]; then
  _trino=yes
fi
if [ "${_trino:-}" = yes ] && [ -z "${LAKEHOUSE_TRINO_HOST:-}" ] && [ -r "$_stack/env" ]; then
  . "$_stack/env"
fi
# One history for each engine: row counts are compared with their own.
if [ -z "${DAGSTER_HOME:-}" ]; then
  DAGSTER_HOME=$_root/.dagster_home
  if [ "${LAKEHOUSE_ENV:-local}" != local ]; then
    DAGSTER_HOME=$DAGSTER_HOME/$LAKEHOUSE_ENV
  elif [ "$_engine" != duckdb ]; then
    DAGSTER_HOME=$DAGSTER_HOME/$_engine
  fi
fi
# Stores the materializations of a run of many partitions in batches.
: "${DAGSTER_EVENT_BATCH_SIZE:=1000}"
unset _root _stack _value _engine _trino
