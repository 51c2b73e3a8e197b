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
seconds=480                     # the time that all of it is to fit into
enough_steps=320                # after which a network that learns has passed 8 dB with ease
data=demo
stop_stage=5
last_stage=5
does="A U-Net for synthetic songs"
takes="three to eight minutes on two cores"
song=
steps=
own_options=(song steps)
recipe_help="Usage: ./run.sh [--song FILE] [--steps N] [more]

  --song FILE      the song that stage 5 separates (the one in the package stempeg)
  --steps N        how long to train, a multiple of $epoch_steps, and by the paper's network; without it, as long as fits
                   into eight minutes, up to 520 steps, and by a smaller network on slow machines"
. ../options.sh

refuse() {
  echo "$*" >&2
  exit 2
}
for option in source data_dir exp_dir conf tag; do
  if [[ -n ${!option} ]]; then refuse "the demo takes no --$option: recipes/musdb18/nussl does"; fi
done
if [[ $data != demo ]]; then refuse "the demo takes no --data: recipes/musdb18/nussl does"; fi
if [[ -n $steps && (! $steps =~ ^[1-9][0-9]*$ || $((steps % epoch_steps)) != 0) ]]; then
  refuse "--steps must be a multiple of $epoch_steps, got '$steps'"
fi
if [[ -z $steps && " ${overrides[*]} " == *" --"@(channels|epochs)" "* ]]; then
  refuse "without --steps the demo chooses --channels and --epochs itself"
fi
if [[ -z $song ]]; then
  song=$("$python_path" -c 'import stempeg; print(stempeg.example_stem_path())')
elif [[ $song != /* ]]; then
  song=$OLDPWD/$song
fi
if [[ ! -f $song ]]; then refuse "there is no song $song"; fi

out=$(cd ../.. && pwd)/exp/demo
expdir=$out/train${steps:+_${steps}_steps}

# stages FIRST LAST [more options]: those of the recipe that lie among ours.
stages() {
  local first=$(($1 > stage ? $1 : stage)) last=$(($2 < stop_stage ? $2 : stop_stage))
  if [[ $first -gt $last ]]; then return; fi
  given jobs tracks id
  ../musdb18/nussl/run.sh --does "" --python_path "$python_path" --stage "$first" --stop_stage "$last" \
    --data demo --demo_tracks 60 --demo_rate 44100 --source "$out/corpus" --data_dir "$out/prepared" \
    --conf "$PWD/local/conf.yml" --exp_dir "$expdir" --epoch_steps $epoch_steps --tracks 10 \
    --only unet,mixture,irm-8192 "${options[@]}" "${overrides[@]}" "${@:3}"
}

announce
stages 0 1
if [[ $stop_stage -ge 2 ]]; then
  if [[ -n $steps ]]; then
    size=(--epochs $((steps / epoch_steps)))
  elif [[ -f $expdir/conf.yml ]]; then
    # An experiment that was begun goes on as it was begun.
    read -r channels epochs < <("$python_path" -c '
import sys, yaml
conf = yaml.safe_load(open(sys.argv[1]))
print(conf["channels"], conf["epochs"])' "$expdir/conf.yml")
    size=(--channels "$channels" --epochs "$epochs")
  else
    fitted=$(script fit.py --seconds $((seconds - SECONDS)) --conf local/conf.yml --data_dir "$out/prepared" \
      "${overrides[@]}")
    read -r channels epochs <<< "$fitted"
    echo "On this machine, $epochs epochs of $epoch_steps steps with $channels channels fit into eight minutes"
    size=(--channels "$channels" --epochs "$epochs")
  fi
  stages 2 4 "${size[@]}"
fi

if [[ $stage -le 4 && $stop_stage -ge 4 && ${steps:-$enough_steps} -ge $enough_steps ]]; then
  "$python_path" - "$expdir/scores.csv" <<'PYTHON'
import sys

import pandas as pd

scores = pd.read_csv(sys.argv[1])
of_vocals = scores[(scores.system == "unet") & (scores.source == "vocals") & (scores.metric == "SNR")]
if (reached := of_vocals.score.median()) < 8:
    sys.exit(f"the U-Net reaches {reached:.1f} dB SNR on songs where 8 dB are easy: this is a bug")
print(f"The U-Net's vocals have an SNR of {reached:.1f} dB")
PYTHON
fi
if staged 5 "Separate $song"; then
  cp "$expdir/best_model.pth" "$out/vocals.pth"
  svs_unet separate "$song" --weights "$out/vocals.pth" --out "$out/separated" --overwrite
  printf '%s\n' "$expdir/loss.png" "$expdir/report.html" "$out/vocals.pth"
fi
