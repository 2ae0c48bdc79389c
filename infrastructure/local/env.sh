# The environment of every make recipe, sourced by each (BASH_ENV): `.env`, then what follows from it.
#
# `.env` is read as `dagster dev` reads it (python-dotenv), in Bash, because the first recipe has no Python environment
# yet. No line of it is run: `$(…)`, `` `…` `` and `$NAME` stay as they are; `${NAME}` and `${NAME:-default}` are replaced.
# Stricter than python-dotenv, which passes over a line that it cannot read: such a line ends the recipe. Values are never
# printed.

_env_stop() {
  printf '%s:%s: %s\n' "$1" "$2" "$3" >&2
  # `exit` would close the shell of somebody who sources this file.
  case $- in *i*) return 1 ;; *) exit 2 ;; esac
}

# The escapes that python-dotenv knows within quotes: those in $2; any other backslash stays.
_env_unescape() {
  local rest=$1 known=$2 next
  _value=
  while [[ $rest == *\\* ]]; do
    _value+=${rest%%\\*}
    rest=${rest#*\\}
    next=${rest:0:1}
    if [[ -z $next || $known != *"$next"* ]]; then
      _value+=\\
      continue
    fi
    rest=${rest:1}
    case $next in
      a) _value+=$'\a' ;; b) _value+=$'\b' ;; f) _value+=$'\f' ;; n) _value+=$'\n' ;;
      r) _value+=$'\r' ;; t) _value+=$'\t' ;; v) _value+=$'\v' ;; *) _value+=$next ;;
    esac
  done
  _value+=$rest
}

_env_expand() {
  local rest=$1 name default pattern='^([^}:]*)(:-([^}]*))?\}(.*)$'
  _value=
  while [[ $rest == *'${'* ]]; do
    _value+=${rest%%'${'*}
    rest=${rest#*'${'}
    if ! [[ $rest =~ $pattern ]]; then
      _value+='${'
      continue
    fi
    name=${BASH_REMATCH[1]} default=${BASH_REMATCH[3]} rest=${BASH_REMATCH[4]}
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || return 1
    if [[ -n ${!name+set} ]]; then _value+=${!name}; else _value+=$default; fi
  done
  _value+=$rest
}

_env_read() {
  local file=$1 label=$2 line name space rest number=0
  local assignment='^(export[[:blank:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:blank:]]*=([[:blank:]]*)(.*)$'
  local single="^'(([^'\\\\]|\\\\.)*)'[[:blank:]]*(#.*)?\$" double='^"(([^"\\]|\\.)*)"[[:blank:]]*(#.*)?$'
  [[ -f $file && -r $file ]] || { _env_stop "$label" 1 "the file cannot be read"; return 1; }
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    line=${line#"${line%%[![:blank:]]*}"}
    [[ -z $line || $line == \#* ]] && continue
    if ! [[ $line =~ $assignment ]]; then
      _env_stop "$label" "$number" "expected NAME=value, a comment or an empty line"
      return 1
    fi
    name=${BASH_REMATCH[2]} space=${BASH_REMATCH[3]} rest=${BASH_REMATCH[4]}
    if [[ $rest =~ $single ]]; then
      _env_unescape "${BASH_REMATCH[1]}" "\\'"
    elif [[ $rest =~ $double ]]; then
      _env_unescape "${BASH_REMATCH[1]}" "\\'\"abfnrtv"
    elif [[ $rest == [\'\"]* ]]; then
      _env_stop "$label" "$number" "$name: expected the quote to be closed on this line, and nothing but a comment after it"
      return 1
    elif [[ -n $space && $rest == \#* ]]; then
      _value=
    else
      rest=${rest%%[[:blank:]]#*}
      _value=${rest%"${rest##*[![:blank:]]}"}
    fi
    if ! _env_expand "$_value"; then
      _env_stop "$label" "$number" "$name: expected \${NAME} or \${NAME:-default}, with the name of a variable"
      return 1
    fi
    if ! export "$name=$_value" 2>/dev/null; then
      _env_stop "$label" "$number" "$name: the shell does not allow this variable to be set"
      return 1
    fi
  done < "$file"
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
if [ "${LAKEHOUSE_ENV:-local}" = trino ] && [ -z "${LAKEHOUSE_TRINO_HOST:-}" ] && [ -r "$_stack/env" ]; then
  . "$_stack/env"
fi
# One history for each engine: row counts are compared with their own.
if [ -z "${DAGSTER_HOME:-}" ]; then
  DAGSTER_HOME=$_root/.dagster_home
  [ "${LAKEHOUSE_ENV:-local}" = local ] || DAGSTER_HOME=$DAGSTER_HOME/$LAKEHOUSE_ENV
fi
# The materialisations of a run of many partitions are stored together.
: "${DAGSTER_EVENT_BATCH_SIZE:=1000}"
unset _root _stack _value
