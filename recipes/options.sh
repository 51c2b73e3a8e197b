# The options of every recipe; a run.sh sources this after it has set its own variables and $recipe_help.
#
# `--name value` sets the variable `name` if it is one of those below or of run.sh's array `own_options`, and
# `--some-name value` sets `some_name`. Any other name is a key of the configuration, and is kept in the array
# `overrides` for the scripts that read it.
#
# run.sh also sets `stop_stage`, the last stage to run, `last_stage`, the last that there is, `data`, and what the first
# line says: `does`, what the recipe does, and `takes`, how long about; without `does` there is no such line.

stage=0                         # the first stage to run
tag=                            # of the experiment's folder
source=                         # where they are
data_dir=                       # where they are prepared
exp_dir=                        # the experiment's folder
conf=                           # the configuration, a file
tracks=                         # how many test tracks to score
jobs=                           # processes
id=                             # GPUs
python_path=${PYTHON:-python}
known_options=(
  stage stop_stage tag data source data_dir exp_dir conf tracks jobs id python_path does "${own_options[@]}"
)

common_help="  --stage N        begins with stage N (0) and ends with --stop_stage ($stop_stage):
                   0 data, 1 prepare, 2 train, 3 evaluate, 4 compare
  --tag TAG        names the experiment exp/NAME_<tag>; the same tag resumes it. Without one the tag is made from the
                   data and the configuration, so that the same command resumes and another begins anew
  --exp_dir DIR    the experiment's folder, in the place of a tag
  --conf FILE      the configuration
  --data_dir DIR   where the data are prepared (data/prepared/NAME, by --source)
  --tracks N       scores the first N test tracks
  --jobs N         processes that prepare, mix and score (one a core)
  --id IDS         GPUs to use (those of CUDA_VISIBLE_DEVICES, or all)

Every key of the configuration is an option, too, such as --epochs 10; \`python train.py --help\` lists them."

overrides=()
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help)
      printf '%s\n' "$recipe_help" "$common_help"
      exit 0 ;;
    --*=*)
      echo "$0: options are given as '--name value', not as '$1'" >&2
      exit 2 ;;
    --*)
      if [[ $# -lt 2 ]]; then
        echo "$0: $1 needs a value" >&2
        exit 2
      fi
      option=${1#--}
      option=${option//-/_}
      if [[ " ${known_options[*]} " == *" $option "* ]]; then
        printf -v "$option" '%s' "$2"
      else
        overrides+=("$1" "$2")
      fi
      shift 2 ;;
    *)
      echo "$0: unexpected argument '$1'" >&2
      exit 2 ;;
  esac
done

for option in stage stop_stage; do
  if [[ ! ${!option} =~ ^[0-9]$ || ${!option} -gt $last_stage ]]; then
    echo "$0: --$option must be a number from 0 to $last_stage, got '${!option}'" >&2
    exit 2
  fi
done
if [[ $stage -gt $stop_stage ]]; then
  echo "$0: --stage $stage comes after --stop_stage $stop_stage: there is nothing to do" >&2
  exit 2
fi
if [[ $python_path == */* && $python_path != /* ]]; then python_path=$OLDPWD/$python_path; fi
if ! "$python_path" -c 'import svs_unet_plugin' 2>/dev/null; then
  echo "$0: $python_path has no svs_unet_plugin: activate its environment, or name a Python with --python_path;" \
    "'make venv' at the top of the repository makes one, .venv/bin/python" >&2
  exit 2
fi

# Paths are relative to where run.sh was called.
for option in source data_dir exp_dir; do
  if [[ -n ${!option} && ${!option} != /* ]]; then printf -v "$option" '%s' "$OLDPWD/${!option}"; fi
done
if [[ -n $conf && $conf != /* && -f $OLDPWD/$conf ]]; then conf=$OLDPWD/$conf; fi

# given NAME ...: the variables of these names that have a value, as "--name value", in `options`.
given() {
  local name
  options=()
  for name in "$@"; do
    if [[ -n ${!name} ]]; then options+=("--$name" "${!name}"); fi
  done
}

# staged N TITLE: whether stage N is to be run, which it announces.
staged() {
  if [[ $stage -gt $1 || $stop_stage -lt $1 ]]; then return 1; fi
  echo "Stage $1: $2"
}

# script NAME ...: run a Python script, on the GPUs of --id if there is one.
script() { env ${id:+CUDA_VISIBLE_DEVICES="$id"} "$python_path" "$@"; }

svs_unet() { "$python_path" -m svs_unet_plugin.cli "$@"; }

# eight_digits TEXT ...: a name for what the texts say.
eight_digits() {
  "$python_path" -c 'import hashlib, sys; print(hashlib.sha256("\n".join(sys.argv[1:]).encode()).hexdigest()[:8])' "$@"
}

# The first line: what will be done, and about how long it takes.
announce() {
  if [[ -z $does ]]; then return; fi
  echo "$does: stages $stage to $stop_stage. From nothing, this takes $takes."
}

# experiment NAME: sets `expdir` and makes it, after the configuration was found to be a good one.
# $conf is a file, or the name of one in local/.
experiment() {
  local configuration
  if [[ ! -f $conf && -f local/$conf.yml ]]; then conf=local/$conf.yml; fi
  configuration=$("$python_path" train.py --conf "$conf" "${overrides[@]}" --print_config)
  if [[ -z $tag ]]; then tag=$(eight_digits "$data" "$source" "$configuration"); fi
  expdir=${exp_dir:-exp/$1_$tag}
  if [[ ! -d $expdir ]]; then
    made=$expdir
    trap clear_away EXIT
    mkdir -p "$expdir"
  fi
  announce
  echo "The experiment is $expdir"
}

# A call that was refused leaves no folder behind: the experiment that it made goes if it holds no more than empty files.
clear_away() {
  if [[ -z $(find "$made" -type f -size +0) ]]; then
    find "$made" -depth -delete
    if [[ -z $exp_dir ]]; then rmdir exp 2>/dev/null || true; fi
  fi
}
