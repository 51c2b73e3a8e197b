#!/usr/bin/env bash
# From nothing to a separated song in minutes: synthetic songs, training, scores, and a real song.
#
# It is the recipe for MUSDB18 with nussl on synthetic songs, with a short configuration, and then
# `svs-unet separate`. The scores only show that the network learns: see `svs-unet data demo`.

# Exit on error
set -e
set -o pipefail
cd "$(dirname "$0")"

epoch_steps=40
enough_steps=520                # after which a network that learns has passed 8 dB with ease
stop_stage=5
song=
steps=$enough_steps
recipe_help="Usage: ./run.sh [--song FILE] [--steps $enough_steps] [more]

  --song FILE      the song that stage 5 separates (the one in the package stempeg)
  --steps N        how long to train, a multiple of $epoch_steps ($enough_steps)"
. ../options.sh

if [[ ! $steps =~ ^[1-9][0-9]*$ || $((steps % epoch_steps)) != 0 ]]; then
  echo "--steps must be a multiple of $epoch_steps, got '$steps'" >&2
  exit 2
fi
song=${song:-$("$python_path" -c 'import stempeg; print(stempeg.example_stem_path())')}
if [[ ! -f $song ]]; then
  echo "there is no song $song" >&2
  exit 2
fi

out=../../exp/demo
mkdir -p "$out"
out=$(cd "$out" && pwd)
expdir=$out/train_${steps}_steps
given jobs tracks
../musdb18/nussl/run.sh --python_path "$python_path" --stage "$stage" --stop_stage "$stop_stage" \
  --data demo --demo_tracks 60 --demo_rate 44100 --source "$out/corpus" --data_dir "$out/prepared" \
  --conf "$PWD/local/conf.yml" --exp_dir "$expdir" --epochs $((steps / epoch_steps)) --epoch_steps $epoch_steps \
  --tracks 10 --only unet,mixture,irm-8192 "${options[@]}" "${overrides[@]}"

if [[ $stop_stage -ge 4 && $steps -ge $enough_steps ]]; then
  "$python_path" - "$expdir/scores.csv" <<'PYTHON'
import sys

import pandas as pd

scores = pd.read_csv(sys.argv[1])
of_vocals = scores[(scores.system == "unet") & (scores.source == "vocals") & (scores.metric == "SNR")]
if (reached := of_vocals.score.median()) < 8:
    sys.exit(f"the U-Net reaches {reached:.1f} dB SNR on songs where 8 dB are easy: this is a bug")
PYTHON
fi
if staged 5 "Separate $song"; then
  cp "$expdir/best_model.pth" "$out/vocals.pth"
  svs_unet separate "$song" --weights "$out/vocals.pth" --out "$out/separated" --overwrite
  printf '%s\n' "$expdir/loss.png" "$expdir/report.html" "$out/vocals.pth"
fi
