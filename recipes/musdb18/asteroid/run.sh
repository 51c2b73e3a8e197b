#!/usr/bin/env bash
# From nothing to scores with asteroid: data, preparation, training, evaluation; and a comparison with --stop_stage 4.

# Exit on error
set -e
set -o pipefail
cd "$(dirname "$0")"

stop_stage=3
last_stage=4
does="A U-Net for MUSDB18 with asteroid"
minutes=
models=
workers=
devices=
num_nodes=
strategy=
accelerator=
precision=
own_options=(minutes models workers devices num_nodes strategy accelerator precision)
. ../data.sh
recipe_help="Usage: ./run.sh [--stage 0] [--tag my_tag] [--data demo|musdb7s|musdb18|musdb18hq] [more]

$data_help
  --workers N      processes that read data while training
  --devices N, --num_nodes N, --strategy ddp, --accelerator cpu, --precision bf16-mixed
                   for Lightning, as they are
  --minutes N      stops training after so many minutes; stage 4 trains each network so long (10)
  --models IDS     stage 4 compares these networks alone, with commas between: svsunet,xumx ..."
. ../../options.sh

find_songs
conf=${conf:-local/conf.yml}
case $data in
  demo | musdb7s) takes="about a quarter of an hour on two cores" ;;
  *) takes="hours, and a GPU if there is one" ;;
esac
experiment train_svsunet

prepare_songs

if staged 2 "Train"; then
  given minutes workers devices num_nodes strategy accelerator precision
  script train.py --conf "$conf" "${overrides[@]}" --data_dir "$data_dir" --data_name "$data" --exp_dir "$expdir" \
    "${options[@]}" | tee -a "$expdir/train.log"
  # Get ready to publish
  mkdir -p "$expdir/publish_dir"
  echo "musdb18/SVSUNet" > "$expdir/publish_dir/recipe_name.txt"
fi

if staged 3 "Evaluate"; then
  given jobs tracks
  script eval.py --exp_dir "$expdir" --data_dir "$data_dir" --source "$source" "${options[@]}" |
    tee "$expdir/eval.log"
fi

if staged 4 "Compare"; then
  given minutes models jobs tracks
  script compare.py --exp_dir "$expdir" --data_dir "$data_dir" --source "$source" "${options[@]}" |
    tee "$expdir/compare.log"
fi
