#!/usr/bin/env bash
# The usual protocol of MIR-1K, from the clips to the table: data, training, scores.

# Exit on error
set -e
set -o pipefail
cd "$(dirname "$0")"

data=mir1k
stop_stage=3
last_stage=3
does="A U-Net for MIR-1K with nussl"
takes="up to one and a half hours on a core with AMX, by the configuration"
quick=false
published=false
workers=
own_options=(quick published workers)
recipe_help="Usage: ./run.sh [--source CLIPS] [--conf NAME] [--quick true] [more]

  --source DIR     a folder of MIR-1K's clips <singer>_<song>_<clip>.wav or .flac; without one the archive (1 GB) is
                   downloaded
  --conf NAME      the configuration local/NAME.yml, or a file of your own: conf (default) is what came out best, hop768
                   has the paper's hop, jansson2017 is the paper's training; release, small and songs make the bundled weights,
                   free makes those without MIR-1K
  --quick true     trains conf and jansson2017 for 600 steps each, and scores them on 36 clips
  --published true  scores the weights of conf that lie in published/, and trains nothing
  --tracks N       scores the first N clips of each test singer
  --workers N      processes that read data while training"
arguments=("$@")
. ../../options.sh

if [[ $quick == true ]]; then
  here=$PWD
  cd "$OLDPWD"  # where the paths among the arguments are relative to
  for conf in conf jansson2017; do
    "$here/run.sh" --tag quick --epochs 2 --tracks 6 "${arguments[@]}" --quick false --conf "$conf"
  done
  exit
fi
conf=${conf:-conf}
data_dir=${data_dir:-data/mir1k}
name=${conf##*/}
if [[ $published == true ]]; then
  takes="minutes"
  experiment published
else
  experiment "train_${name%.yml}"
fi

if staged 0 "Data" && [[ -z $source ]]; then
  source=$(svs_unet data fetch-mir1k data/original)
fi

if staged 1 "Prepare: clips in $data_dir"; then
  svs_unet data mir1k "${source:-data/original/MIR-1K/Wavfile}" "$data_dir"
fi

if [[ $published != true ]] && staged 2 "Train"; then
  given workers
  script train.py --conf "$conf" "${overrides[@]}" --data_dir "$data_dir" --exp_dir "$expdir" "${options[@]}" |
    tee -a "$expdir/train.log"
fi

if staged 3 "Evaluate"; then
  given jobs tracks
  if [[ $published == true ]]; then options+=(--weights published/conf.pth); fi
  script eval.py --exp_dir "$expdir" --data_dir "$data_dir" "${options[@]}" | tee "$expdir/scores.md"
fi
