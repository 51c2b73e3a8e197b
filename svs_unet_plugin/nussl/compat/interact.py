"""A small page in the browser for any nussl separator: a song in, one player an estimate out.

nussl's own page was written for gradio 2; ``gradio.inputs``, which it is made of, went in gradio 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import gradio

#: Players on the page. Nothing tells how many estimates a separator gives before it has run.
MAX_ESTIMATES = 8

Source = Literal["upload", "microphone"]


def build_interface(
    separator: Any, add_residual: bool = False, source: Source = "upload", label: str | None = None
) -> gradio.Blocks:
    """Make the page, without showing it.

    Args:
        separator: any ``nussl.separation`` object; the songs that people give replace its audio signal.
        add_residual: also play the mixture minus the first estimate.
        source: 'upload' or 'microphone'.
        label: the page's title; by default the separator's class.

    Returns:
        A ``gradio.Blocks``; its endpoint ``/separate`` takes an audio file.

    Raises:
        ImportError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("interact() needs gradio: pip install 'svs_unet_plugin[gradio]'") from error

    def play(path: str | None) -> list[gradio.Audio]:
        if path is None:
            raise gradio.Error("Choose an audio file first.")
        estimates = separate(separator, path, add_residual)
        if len(estimates) > MAX_ESTIMATES:
            raise gradio.Error(f"{len(estimates)} estimates; this page has {MAX_ESTIMATES} players.")
        shown = [gradio.Audio(audio, label=name, visible=True) for name, audio in estimates.items()]
        return shown + [gradio.Audio(None, visible=False)] * (MAX_ESTIMATES - len(shown))

    label = label or f"Separation via {type(separator).__name__}"
    with gradio.Blocks(title=label) as page:
        gradio.Markdown(f"# {label}")
        song = gradio.Audio(sources=[source], type="filepath", label="Mixture")
        button = gradio.Button("Separate", variant="primary")
        players = [
            gradio.Audio(visible=False, interactive=False, format="wav", label=f"Estimate {i}")
            for i in range(MAX_ESTIMATES)
        ]
        button.click(play, song, players, api_name="separate")
    return page


def separate(separator: Any, path: str, add_residual: bool = False) -> dict[str, tuple[int, np.ndarray]]:
    """Separate one file.

    Returns:
        For each estimate its name, and its sample rate in Hz with the samples, int16 ``(samples, channels)``.
    """
    from nussl import AudioSignal

    mixture = AudioSignal(path)
    estimates = separator(audio_signal=mixture)
    names = separator.metadata.get("sources") or [f"Estimate {i}" for i in range(len(estimates))]
    named = {str(name).capitalize(): estimate for name, estimate in zip(names, estimates, strict=True)}
    if add_residual:
        first = estimates[0]
        if mixture.sample_rate != first.sample_rate:  # a deep model answers at its own rate
            mixture.resample(first.sample_rate)
        length = min(mixture.signal_length, first.signal_length)
        rest = mixture.audio_data[:, :length] - first.audio_data[:, :length]
        named["Residual"] = first.make_copy_with_audio_data(rest, verbose=False)
    # Whole numbers: gradio would scale floats to full volume, and nussl's writer wraps around above 1.
    return {
        name: (signal.sample_rate, np.round(np.clip(signal.audio_data.T, -1, 1) * 32767).astype(np.int16))
        for name, signal in named.items()
    }


def interact(
    self: Any,
    add_residual: bool = False,
    source: Source = "upload",
    label: str | None = None,
    share: bool = False,
    inbrowser: bool = False,
    debug: bool = False,
    auth: tuple[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    """Show the page; stands in for ``SeparationBase.interact``.

    Args:
        add_residual, source, label: as in ``build_interface``.
        share: also make a public link, through gradio's servers.
        inbrowser: open a browser.
        debug: block, and print errors.
        auth: user and password that the page asks for.
        **kwargs: for ``gradio.Blocks.launch``.

    Returns:
        What ``launch`` returns: the app, the local address, the public address.
    """
    page = build_interface(self, add_residual=add_residual, source=source, label=label)
    return page.launch(share=share, inbrowser=inbrowser, debug=debug, auth=auth, **kwargs)
