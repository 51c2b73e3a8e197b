# Options of a script that sources this file: `--name value` sets the variable `name`, `--some-name value` sets
# `some_name`. The variables, with their defaults, are set before; a name that is not set is an error. A variable
# whose default is true or false takes nothing else. `--help` prints $help_message.

while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help)
      printf '%s\n' "${help_message:-$0 has no help}"
      exit 0
      ;;
    --*=*)
      echo "$0: options are given as '--name value', not as '$1'" >&2
      exit 1
      ;;
    --*)
      option__=${1#--}
      option__=${option__//-/_}
      if [[ ! $option__ =~ ^[A-Za-z][A-Za-z0-9_]*$ || -z ${!option__+set} ]]; then
        echo "$0: there is no option $1" >&2
        exit 1
      fi
      if [[ $# -lt 2 ]]; then
        echo "$0: $1 needs a value" >&2
        exit 1
      fi
      if [[ ${!option__} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
        echo "$0: $1 must be true or false, not '$2'" >&2
        exit 1
      fi
      printf -v "$option__" '%s' "$2"
      shift 2
      ;;
    *)
      break
      ;;
  esac
done
unset option__
