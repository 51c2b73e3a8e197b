# given NAME ...: sets `options` to those that have a value, as "--name value".
given() {
  local name
  options=()
  for name in "$@"; do
    if [[ -n ${!name} ]]; then options+=("--$name" "${!name}"); fi
  done
}
