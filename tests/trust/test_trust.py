"""Stores and models of strangers: nothing runs, nothing is allocated on their word, damage is named."""

from __future__ import annotations

import contextlib
import json
import pickle
import time
import warnings

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd

import nysstream
from benchmarks import fuzz
from nysstream.errors import DataWarning, NysstreamError, SourceError
from nysstream.memory import peak_resident_bytes
from nysstream.sources.decoding import CRC32C, Fletcher, Zstd
from nysstream.sources.verifying import refuse_impossible, verify

N_ROWS, N_COLUMNS = 400, 5


@pytest.fixture
def rows(rng):
    """Draw rows."""
    return rng.standard_normal((N_ROWS, N_COLUMNS)).astype(np.float32)


class Runs:
    """What leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_no_codec_runs_what_it_reads(zarr_format, tmp_path):
    mark, store = tmp_path / "mark", tmp_path / "a.zarr"
    zarr.open_group(store, mode="w", zarr_format=zarr_format).create_array(
        "x", data=np.zeros((4, 2)), chunks=(4, 2), compressors=None
    )
    if zarr_format == 2:
        about = store / "x" / ".zarray"
        metadata = json.loads(about.read_text())
        metadata["filters"] = [{"id": "pickle", "protocol": 2}]
        chunk = store / "x" / "0.0"
    else:
        about = store / "x" / "zarr.json"
        metadata = json.loads(about.read_text())
        metadata["codecs"].append({"name": "numcodecs.pickle", "configuration": {"protocol": 2}})
        chunk = store / "x" / "c" / "0" / "0"
    about.write_text(json.dumps(metadata))
    chunk.parent.mkdir(parents=True, exist_ok=True)
    chunk.write_bytes(pickle.dumps(Runs(mark)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SourceError, match=r"pickle|cannot be opened"):
            nysstream.open(store, "x").read(slice(0, 4))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [10**15, N_COLUMNS]}, "declares .* chunks: too many"),
        ({"shape": [N_ROWS, 10**12]}, "declares 1,000,000,000,000 columns"),
        ({"chunk": [10**7, 10**6]}, r"declares chunks of .*TiB|declares chunks of .*memory"),
        ({"chunk": [1, 1], "shape": [10**9, 5]}, "too many"),
    ],
)
def test_declared_sizes_are_not_believed(change, message, rows, tmp_path):
    nysstream.convert(rows, tmp_path / "a.zarr", chunk_rows=100, memory="8GiB")
    path = tmp_path / "a.zarr" / "x" / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"].pop("committed_rows", None)
    metadata["shape"] = change.get("shape", metadata["shape"])
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = change.get("chunk", [100, N_COLUMNS])
    path.write_text(json.dumps(metadata))
    about = tmp_path / "a.zarr" / "zarr.json"
    group = json.loads(about.read_text())
    group["attributes"] = {}
    group.pop("consolidated_metadata", None)
    about.write_text(json.dumps(group))
    before, began = peak_resident_bytes(), time.monotonic()
    with pytest.raises(SourceError, match=message):
        nysstream.open(tmp_path / "a.zarr", "x")
    assert peak_resident_bytes() - before < 100 << 20
    assert time.monotonic() - began < 30


def test_declared_sizes_of_hdf5_and_of_shards(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", shape=(10**15, 4), chunks=(100, 4), dtype="f4")
        file.create_dataset("wide", shape=(4, 10**12), chunks=(4, 10**5), dtype="f4")
    for name, message in (("x", "too many"), ("wide", "columns")):
        with pytest.raises(SourceError, match=message):
            nysstream.open(tmp_path / "a.h5", name)
    with pytest.raises(SourceError, match="too many"):
        refuse_impossible("s", (100, 1), (10**9, 1), 4, (1, 1))
    for chunk, inner in (((0, 1), (0, 0)), ((10, 1), (20, 1)), ((0, 1), (1, 1))):
        with pytest.raises(SourceError, match="damaged"):
            refuse_impossible("s", (100, 1), chunk, 4, inner)
    for codec in (Fletcher(), CRC32C()):
        with pytest.raises(ValueError, match="checksum"):
            codec.decode(np.zeros(3, np.uint8), np.zeros(0, np.uint8))


@pytest.mark.parametrize("declared", [10, 1000, 10**12])
def test_frames_do_not_outgrow_their_chunk(declared):
    frame = bytearray(zstd.compress(bytes(1000), 1))
    assert frame[4] >> 6 == 1  # two bytes of content size, less 256
    if declared != 1000:
        frame[4] |= 0xC0  # eight bytes of it
        frame[5 if frame[4] & 0x20 else 6 :][:0] = b""
        start = 5 if frame[4] & 0x20 else 6
        frame[start : start + 2] = declared.to_bytes(8, "little")
    out = np.empty(1000, np.uint8)
    if declared == 1000:
        Zstd().decode(np.frombuffer(frame, np.uint8), out)
        assert not out.any()
    else:
        with pytest.raises((ValueError, RuntimeError)):
            Zstd().decode(np.frombuffer(bytes(frame), np.uint8), out)
    with pytest.raises((ValueError, RuntimeError)):
        Zstd().decode(np.frombuffer(zstd.compress(bytes(10), 1), np.uint8), out)


@pytest.mark.parametrize("kind", ["zarr", "shards", "csr", "h5"])
def test_what_is_stored_is_compared_with_its_checksums(kind, rows, tmp_path):
    path = tmp_path / ("a.h5" if kind == "h5" else "a.zarr")
    if kind == "zarr":
        nysstream.convert(rows, path, chunk_rows=100, memory="8GiB")
    elif kind == "shards":
        zarr.open_group(path, mode="w").create_array(
            "x",
            data=rows,
            chunks=(50, N_COLUMNS),
            shards=(100, N_COLUMNS),
            compressors=[zarr.codecs.Crc32cCodec()],
        )
    elif kind == "csr":
        import scipy.sparse

        nysstream.convert(scipy.sparse.csr_array(rows), path, memory="8GiB")
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=rows, chunks=(100, N_COLUMNS), fletcher32=True)
    source = nysstream.open(path, "x", verify=True)
    assert source.checksums
    victim = path
    if kind != "h5":
        victim = next(p for p in sorted(path.rglob("c/*")) if p.is_file() or (p / "0").is_file())
        victim = victim if victim.is_file() else victim / "0"
    content = bytearray(victim.read_bytes())
    where = content.index(rows[200].tobytes()) if kind == "h5" else len(content) // 3
    content[where] ^= 4
    victim.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        nysstream.open(path, "x", verify=True)


def test_a_store_without_checksums_is_said_to_have_none(rows, tmp_path):
    nysstream.convert(rows, tmp_path / "a.zarr", checksum=False, memory="8GiB")
    source = nysstream.open(tmp_path / "a.zarr", "x")
    assert not source.checksums
    with pytest.warns(DataWarning, match="stores no checksums"):
        verify(source)
    np.save(tmp_path / "a.npy", rows)
    with pytest.warns(DataWarning, match="stores no checksums"):
        nysstream.open(tmp_path / "a.npy", verify=True)


def test_the_command_line_verifies(rows, tmp_path):
    from typer.testing import CliRunner

    from nysstream.cli.main import app

    store = tmp_path / "a.zarr"
    nysstream.convert(rows, store, target=rows[:, 0].astype(np.float64), chunk_rows=100, memory="8GiB")

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    assert run("info", store, "--verify").exit_code == 0
    assert run("fit", "ridge", store, "--data", "x", "--verify").exit_code == 0
    chunk = store / "x" / "c" / "2" / "0"
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    for command in (("info", store, "--verify"), ("fit", "ridge", store, "--data", "x", "--verify")):
        done = run(*command)
        assert done.exit_code == 2
        assert "CRC-32C checksum does not match" in done.output


def test_converted_chunks_with_checksums_are_decoded_here(rows, tmp_path):
    for codec in ("blosc-lz4", "zstd", "gzip", "none"):
        nysstream.convert(rows, tmp_path / f"{codec}.zarr", codec=codec, memory="8GiB")
        source = nysstream.open(tmp_path / f"{codec}.zarr", "x")
        assert source._reader().layout.chunk is not None
        assert source.checksums
        np.testing.assert_array_equal(source.read(slice(0, N_ROWS)), rows)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Make a store of each kind, and know what reading it answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fuzz.Bench(tmp_path_factory.mktemp("fuzz"))


@given(data=st.data())
@settings(max_examples=60)
def test_metadata_of_any_kind_end_in_our_errors_or_right_answers(data, corpus):
    class Drawn(fuzz.Choices):
        def integer(self, low, high):
            return data.draw(st.integers(low, high))

    name = data.draw(st.sampled_from(["blosc-lz4.zarr", "shards.zarr", "old.zarr", "csr.zarr", "model.zarr"]))
    files = [file for file in corpus.files[name] if "/c/" not in file and file[-1] not in "0123456789"]
    file = corpus.corpus / name / data.draw(st.sampled_from(files))
    before = file.read_bytes()
    content = fuzz.damage(Drawn(), before, is_json=True)
    try:
        file.unlink() if content is None else file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(NysstreamError):
                fuzz.answer(corpus.corpus / name)
    finally:
        file.write_bytes(before)
    assert fuzz.answer(corpus.corpus / name) == corpus.answers[name]


def test_damaged_files_crash_nothing():
    said = []
    outcomes = fuzz.run(1_000_000, 250, say=said.append)
    assert sum(outcomes.values()) == 250
    assert outcomes["FAILED"] == 0, said
    assert outcomes["SourceError"] > 50
    assert outcomes["right"] > 10
