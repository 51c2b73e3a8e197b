# Stages 0 and 1 of the recipes for MUSDB18: find or make the songs, and bring them to 8192 Hz.
# Sourced by their run.sh, before options.sh. Sets `source` and `data_dir`, the folder of the prepared songs.

data_help="  --data KIND      demo makes synthetic songs; musdb7s downloads the 7-second sample of MUSDB18;
                   musdb18 (.stem.mp4 files) and musdb18hq (WAV folders) need --source
  --source DIR     the folder of the songs, with train/ and test/ in it
  --demo_tracks N, --demo_seconds S, --demo_rate HZ, --demo_stems true
                   synthetic songs: how many (50), how long (20), their rate (22050), and whether as .stem.mp4
  --segment S, --trim S    cuts training songs at S seconds, and shortens their silences to S"

data=demo
demo_tracks=50
demo_seconds=20
demo_rate=22050
demo_stems=false
segment=
trim=
own_options+=(demo_tracks demo_seconds demo_rate demo_stems segment trim)

# find_songs: checks --data and --source.
find_songs() {
  case $data in
    demo)
      source=${source:-data/demo_${demo_tracks}x${demo_seconds}_$demo_rate}
      if [[ $demo_stems == true ]]; then source+=_stems; fi ;;
    musdb7s) source=${source:-data/musdb7s} ;;
    musdb18 | musdb18hq)
      if [[ -z $source ]]; then
        echo "--data $data needs --source DIR, the folder of $data" >&2
        exit 2
      fi ;;
    *)
      echo "--data must be demo, musdb7s, musdb18 or musdb18hq, not '$data'" >&2
      exit 2 ;;
  esac
  if [[ -z $data_dir ]]; then
    local path
    path=$("$python_path" -c 'import os, sys; print(os.path.realpath(sys.argv[1]))' "$source")
    data_dir=data/prepared/$(basename "$source")_$(eight_digits "$path")
    data_dir+=${segment:+_segment$segment}${trim:+_trim$trim}
  fi
}

# prepare_songs: stages 0 and 1.
prepare_songs() {
  if staged 0 "Data: $data in $source"; then
    case $data in
      demo)
        if [[ $demo_stems == true ]]; then options=(--stems); else options=(); fi
        svs_unet data demo "$source" --tracks "$demo_tracks" --seconds "$demo_seconds" --rate "$demo_rate" \
          "${options[@]}" ;;
      musdb7s) svs_unet data musdb7s "$source" ;;
    esac
    given jobs
    svs_unet data check "$source" "${options[@]}"
  fi
  if staged 1 "Prepare: songs at 8192 Hz in $data_dir"; then
    given segment trim jobs
    svs_unet data prepare "$source" "$data_dir" "${options[@]}"
  fi
}
