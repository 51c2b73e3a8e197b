#!/usr/bin/env bash
# The usual protocol of MIR-1K, from the clips to the table: data, training, scores.

# Exit on error
set -e
set -o pipefail
cd "$(dirname "$0")"

help_message="Usage: ./run.sh [--data_dir CLIPS] [--preset NAME] [--quick true] [more]

  --stage N        begins with stage N (0) and ends with --stop_stage (2): 0 data, 1 train, 2 evaluate
  --data_dir DIR   a folder of MIR-1K's clips <singer>_<song>_<clip>.wav or .flac; without one the archive
                   (1 GB) is downloaded
  --preset NAME    the configuration local/NAME.yml, or a file of your own: conf (default) is what came out
                   best, hop768 has the paper's hop, jansson2017 what the paper tells, release and
                   small are the weights in the box
  --quick true     trains both presets, conf and jansson2017, for 600 steps, and scores them on 36 clips
  --tag TAG        the experiment is exp/train_<preset>_<tag>; one that is there goes on where it was stopped
  --epochs N, --seed N, --every_clip true|false    instead of the configuration's
  --clips N        scores the first N clips of each test singer
  --jobs N         processes that score
  --id IDS         GPUs to use, as in CUDA_VISIBLE_DEVICES"

# General
stage=0       # Controls from which stage to start
stop_stage=2
tag=default   # Controls the directory name associated to the experiment
python_path=${PYTHON:-python}
id=$CUDA_VISIBLE_DEVICES
jobs=2

data_dir=
preset=conf
quick=false
every_clip=
epochs=
seed=
clips=

. utils/parse_options.sh
. utils/given.sh

data=data/mir1k
presets=("$preset")
if [[ $quick == true ]]; then
  presets=(conf jansson2017)
  tag=quick epochs=2 clips=${clips:-6}
fi
given every_clip epochs seed

if [[ $stage -le 0 && $stop_stage -ge 0 ]]; then
  echo "Stage 0: Data"
  if [[ -z $data_dir ]]; then
    data_dir=$("$python_path" -m svs_unet_plugin.cli data fetch-mir1k data/original)
  fi
  "$python_path" -m svs_unet_plugin.cli data mir1k "$data_dir" "$data"
fi

checkpoints=()
for preset in "${presets[@]}"; do
  conf=local/$preset.yml
  if [[ -f $preset ]]; then conf=$preset preset=$(basename "$preset" .yml); fi
  expdir=exp/train_${preset}_$tag
  checkpoints+=("$expdir/checkpoints/best.model.pth")
  if [[ $stage -le 1 && $stop_stage -ge 1 ]]; then
    echo "Stage 1: Train $expdir"
    mkdir -p "$expdir"
    CUDA_VISIBLE_DEVICES=$id "$python_path" train.py --data "$data" --out "$expdir" \
      --conf "$conf" "${options[@]}" | tee -a "$expdir/train.log"
  fi
done

if [[ $stage -le 2 && $stop_stage -ge 2 ]]; then
  echo "Stage 2: Evaluate"
  CUDA_VISIBLE_DEVICES=$id "$python_path" eval.py --data "$data" --checkpoints "${checkpoints[@]}" \
    --jobs "$jobs" ${clips:+--clips "$clips"} | tee "exp/scores_$tag.md"
fi
