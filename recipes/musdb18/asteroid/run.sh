#!/usr/bin/env bash
# Prepare data, train, evaluate. Each experiment is a folder exp/train_svsunet_<tag>.

# Exit on error
set -e
set -o pipefail
cd "$(dirname "$0")"

help_message="Usage: ./run.sh [--stage 0] [--tag my_tag] [--data demo|musdb18|musdb18hq] [--source DIR] [more]

  --stage N        0 prepares data, 1 trains, 2 evaluates; it begins with N (0) and ends with --stop_stage (2)
  --tag TAG        name of the experiment; a run of the same name goes on where it was stopped
  --data KIND      demo makes songs up; musdb18 and musdb18hq want --source
  --source DIR     the folder of MUSDB18 or MUSDB18-HQ, with train/ and test/ in it
  --demo_tracks N, --demo_seconds S    how many songs to make up, and how long each
  --id IDS         GPUs to use, as in CUDA_VISIBLE_DEVICES
  --devices N, --num_nodes N, --strategy ddp, --accelerator cpu    for Lightning, as they are
  --jobs N         processes that prepare and score tracks

Everything in local/conf.yml is an option, too: --epochs, --batch_size, --lr, --hop_length ..."

# General
stage=0       # Controls from which stage to start
stop_stage=2
tag=          # Controls the directory name associated to the experiment
python_path=${PYTHON:-python}
id=$CUDA_VISIBLE_DEVICES
jobs=

# Data
data=demo
source=
demo_tracks=60
demo_seconds=20

# Scale-out
devices=
num_nodes=
strategy=
accelerator=

# local/conf.yml; what is empty here is as it is there
segment=
samples_per_track=
random_track_mix=
seed=
channels=
bottleneck=
max_channels=
residual_blocks=
window_length=
hop_length=
optimizer=
lr=
weight_decay=
epochs=
batch_size=
num_workers=
half_lr=
patience=
loss=
gradient_clipping=
precision=
minutes=

. utils/parse_options.sh
. utils/given.sh

case $data in
  demo) source=${source:-data/demo_${demo_tracks}x${demo_seconds}} ;;
  musdb18 | musdb18hq)
    if [[ -z $source ]]; then echo "--data $data needs --source DIR, the folder of $data" >&2; exit 1; fi ;;
  *) echo "--data must be demo, musdb18 or musdb18hq, not '$data'" >&2; exit 1 ;;
esac
data_dir=data/prepared/$(basename "$source")

if [[ $stage -le 0 ]]; then
  echo "Stage 0: Preparing $data in $data_dir"
  if [[ $data == demo ]]; then
    "$python_path" -m svs_unet_plugin.cli data demo "$source" --tracks "$demo_tracks" --seconds "$demo_seconds"
  fi
  given jobs
  "$python_path" -m svs_unet_plugin.cli data prepare "$source" "$data_dir" "${options[@]}"
fi
if [[ $stop_stage -lt 1 ]]; then exit 0; fi

# Generate a random ID for the run if no tag is specified
uuid=$("$python_path" -c 'import uuid; print(str(uuid.uuid4())[:8])')
if [[ -z $tag ]]; then tag=$uuid; fi
expdir=exp/train_svsunet_$tag
mkdir -p "$expdir" && echo "$uuid" >> "$expdir/run_uuid.txt"
echo "Results from the following experiment will be stored in $expdir"

if [[ $stage -le 1 ]]; then
  echo "Stage 1: Training"
  given segment samples_per_track random_track_mix seed channels bottleneck max_channels residual_blocks \
    window_length hop_length optimizer lr weight_decay epochs batch_size num_workers half_lr patience loss \
    gradient_clipping precision minutes devices num_nodes strategy accelerator
  CUDA_VISIBLE_DEVICES=$id "$python_path" train.py --exp_dir "$expdir" --data_dir "$data_dir" \
    --data_name "$data" "${options[@]}" | tee -a "$expdir/train.log"

  # Get ready to publish
  mkdir -p "$expdir/publish_dir"
  echo "musdb18/SVSUNet" > "$expdir/publish_dir/recipe_name.txt"
fi
if [[ $stop_stage -lt 2 ]]; then exit 0; fi

if [[ $stage -le 2 ]]; then
  echo "Stage 2: Evaluation"
  given jobs
  CUDA_VISIBLE_DEVICES=$id "$python_path" eval.py --exp_dir "$expdir" --data_dir "$data_dir" \
    --source "$source" "${options[@]}" | tee -a "$expdir/eval.log"
fi
