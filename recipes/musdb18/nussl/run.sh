#!/usr/bin/env bash
# From nothing to a report with nussl: data, preparation and mixtures, training, evaluation, comparison.

# Exit on error
set -e
set -o pipefail
cd "$(dirname "$0")"

stop_stage=4
last_stage=4
does="A U-Net for MUSDB18 with nussl, compared with nussl's other separators"
compare_epochs=
only=
device=
workers=
own_options=(compare_epochs only device workers)
. ../data.sh
recipe_help="Usage: ./run.sh [--stage 0] [--tag my_tag] [--data demo|musdb7s|musdb18|musdb18hq] [more]

$data_help
  --compare_epochs N   how long stage 4 trains the other networks (8 for demo, else as long as the U-Net)
  --only IDS       stage 4 compares these systems alone, with commas between: unet,unet-plain,blstm,repet,mixture ...
  --device NAME    trains on cpu, cuda ... (a GPU if there is one)
  --workers N      processes that read data while training"
. ../../options.sh

find_songs
if [[ $data == demo || $data == musdb7s ]]; then conf=${conf:-local/conf_demo.yml}; fi
conf=${conf:-local/conf.yml}
case $data in
  demo | musdb7s) takes="about a quarter of an hour on two cores" ;;
  *) takes="hours, and a GPU if there is one" ;;
esac
if [[ $data == demo ]]; then
  # All in a quarter of an hour: BSS Eval takes minutes for each song, with four stems and a dozen systems.
  tracks=${tracks:-3}
  compare_epochs=${compare_epochs:-8}
fi
experiment train_unet
mixtures=$expdir/mixtures

prepare_songs
if staged 1 "Mix"; then
  given jobs
  script mix.py --conf "$conf" "${overrides[@]}" --data_dir "$data_dir" --mixtures "$mixtures" "${options[@]}"
fi

if staged 2 "Train"; then
  given device workers
  script train.py --conf "$conf" "${overrides[@]}" --data_dir "$data_dir" --mixtures "$mixtures" \
    --exp_dir "$expdir" "${options[@]}" | tee -a "$expdir/train.log"
fi

if staged 3 "Evaluate"; then
  given jobs tracks
  script eval.py --exp_dir "$expdir" --data_dir "$data_dir" --source "$source" "${options[@]}" |
    tee "$expdir/eval.log"
fi

if staged 4 "Compare"; then
  epochs=$compare_epochs
  given jobs tracks epochs only device
  script compare.py --exp_dir "$expdir" --data_dir "$data_dir" --source "$source" "${options[@]}" |
    tee "$expdir/compare.log"
fi
