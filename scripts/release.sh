#!/bin/sh
# Make a release: the wheel and the source distribution in dist/, built from a tag and checked.
#
#     git tag v1.2.3 && make release
#
# The tag, __version__ and the topmost section of CHANGELOG.md must name the same version, and nothing may be
# uncommitted; `scripts/release.sh --untagged` makes and checks the files without that, as CI does.
#
# The wheel is built from the source distribution. Alone in a new environment it must be small, bring no torch, and
# separate audio. Then it is installed in another, with nussl and without constraints, and the fast tests of the
# source distribution are run there. TORCH in the environment says what pip is to install for torch ("torch" by
# default).
set -eu
cd "$(dirname "$0")/.."

stop() {
    echo "release: $*" >&2
    exit 1
}

version=$(sed -n 's/^__version__.*"\(.*\)"$/\1/p' svs_unet_plugin/__init__.py)
if [ "${1:-}" != --untagged ]; then
    [ -z "$(git status --porcelain)" ] || stop "something is not committed: git status"
    tag=$(git describe --exact-match --tags --match 'v*' 2>/dev/null) ||
        stop "this commit has no tag: git tag v$version"
    [ "$tag" = "v$version" ] || stop "the tag is $tag, and svs_unet_plugin.__version__ is $version"
    section=$(sed -n 's/^## //p' CHANGELOG.md | head -n 1)
    case $section in
    "$version" | "$version, 20"*) ;; # with the day, or without
    *) stop "the topmost section of CHANGELOG.md is '$section', and not '$version' and the day" ;;
    esac
fi

python=${PYTHON:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH PIP_CONSTRAINT PIP_BUILD_CONSTRAINT

echo "release: build $version"
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install -q build twine
"$work/tools/bin/python" -m build --outdir "$work/dist" . >"$work/build.log" || { cat "$work/build.log"; stop "the build failed"; }
"$work/tools/bin/twine" check --strict "$work"/dist/*

wheel=$work/dist/svs_unet_plugin-$version-py3-none-any.whl
source=$work/dist/svs_unet_plugin-$version.tar.gz
"$work/tools/bin/python" -m zipfile -l "$wheel" >"$work/in_wheel"
tar -tzf "$source" >"$work/in_source"
for name in py.typed pretrained/vocals.pth pretrained/vocals.onnx pretrained/small.pth evaluation/report/report.html; do
    grep -q "^svs_unet_plugin/$name " "$work/in_wheel" || stop "the wheel lacks $name"
done
if grep -E '^(tests|recipes|benchmarks)/' "$work/in_wheel"; then stop "this does not belong in the wheel"; fi
for name in tests/conftest.py recipes/demo/run.sh constraints.txt docs/install.md scripts/release.sh; do
    grep -q "/$name\$" "$work/in_source" || stop "the source distribution lacks $name"
done

echo "release: install it alone"
"$python" -m venv "$work/light"
before=$(du -sm "$work/light" | cut -f 1)
"$work/light/bin/pip" install -q "$wheel"
size=$(($(du -sm "$work/light" | cut -f 1) - before))
[ "$size" -lt 200 ] || stop "it takes $size MB with all that it needs, 200 or more"
"$work/light/bin/python" - "$work/song.wav" <<'EOF'
import importlib.util, sys, numpy, soundfile
assert importlib.util.find_spec("torch") is None, "torch was installed"
noise = numpy.random.default_rng(0).uniform(-0.5, 0.5, (60 * 44_100, 2))
soundfile.write(sys.argv[1], noise, 44_100)
EOF
"$work/light/bin/svs-unet" separate "$work/song.wav" -o "$work/stems" --verbose
"$work/light/bin/python" - "$work/song.wav" "$work/stems/song" <<'EOF'
import sys, numpy, soundfile
song, vocals, rest = (soundfile.read(f"{path}")[0] for path in (sys.argv[1], *(f"{sys.argv[2]}/{name}.wav" for name in ("vocals", "accompaniment"))))
assert numpy.abs(vocals + rest - song).max() < 1e-6 and 0 < numpy.std(vocals) < numpy.std(song)
EOF
echo "release: alone it takes $size MB with all that it needs, and separates a minute of stereo"

echo "release: install it in a new environment"
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q "${TORCH:-torch}" "$wheel[nussl-light]" pytest hypothesis stempeg
"$work/venv/bin/pip" install -q --no-deps nussl==1.1.9
[ "$("$work/venv/bin/svs-unet" --version)" = "$version" ] || stop "svs-unet --version is not $version"

echo "release: run the fast tests"
# The modules under test are those of the wheel: only the tests are taken from the source distribution.
tar -xzf "$source" -C "$work" "svs_unet_plugin-$version/tests" "svs_unet_plugin-$version/pyproject.toml"
(
    cd "$work/svs_unet_plugin-$version"
    "$work/venv/bin/python" -m pytest -q -p no:cacheprovider --doctest-modules \
        tests/test_unet.py tests/test_stft.py tests/test_audio.py tests/test_separator.py tests/test_checkpoint.py \
        tests/test_nussl_model.py tests/test_nussl_needs.py tests/test_nussl_transforms.py
)

mkdir -p dist
rm -f dist/svs_unet_plugin-*
mv "$wheel" "$source" dist/
echo "release: dist/ holds svs_unet_plugin $version"
if [ "${1:-}" != --untagged ]; then
    echo "release: its notes, from CHANGELOG.md:"
    sed -n "/^## $version/,/^## /{/^## /!p;}" CHANGELOG.md
    echo "release: to publish it: git push origin v$version && twine upload dist/*"
fi
