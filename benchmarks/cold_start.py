"""How long the command takes, from its start to the written stems, beside Open-Unmix's and HT Demucs's.

    python benchmarks/cold_start.py --minutes 3

Each run is a process of its own, and the systems take turns. ``umx`` and ``demucs`` are run by this file with
the settings of their command lines and random weights, since their own programs need a torchaudio that reads
files, and downloads; reading and writing are soundfile's here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import soundfile

SAMPLE_RATE = 44_100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of stereo to separate (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="turns for each system (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="that each may use (default 2)")
    parser.add_argument("--run", choices=("umx", "demucs"), help=argparse.SUPPRESS)
    parser.add_argument("--song", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_peer(options.run, options.song, Path(options.out), options.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder, "song.wav")
        samples = round(options.minutes * 60 * SAMPLE_RATE)
        noise = 0.1 * np.random.default_rng(0).standard_normal((samples, 2), np.float32)
        soundfile.write(song, noise, SAMPLE_RATE, subtype="PCM_16")
        peer = [sys.executable, __file__, "--threads", f"{options.threads}", "--song", str(song)]
        ours = [str(Path(sys.executable).with_name("svs-unet")), "separate", str(song), "--quiet"]
        commands = {
            "svs-unet --version": [ours[0], "--version"],
            "import torch": [sys.executable, "-c", "import torch"],
            "svs-unet separate, 10 s": [*ours, "--duration", "10"],
            "svs-unet separate": ours,
            "svs-unet separate --weights small": [*ours, "--weights", "small"],
            "umx": [*peer, "--run", "umx"],
            "demucs": [*peer, "--run", "demucs"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        environment = {**os.environ, "OMP_NUM_THREADS": f"{options.threads}"}
        for turn in range(options.rounds):
            for number, (name, command) in enumerate(commands.items()):
                out = Path(folder, f"out {turn} {number}")
                where = [] if "--version" in command or "-c" in command else ["--out", str(out)]
                start = time.perf_counter()
                subprocess.run([*command, *where], check=True, env=environment, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - start)
                print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
        print(f"{options.minutes:g} minutes of stereo, {options.threads} threads, {options.rounds} turns\n")
        print("| command | seconds | ÷ svs-unet separate |\n|---|---:|---:|")
        for name, taken in seconds.items():
            ratios = [a / b for a, b in zip(taken, seconds["svs-unet separate"], strict=True)]
            print(f"| {name} | {median(taken):.2f} | {median(ratios):.2f} |")


def run_peer(name: str, song: str, out: Path, threads: int) -> None:
    """What a peer's command does: read, separate into its four stems, write them as 16-bit WAV."""
    import torch
    from peers import ht_demucs, open_unmix

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    separate = open_unmix(cpu, "umxl") if name == "umx" else ht_demucs(cpu, shifts=1)
    audio, sample_rate = soundfile.read(song, dtype="float32", always_2d=True)
    out.mkdir()
    for number, stem in enumerate(separate(torch.from_numpy(audio.T))[0]):
        soundfile.write(out / f"{number}.wav", stem.T.numpy(), sample_rate, subtype="PCM_16")


if __name__ == "__main__":
    main()
