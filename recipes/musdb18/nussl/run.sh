#!/usr/bin/env bash
# From nothing to a report: data, preparation, mixtures, training, evaluation, comparison.

# Exit on error
set -e
set -o pipefail
cd "$(dirname "$0")"

help_message="Usage: ./run.sh [--stage 0] [--tag my_tag] [--data demo|musdb18|musdb18hq|musdb7s] [more]

  --stage N        begins with stage N (0) and ends with --stop_stage (5):
                   0 finds and checks the data, 1 prepares it, 2 mixes, 3 trains, 4 evaluates,
                   5 compares with other systems and writes the report
  --tag TAG        the experiment is exp/train_unet_<tag>; one that is there goes on where it was stopped.
                   Without a tag the name is made from the options: the same ones go on, others begin anew
  --data KIND      demo makes songs up; musdb7s downloads the 7-second sample of MUSDB18;
                   musdb18 (.stem.mp4 files) and musdb18hq (WAV folders) want --source
  --source DIR     the folder of the data, with train/ and test/ in it
  --conf FILE      the configuration (local/conf_demo.yml for demo and musdb7s, else local/conf.yml)
  --demo_tracks N, --demo_seconds S, --demo_rate HZ, --demo_stems true
                   made-up songs: how many (50), how long (20), their rate (22050), and whether as .stem.mp4
  --segment S, --trim S    stage 1 cuts training songs at S seconds, and shortens their silences to S
  --score_tracks N     stages 4 and 5 score so many test songs only (3 for demo, else all)
  --jobs N         processes that prepare, mix and score
  --id IDS         GPUs to use, as in CUDA_VISIBLE_DEVICES
  --compare_epochs N   how long stage 5 trains the other networks (8 for demo, else as long as the U-Net)

What stands in the configuration is an option, too: --lr, --epochs, --epoch_steps, --batch_size, --schedule,
--patience, --loss, --seed, --sources, --hop_length, --excerpt_frames, --channels, --bottleneck,
--max_channels, --residual_blocks, --mixing, --mixtures"

# General
stage=0       # Controls from which stage to start
stop_stage=5
tag=          # Controls the directory name associated to the experiment
python_path=${PYTHON:-python}
id=$CUDA_VISIBLE_DEVICES
jobs=
workers=
compare_epochs=

# Data
data=demo
source=
demo_tracks=50
demo_seconds=20
demo_rate=22050
demo_stems=false
segment=
trim=
score_tracks=

# The configuration; what is empty here is as it is there
conf=
lr=
epochs=
epoch_steps=
batch_size=
schedule=
patience=
loss=
seed=
sources=
hop_length=
excerpt_frames=
channels=
bottleneck=
max_channels=
residual_blocks=
mixing=
mixtures=

. utils/parse_options.sh
. utils/given.sh

svs_unet() { "$python_path" -m svs_unet_plugin.cli "$@"; }

# staged N TITLE: says that stage N begins, if it is to be run
staged() {
  if [[ $stage -gt $1 || $stop_stage -lt $1 ]]; then return 1; fi
  echo "Stage $1: $2"
}

case $data in
  demo)
    source=${source:-data/demo_${demo_tracks}x${demo_seconds}_$demo_rate}
    if [[ $demo_stems == true ]]; then source+=_stems; fi
    # All in a quarter of an hour: BSS Eval takes minutes for each song, with four stems and a dozen systems,
    # and twice as long at 44.1 kHz.
    score_tracks=${score_tracks:-3}
    compare_epochs=${compare_epochs:-8} ;;
  musdb7s) source=${source:-data/musdb7s} ;;
  musdb18 | musdb18hq)
    if [[ -z $source ]]; then echo "--data $data needs --source DIR, the folder of $data" >&2; exit 1; fi ;;
  *) echo "--data must be demo, musdb18, musdb18hq or musdb7s, not '$data'" >&2; exit 1 ;;
esac
case $data in
  demo | musdb7s) conf=${conf:-local/conf_demo.yml} ;;
  *) conf=${conf:-local/conf.yml} ;;
esac
prepared=data/prepared/$(basename "$source")${segment:+_segment$segment}${trim:+_trim$trim}

given conf lr epochs epoch_steps batch_size schedule patience loss seed sources hop_length excerpt_frames \
  channels bottleneck max_channels residual_blocks mixing mixtures
configuration=("${options[@]}")
# The name of a run without a tag, eight digits of what makes it what it is; the same command finds it again.
uuid=$({ printf '%s\n' "$source" "$prepared" "${configuration[@]}"; cat "$conf"; } |
  "$python_path" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:8])')
if [[ -z $tag ]]; then tag=$uuid; fi
expdir=exp/train_unet_$tag
mixtures_dir=$expdir/mixtures
mkdir -p "$expdir"
if [[ ! -s $expdir/run_uuid.txt ]]; then echo "$uuid" > "$expdir/run_uuid.txt"; fi
echo "Results from the following experiment will be stored in $expdir"

if staged 0 "Data: $data in $source"; then
  case $data in
    demo)
      if [[ $demo_stems == true ]]; then options=(--stems); else options=(); fi
      svs_unet data demo "$source" --tracks "$demo_tracks" --seconds "$demo_seconds" \
        --rate "$demo_rate" "${options[@]}" ;;
    musdb7s) svs_unet data musdb7s "$source" ;;
  esac
  given jobs
  svs_unet data check "$source" "${options[@]}" | tee "$expdir/data.log"
fi

if staged 1 "Prepare: songs at 8192 Hz in $prepared"; then
  given segment trim jobs
  svs_unet data prepare "$source" "$prepared" "${options[@]}"
fi

if staged 2 "Mix"; then
  given jobs
  "$python_path" mix.py --prepared "$prepared" --out "$mixtures_dir" "${configuration[@]}" "${options[@]}"
fi

if staged 3 "Train"; then
  given workers
  CUDA_VISIBLE_DEVICES=$id "$python_path" train.py --exp_dir "$expdir" --prepared "$prepared" \
    --mixtures_dir "$mixtures_dir" "${configuration[@]}" "${options[@]}" | tee -a "$expdir/train.log"
fi

tracks=$score_tracks
if staged 4 "Evaluate"; then
  given jobs tracks
  CUDA_VISIBLE_DEVICES=$id "$python_path" eval.py --exp_dir "$expdir" --prepared "$prepared" \
    --originals "$source" "${options[@]}" | tee "$expdir/eval.log"
fi

epochs=$compare_epochs
if staged 5 "Compare"; then
  given jobs tracks epochs
  CUDA_VISIBLE_DEVICES=$id "$python_path" compare.py --exp_dir "$expdir" --prepared "$prepared" \
    --originals "$source" --out "$expdir/results" "${options[@]}" | tee "$expdir/compare.log"
fi

skipped=$("$python_path" - "$prepared/prepared.json" <<'PYTHON'
import json, pathlib, sys

path = pathlib.Path(sys.argv[1])
if path.is_file():
    for name, problem in json.loads(path.read_text()).get("skipped", {}).items():
        print(f"{name}: {problem}")
PYTHON
)
if [[ -n $skipped ]]; then
  echo "These tracks could not be used, and are in no number above:"
  echo "$skipped"
fi
if [[ -f $expdir/eval.log ]]; then grep '^ALARM' "$expdir/eval.log" || true; fi
if [[ $stop_stage -ge 5 ]]; then echo "$(pwd)/$expdir/report.html"; fi
